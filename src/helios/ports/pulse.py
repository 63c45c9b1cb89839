"""Rests between the regular work of a process, all of which end at the same moments.

To wake up costs an idle process more than most of what it wakes up for. So who looks at something every few seconds
rests until the last beat of the process's pulse within that time, and whoever else does so wakes up with it.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from math import floor

BEAT_S = 1.0
_ROUNDING_S = 0.001  # of an event loop's clock

offset_s: ContextVar[float] = ContextVar("offset_s", default=0.0)
"""By how much the pulse of this process is behind whole seconds: else all of a machine would wake up together."""


async def rest(longest_s: float) -> None:
    """Sleep until the last beat within `longest_s`; for just that time where it is shorter than from beat to beat."""
    await asyncio.sleep(rest_s(asyncio.get_running_loop().time(), longest_s))


def rest_s(now_s: float, longest_s: float) -> float:
    """For how long that is, by the loop's clock."""
    if longest_s < BEAT_S:
        return longest_s
    behind_s = now_s - offset_s.get()
    return floor((behind_s + longest_s + _ROUNDING_S) / BEAT_S) * BEAT_S - behind_s
