"""Engines for who looks at servers again and again: they stay open from one look to the next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

from helios.model.topology import Member
from helios.ports.engine import Engine


class KeptEngines:
    """One for each member, opened when it is first looked at."""

    def __init__(self, open_engine: Callable[[Member], Awaitable[Engine]]) -> None:
        self._open = open_engine
        self._idle: dict[Member, Engine] = {}

    @asynccontextmanager
    async def engine(self, member: Member) -> AsyncIterator[Engine]:
        """An engine for one look; an error that ends the look ends the engine, too. Raises EngineError."""
        engine = self._idle.pop(member, None) or await self._open(member)
        try:
            yield engine
        except BaseException:
            await engine.close()
            raise
        if member in self._idle:  # another look has ended meanwhile
            await engine.close()
        else:
            self._idle[member] = engine

    async def let_go(self, *, but: Collection[Member] = ()) -> None:
        """Close those that no look uses, but for those of these members."""
        for member in self._idle.keys() - set(but):
            await self._idle.pop(member).close()
