"""Time, as far as Helios depends on it. Waiting is asyncio's, whose loop can run on a virtual clock."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two clocks: one for people, one for measuring."""

    def wall(self) -> float:
        """Unix seconds, for showing; it may jump."""

    def monotonic(self) -> float:
        """Seconds that never go back; differences only."""
