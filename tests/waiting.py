"""Waiting for what others bring about, with a limit and no guessed sleeps."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

LIMIT_S = 90.0
_LOOK_S = 0.01


async def until(condition: Callable[[], object], what: str = "the condition holds", limit_s: float = LIMIT_S) -> None:
    """Return when the condition, which may be awaitable, holds; fail with `what` after the limit."""
    now_s = asyncio.get_running_loop().time
    deadline = now_s() + limit_s
    while True:
        holds = condition()
        if await holds if inspect.isawaitable(holds) else holds:
            return
        assert now_s() < deadline, f"not in {limit_s:g} s: {what}"
        await asyncio.sleep(_LOOK_S)


def blocking_until(condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    """The same for code without an event loop."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"the condition does not hold in {limit_s:g} s"
        time.sleep(_LOOK_S)
