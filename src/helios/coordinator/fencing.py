"""Making sure that no router has a fenced command in flight or will send one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing

from helios.coordinator.access import SESSION_PREFIX, Access
from helios.coordinator.publisher import Publisher
from helios.errors import Conflict
from helios.model.codec import decode
from helios.model.topology import Member, NodeKind
from helios.ports.engine import Engine
from helios.ports.store import Compare, Delete
from helios.stores.records import SESSIONS, SessionRecord

_LOOK_AGAIN_S = 0.1
_LEASE_MARGIN_S = 0.5


class Fencing:
    """Waits for acknowledgements of an epoch, and forces off who does not give them.

    A session is deleted from the store before its user goes, so that a router which is about to make
    itself a user on a server learns of it: it re-reads its session before it uses the user.
    """

    def __init__(self, publisher: Publisher, access: Access, *, ack_timeout_s: float) -> None:
        self._publisher = publisher
        self._access = access
        self.ack_timeout_s = ack_timeout_s

    async def settle(self, epoch: int, member: Member) -> int:
        """Return when every session has acknowledged `epoch` or can do nothing on `member` any more.

        The number of sessions forced off. External servers know no users of ours: there a silent
        session is waited out until its lease has ended. Raises EngineUnreachable where the member does
        not answer.
        """
        node = self._publisher.topology.node(member.node)
        if node is not None and node.kind is NodeKind.EXTERNAL:
            await self._wait_out(epoch)
            return 0
        # The way to the server is opened while the routers acknowledge: both are part of the pause.
        opening = asyncio.ensure_future(self._access.administer(member))
        try:
            return await self._settle_users(opening, epoch)
        finally:
            opening.cancel()
            for administrator in await asyncio.gather(opening, return_exceptions=True):
                if not isinstance(administrator, BaseException):
                    await administrator.close()

    async def _settle_users(self, opening: Awaitable[Engine], epoch: int) -> int:
        """Wait for acknowledgements as long as they may take, then end every other session's user."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.ack_timeout_s
        forced = 0
        while True:
            sessions, revision = await self._sessions()
            silent = {session for session, record in sessions.items() if record[0].acked_epoch < epoch}
            left_s = deadline - loop.time()
            if silent and left_s > 0:
                await self._next_change(revision, min(_LOOK_AGAIN_S, left_s))
                continue
            administrator = await opening
            present = await self._session_users(administrator)
            for session in present - sessions.keys() | silent:
                # An expired session has no record any more, but what it sent may still be on its way.
                if await self._revoke(session, sessions.get(session)):
                    await administrator.force_off(SESSION_PREFIX + session)
                    silent.discard(session)
                    forced += 1
            if not silent:
                return forced
            await self._next_change(revision, _LOOK_AGAIN_S)

    async def _sessions(self) -> tuple[dict[str, tuple[SessionRecord, int]], int]:
        snapshot = await self._publisher.store.list(SESSIONS)
        records = ((decode(SessionRecord, entry.value), entry.version) for entry in snapshot.entries)
        return {record.id: (record, version) for record, version in records}, snapshot.revision

    async def _session_users(self, administrator: Engine) -> set[str]:
        users = await administrator.users()
        return {user.removeprefix(SESSION_PREFIX) for user in users if user.startswith(SESSION_PREFIX)}

    async def _next_change(self, revision: int, timeout_s: float) -> None:
        async with aclosing(self._publisher.store.watch(SESSIONS, revision)) as watch:
            try:
                async with asyncio.timeout(max(timeout_s, 0.001)):
                    await anext(watch)
            except TimeoutError:
                pass

    async def _revoke(self, session: str, known: tuple[SessionRecord, int] | None) -> bool:
        """Whether the session is over now; not so where it has just acknowledged, or was just made."""
        key = SESSIONS + session
        version = 0 if known is None else known[1]
        try:
            await self._publisher.write([Delete(key)] if known else [], [Compare(key, version)])
        except Conflict:
            return False
        return True

    async def _wait_out(self, epoch: int) -> None:
        waited = False
        while True:
            sessions, revision = await self._sessions()
            if all(record.acked_epoch >= epoch for record, _ in sessions.values()):
                break
            waited = True
            await self._next_change(revision, _LOOK_AGAIN_S)
        if waited:
            await asyncio.sleep(_LEASE_MARGIN_S)
