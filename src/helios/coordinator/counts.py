"""How many keys servers hold, as far as whoever looks at them has seen."""

from __future__ import annotations

import asyncio


class Counts:
    """Of each leader, by member id. Whoever goes by them is told when they are others."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._changed = asyncio.Event()

    def saw(self, leader: str, keys: int) -> None:
        """A look at a leader has found so many."""
        if self._held.get(leader) != keys:
            self._held[leader] = keys
            self._changed.set()
            self._changed = asyncio.Event()

    def forget(self, leader: str) -> None:
        """It does not answer."""
        self._held.pop(leader, None)

    def of(self, leader: str) -> int | None:
        """What the last look found; None where it got no answer, or there was none."""
        return self._held.get(leader)

    async def changed(self) -> None:
        """Return when a look has found another number than the one before."""
        await self._changed.wait()
