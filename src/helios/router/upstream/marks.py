"""Waiting until a connection has settled what was asked of it up to some mark."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


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
