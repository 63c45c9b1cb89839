"""A clock that stands still while the machine is busy, so that what is to be quick can be asked for under any load."""

from __future__ import annotations

import os
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = 4  # the field of a line of /proc/stat; what waits for a disk stands in the next one


def idle_s() -> float:
    """How long the processors of this machine have had nothing to do since it was booted, on average.

    What waits for a timer lets the processors rest, so that this clock runs as others do; what waits for a processor
    does not.
    """
    lines = _STAT.read_text("ascii").splitlines()
    processors = sum(line.startswith("cpu") for line in lines) - 1
    return int(lines[0].split()[_IDLE]) / os.sysconf("SC_CLK_TCK") / processors
