"""How fast keys may be copied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from helios.ports.clock import Clock

_BURST_S = 0.1


class RateLimit:
    """At most so many keys a second for everything that shares this limit; 0 lets all pass at once.

    The rate is asked for anew each time, so a changed setting acts within a batch.
    """

    def __init__(self, clock: Clock, rate: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = rate
        self._free_at_s = 0.0

    async def take(self, count: int) -> None:
        """Wait until `count` more may pass."""
        rate = self._rate()
        if rate <= 0 or count <= 0:
            return
        now = self._clock.monotonic()
        start = max(self._free_at_s, now - _BURST_S)
        self._free_at_s = start + count / rate
        if self._free_at_s > now:
            await asyncio.sleep(self._free_at_s - now)
