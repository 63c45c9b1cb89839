"""Making sure that no router has a fenced command in flight or will send one."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from helios.coordinator.access import Access
from helios.coordinator.publisher import Publisher
from helios.coordinator.sessions import Sessions
from helios.errors import Conflict, EngineDenied
from helios.model.codec import decode
from helios.model.topology import Member, NodeKind
from helios.ports.engine import Engine, session_of, users_of
from helios.ports.following import next_change
from helios.ports.records import SESSIONS, SessionRecord
from helios.ports.store import Compare, Delete

_LOOK_AGAIN_S = 0.1

# The sessions by id, each with the version of its record, and the revision at which they were listed.
_Listing: TypeAlias = tuple[dict[str, tuple[SessionRecord, int]], int]


class Fencing:
    """Waits for acknowledgements of an epoch, and forces off who does not give them.

    A session is deleted from the store before its user goes, so that a router which is about to make
    itself a user on a server learns of it: it re-reads its session before it uses the user. Who has no user of its own
    there has said so in its session before, and is waited out until its lease has ended.
    """

    def __init__(self, publisher: Publisher, access: Access, sessions: Sessions, *, ack_timeout_s: float) -> None:
        self._publisher = publisher
        self._access = access
        self._sessions = sessions
        self.ack_timeout_s = ack_timeout_s

    async def settle(self, epoch: int, member: Member) -> int:
        """Return when every session has acknowledged `epoch` or can do nothing on `member` any more.

        The number of sessions forced off. A router whose subscriptions at a target of the fence are not confirmed is
        waited for, and not forced off. Raises EngineUnreachable where the member does not answer.
        """
        # The way to the server is opened while the routers acknowledge: both are part of the pause.
        opening = asyncio.ensure_future(self._access.administer(member))
        try:
            return await self._forced_off(await self._acknowledged(epoch), await opening, epoch, member)
        finally:
            opening.cancel()
            for administrator in await asyncio.gather(opening, return_exceptions=True):
                if not isinstance(administrator, BaseException):
                    await administrator.close()

    async def _acknowledged(self, epoch: int) -> _Listing:
        """The sessions when every one is done with the epoch, or when it has had its time for that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.ack_timeout_s
        while True:
            listed, revision = await self._list()
            left_s = deadline - loop.time()
            if left_s <= 0 or all(_is_done(record, epoch) for record, _ in listed.values()):
                return listed, revision
            await next_change(self._publisher.store, SESSIONS, revision, min(_LOOK_AGAIN_S, left_s))

    async def _forced_off(self, listing: _Listing, administrator: Engine, epoch: int, member: Member) -> int:
        """End the users of all sessions that are silent or over; wait for those that cannot be ended."""
        forced = 0
        while True:
            listed, revision = listing
            present = await self._session_users(administrator, member)
            silent = {session for session, (record, _) in listed.items() if record.acked_epoch < epoch}
            as_default = {session for session in silent if member.id in listed[session][0].as_default}
            # An expired session has no record any more, but what it sent may still be on its way.
            for session in [] if present is None else sorted((present - listed.keys()) | (silent - as_default)):
                if await self._revoke(session, listed.get(session)):
                    for user in users_of(session):
                        await administrator.force_off(user)
                    silent.discard(session)
                    forced += 1
            deaf = any(record.deaf for record, _ in listed.values() if record.acked_epoch >= epoch)
            left_s = 0.0 if silent or deaf else self._sessions.left_s(member.id, unknown=present is None)
            if not (silent or deaf or left_s):
                return forced
            await next_change(self._publisher.store, SESSIONS, revision, min(_LOOK_AGAIN_S, left_s or _LOOK_AGAIN_S))
            listing = await self._list()

    async def _list(self) -> _Listing:
        snapshot = await self._publisher.store.list(SESSIONS)
        records = [(decode(SessionRecord, entry.value), entry.version) for entry in snapshot.entries]
        self._sessions.listed(record for record, _ in records)
        return {record.id: (record, version) for record, version in records}, snapshot.revision

    async def _session_users(self, administrator: Engine, member: Member) -> set[str] | None:
        """The sessions that have a user there; None for an external server that does not let us look."""
        try:
            users = await administrator.users()
        except EngineDenied:
            node = self._publisher.topology.node(member.node)
            if node is None or node.kind is not NodeKind.EXTERNAL:
                raise
            return None
        return {session for user in users if (session := session_of(user)) is not None}

    async def _revoke(self, session: str, known: tuple[SessionRecord, int] | None) -> bool:
        """Whether the session is over now; not so where it has just acknowledged, or was just made."""
        key = SESSIONS + session
        version = 0 if known is None else known[1]
        if known:
            self._sessions.revoking(session)
        try:
            await self._publisher.write([Delete(key)] if known else [], [Compare(key, version)])
        except Conflict:
            return False
        return True


def _is_done(record: SessionRecord, epoch: int) -> bool:
    return record.acked_epoch >= epoch and not record.deaf
