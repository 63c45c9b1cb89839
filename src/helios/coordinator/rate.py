"""How fast keys may be copied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from helios.ports.clock import Clock

_LOOK_AGAIN_S = 0.25


class RateLimit:
    """At most so many units a second for everything that shares this limit; 0 lets all pass at once.

    The rate is asked for again several times a second, so a changed setting acts at once. While paused,
    nothing passes.
    """

    def __init__(self, clock: Clock, rate: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = rate
        self._debt = 0.0
        self._paid_at_s = clock.monotonic()
        self._going = asyncio.Event()
        self._going.set()

    @property
    def paused(self) -> bool:
        """Whether nothing passes."""
        return not self._going.is_set()

    def pause(self, paused: bool) -> None:
        """Let nothing pass from now on, or everything at its rate again."""
        if paused:
            self._going.clear()
        else:
            self._going.set()

    async def take(self, count: int) -> None:
        """Wait until what was taken before has been paid for by time; then `count` more pass."""
        while True:
            await self._going.wait()
            rate = self._rate()
            now = self._clock.monotonic()
            self._debt = max(0.0, self._debt - (now - self._paid_at_s) * rate) if rate > 0 else 0.0
            self._paid_at_s = now
            if self._debt <= 0:
                self._debt += count
                return
            await asyncio.sleep(min(self._debt / rate, _LOOK_AGAIN_S))
