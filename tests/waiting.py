"""Waiting for what other processes do, with a limit and no guessed sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT_S = 30.0
_LOOK_S = 0.01


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """Return when the condition holds; raises TimeoutError."""
    deadline = time.monotonic() + limit_s
    while True:
        if condition():
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come to hold")
        await asyncio.sleep(_LOOK_S)


def blocking_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """The same for code without an event loop."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come to hold")
        time.sleep(_LOOK_S)
