"""Telling servers whom to follow, and asking what they have: as a user of this term, as anything else is told."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from helios.control.failover import Position
from helios.control.silence import Event as SilenceEvent
from helios.control.silence import Lapse, Looked, Silence, step
from helios.coordinator.access import Access, Identity
from helios.coordinator.kept_engines import KeptEngines
from helios.errors import EngineError, EngineUnreachable
from helios.model.topology import Member, Shard
from helios.ports.clock import Clock
from helios.ports.engine import FOLLOWER_PREFIX, Engine, Replication, UserRole

_LOOK_S = 1.0


class Following:
    """Who follows whom, as the servers have it.

    A member is told as a user that a successor of this coordinator ends before it tells it anything else: so no order
    of a coordinator that has been replaced, or that has given one up, is carried out behind a later one.
    """

    def __init__(self, access: Access, clock: Clock, lapse: Lapse | None = None) -> None:
        self._access = access
        self._clock = clock
        # Of its own: the watch looks at the same moments, and would find each other's engine in use.
        self._engines = KeptEngines(access.administer)
        self._ready: dict[Member, Engine] = {}  # to tell servers what to do, while nobody uses them
        self.silence = Silence(lapse)

    async def look(self, member: Member) -> Replication | None:
        """What a server says of itself; None where it does not answer soon."""
        asked_s = self._clock.monotonic()
        try:
            async with self.looking(member) as engine:
                said = await engine.replication()
        except (EngineError, TimeoutError):
            self.note(Looked(member.id, member.node, asked_s, self._clock.monotonic(), answered=False))
            return None
        self.note(Looked(member.id, member.node, asked_s, self._clock.monotonic(), answered=True))
        return said

    @asynccontextmanager
    async def looking(self, member: Member) -> AsyncIterator[Engine]:
        """An engine for one look, with the member's own administrator. Raises EngineError, or TimeoutError soon."""
        async with asyncio.timeout(_LOOK_S), self._engines.engine(member) as engine:
            yield engine

    def note(self, event: SilenceEvent) -> None:
        """Count the silence of servers by this, too."""
        self.silence = step(self.silence, event)

    async def close(self) -> None:
        """End the connections that looks have left open."""
        await self._engines.let_go()

    async def is_empty(self, member: Member) -> bool:
        """Whether a server has no keys. Raises EngineError or Replaced."""
        async with self._telling(member) as engine:
            return not (await engine.vitals()).keys

    async def administer(self, member: Member) -> Engine:
        """An engine with the member's own administrator. Raises EngineError."""
        return await self._access.administer(member)

    async def follow(self, member: Member, leader: Member) -> None:
        """Make a server follow a leader. Raises EngineError or Replaced."""
        user, password = FOLLOWER_PREFIX + member.id, secrets.token_hex(24)
        async with self._telling(leader) as engine:
            await engine.allow(user, password, UserRole.FOLLOWER)
        async with self._telling(member) as engine:
            await engine.follow(leader, user, password)

    async def follow_external(self, member: Member, leader: Member, term: str) -> None:
        """Make a server follow an external leader of the `term` of this history; empty: the leader is alone.

        Should the leader be restarted behind that, it does not know the login any more. Raises EngineError or Replaced.
        """
        user, password = FOLLOWER_PREFIX + member.id, secrets.token_hex(24)
        async with self._telling(leader) as engine:
            await engine.keep_history()
            await engine.allow(user, password, UserRole.FOLLOWER)
            if term and (await engine.replication()).history != term:
                raise EngineUnreachable(f"{leader.id} has been restarted: nobody follows it")
        async with self._telling(member) as engine:
            await engine.follow(leader, user, password)

    async def seal(self, member: Member) -> None:
        """Have a server forget how it logs in to its leader. Raises EngineError or Replaced."""
        async with self._telling(member) as engine:
            await engine.forget_login()

    async def detach(self, member: Member, shard: Shard | None = None) -> Replication:
        """Make a server follow nobody, and acknowledge nothing any more. Raises EngineError or Replaced.

        One that was made fit to lead the `shard`, and whose term nobody has published, does so already: promoted once
        more, it would name its last two histories, of which the shard knows neither.
        """
        async with self._telling(member) as engine:
            if shard is not None:
                said = await engine.replication()
                if said.leads and _stood(said, shard) is not None:
                    return said
            return await engine.detach()

    async def lead(self, member: Member) -> None:
        """Make the only member of a shard take writes. Raises EngineError or Replaced."""
        async with self._telling(member) as engine:
            await engine.promote()

    async def promote(self, member: Member, position: Position, shard: Shard) -> str | None:
        """Make a server fit to lead, and tell the history that it begins; None where it is not where it was.

        Raises EngineError or Replaced.
        """
        async with self._telling(member) as engine:
            if position_of(await engine.replication(), shard) != position:
                return None
            return (await engine.promote()).history

    @asynccontextmanager
    async def ready(self, members: Collection[Member]) -> AsyncIterator[None]:
        """Have a connection to each of these servers at hand, as far as it answers soon: telling it takes no time then.

        It is no worse than one made later, for a successor ends its user before it tells the server anything else.
        Raises Replaced.
        """
        with self._access.identity() as identity:
            try:
                await asyncio.gather(*(self._make_ready(member, identity) for member in members))
                yield
            finally:
                engines = [engine for member in members if (engine := self._ready.pop(member, None)) is not None]
                await asyncio.gather(*(engine.close() for engine in engines))

    async def _make_ready(self, member: Member, identity: Identity) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                self._ready[member] = await self._access.open(member, identity, UserRole.REPLICATOR)
        except (EngineError, TimeoutError):
            pass  # It is told over a connection made then, if it answers.

    @asynccontextmanager
    async def _telling(self, member: Member) -> AsyncIterator[Engine]:
        engine = self._ready.pop(member, None)
        if engine is not None:
            try:
                yield engine
            except BaseException:
                await engine.close()
                raise
            self._ready[member] = engine
            return
        with self._access.identity() as identity:
            engine = await self._access.open(member, identity, UserRole.REPLICATOR)
            try:
                yield engine
            finally:
                await engine.close()


def position_of(said: Replication, shard: Shard) -> Position:
    """How much a detached server has."""
    return _stood(said, shard) or Position(said.history, said.offset)


def _stood(said: Replication, shard: Shard) -> Position | None:
    """Where a server stood when it was made fit to lead; None unless it was, in a term that nobody has published."""
    known = {term.history for term in shard.lineage}
    if said.history in known or said.former_history not in known:
        return None
    return Position(said.former_history, said.former_end)
