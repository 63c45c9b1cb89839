"""The real clocks of this machine."""

from __future__ import annotations

import time

from helios.ports.clock import boottime


class SystemClock:
    """`ports.clock.Clock` by the operating system; on Linux all processes of a machine share its `monotonic`."""

    def wall(self) -> float:
        """Unix seconds, for showing; it may jump."""
        return time.time()

    # The functions themselves: who asks often asks the system without a call.
    monotonic = staticmethod(time.monotonic)
    boottime = staticmethod(boottime)
