"""Making sure that no router has a fenced command in flight or will send one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from helios.coordinator.publisher import Publisher
from helios.coordinator.sessions import Sessions
from helios.errors import Conflict, EngineDenied
from helios.model.topology import Member, NodeKind
from helios.ports.engine import Engine, session_of, users_of
from helios.ports.records import SESSIONS, Record, SessionRecord
from helios.ports.store import Compare, Delete

_LOOK_AGAIN_S = 0.1


class Fencing:
    """Waits for acknowledgements of an epoch, and forces off who does not give them.

    A session is deleted from the store before its user goes, so that a router which is about to make
    itself a user on a server learns of it: it re-reads its session before it uses the user. Who has no user of its own
    there has said so in its session before, and is waited out until its lease has ended.
    """

    def __init__(self, publisher: Publisher, sessions: Sessions, *, ack_timeout_s: float) -> None:
        self._publisher = publisher
        self._sessions = sessions
        self.ack_timeout_s = ack_timeout_s

    async def settle(self, member: Member, administrator: Awaitable[Engine]) -> int:
        """Return when every session has acknowledged the topology or can do nothing on `member` any more.

        The number of sessions forced off. A router whose subscriptions at a target of the fence are not confirmed is
        waited for, and not forced off. Raises what the administrator does, or EngineUnreachable where the member does
        not answer.
        """
        epoch = self._publisher.topology.epoch
        await self._acknowledged(epoch, self._publisher.revision)
        return await self._forced_off(await administrator, epoch, member)

    async def known(self) -> None:
        """Return when every session has acknowledged the topology or is over.

        Nobody is forced off: a router that cannot hear of it is waited for until its lease has ended, also where it was
        forced off elsewhere.
        """
        epoch = self._publisher.topology.epoch
        await self._sessions.look()
        while self._sessions.revoked_left_s() or any(
            record.value.acked_epoch < epoch for record in self._sessions.present.values()
        ):
            await self._sessions.changed(_LOOK_AGAIN_S)
            await self._sessions.look()

    async def end_those_over(
        self, member: Member, present: Collection[str] | None, administer: Callable[[], Awaitable[Engine]]
    ) -> bool:
        """Whether only sessions that the store has can act on `member`; of those that are `present` others are ended.

        One that was forced off elsewhere may go on here, as it was told of the topology last. Who has a user there was
        listed before the sessions were looked at, so that none that was made in between is missed. Raises EngineError.
        """
        over = sorted(set(present or ()) - self._sessions.present.keys())
        if over:
            administrator = await administer()
            try:
                if not all([await self._end(session, None, administrator) for session in over]):
                    return False
            finally:
                await administrator.close()
        return not self._sessions.left_s(member.id, unknown=present is None)

    async def acknowledged(self) -> bool:
        """Whether every session is done with the topology as it is, within its time for that; none is forced off."""
        epoch = self._publisher.topology.epoch
        await self._acknowledged(epoch, self._publisher.revision)
        return all(_is_done(record.value, epoch) for record in self._sessions.present.values())

    async def _acknowledged(self, epoch: int, published: int) -> None:
        """Return when every session is done with the epoch, or has had its time for that.

        None is missed that was there when the epoch was published, at that revision of the store: an acknowledgement
        comes behind it and so behind all of them. Where none comes the store is asked.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.ack_timeout_s
        if not self._sessions.present:
            await self._sessions.look()
        while True:
            are_known = self._sessions.revision >= published
            if are_known and all(_is_done(record.value, epoch) for record in self._sessions.present.values()):
                return
            left_s = deadline - loop.time()
            if left_s <= 0:
                break
            if not await self._sessions.changed(min(_LOOK_AGAIN_S, left_s)):
                await self._sessions.look()
        if not are_known:
            await self._sessions.look()

    async def _forced_off(self, administrator: Engine, epoch: int, member: Member) -> int:
        """End the users of all sessions that are silent or over; wait for those that cannot be ended."""
        forced = 0
        while True:
            listed = self._sessions.present
            present = await self.session_users(administrator, member)
            silent = {session for session, record in listed.items() if record.value.acked_epoch < epoch}
            as_default = {session for session in silent if member.id in listed[session].value.as_default}
            # An expired session has no record any more, but what it sent may still be on its way.
            for session in [] if present is None else sorted((present - listed.keys()) | (silent - as_default)):
                if await self._end(session, listed.get(session), administrator):
                    silent.discard(session)
                    forced += 1
            deaf = any(record.value.deaf for record in listed.values() if record.value.acked_epoch >= epoch)
            left_s = 0.0 if silent or deaf else self._sessions.left_s(member.id, unknown=present is None)
            if not (silent or deaf or left_s):
                return forced
            await self._sessions.changed(min(_LOOK_AGAIN_S, left_s or _LOOK_AGAIN_S))
            await self._sessions.look()

    async def session_users(self, administrator: Engine, member: Member) -> set[str] | None:
        """The sessions that have a user there; None for an external server that does not let us look."""
        try:
            users = await administrator.users()
        except EngineDenied:
            node = self._publisher.topology.node(member.node)
            if node is None or node.kind is not NodeKind.EXTERNAL:
                raise
            return None
        return {session for user in users if (session := session_of(user)) is not None}

    async def _end(self, session: str, known: Record[SessionRecord] | None, administrator: Engine) -> bool:
        """End a session and its users; not so where it has just acknowledged, or was just made."""
        key = SESSIONS + session
        version = 0 if known is None else known.version
        if known:
            self._sessions.revoking(session)
        try:
            await self._publisher.write([Delete(key)] if known else [], [Compare(key, version)])
        except Conflict:
            return False
        for user in users_of(session):
            await administrator.force_off(user)
        return True


def _is_done(record: SessionRecord, epoch: int) -> bool:
    return record.acked_epoch >= epoch and not record.deaf
