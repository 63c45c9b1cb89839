"""Waiting until a connection has settled what was asked of it up to some mark."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Link(Protocol):
    """A connection on which commands are under way."""

    async def told(self, mark: int) -> None:
        """Wait until whoever sent the first `mark` commands knows what became of them, or that nobody does."""

    def give_up(self, reason: str) -> None:
        """Wait for the server no longer."""


class Told:
    """A link whose shard gets another leader: what is under way has some time yet, and is told as unknown then."""

    def __init__(self, link: Link, grace_s: float) -> None:
        self._link = link
        self._grace_s = grace_s

    async def settled(self, mark: int) -> None:
        """Wait until whoever sent the first `mark` commands knows what became of them, or that nobody does."""
        try:
            async with asyncio.timeout(self._grace_s):
                await self._link.told(mark)
        except TimeoutError:
            self._link.give_up("its shard gets another leader")
            await self._link.told(mark)


class Marks:
    """Those who wait, each for its mark; `reached` tells whether one has been reached."""

    def __init__(self, reached: Callable[[int], bool]) -> None:
        self._reached = reached
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def wait(self, mark: int) -> None:
        """Return when the mark has been reached."""
        while not self._reached(mark):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((mark, future))
            await future

    def look(self) -> None:
        """Let those go on whose mark has been reached."""
        if not self._waiting:
            return
        waiting = []
        for mark, future in self._waiting:
            if future.done():
                continue  # who waited has given up
            if self._reached(mark):
                future.set_result(None)
            else:
                waiting.append((mark, future))
        self._waiting = waiting
