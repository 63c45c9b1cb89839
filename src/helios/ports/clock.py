"""Time, as far as Helios depends on it. Waiting is asyncio's, whose loop can run on a virtual clock."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol

boottime = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""The system's clock that runs on while the machine is suspended; elsewhere than on Linux, CLOCK_MONOTONIC does."""


class Clock(Protocol):
    """One clock for people, one for measuring, one for leases."""

    def wall(self) -> float:
        """Unix seconds, for showing; it may jump."""

    def monotonic(self) -> float:
        """Seconds that never go back; differences only. Stands still while the machine is suspended."""

    def boottime(self) -> float:
        """Seconds that never go back and run on while the machine is suspended; differences only.

        What others believe to be over must be over here, too: leases end by this clock.
        """
