"""How many keys servers hold, as far as whoever looks at them has seen."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


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

    def changed(self) -> Coroutine[Any, Any, bool]:
        """Waits until a look has found another number than the one before, from this call on and not from its await."""
        return self._changed.wait()
