"""The loop of a test with timers by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Timers:
    """The running loop, but for what is to be called later."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, asyncio.Handle]] = []

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: object) -> asyncio.Handle:
        """As a loop's."""
        handle = asyncio.Handle(callback, arguments, asyncio.get_running_loop())
        self._due.append((self.now + delay, handle))
        return handle

    def pass_by(self, seconds: float) -> None:
        """Let so much time go by at once."""
        self.now += seconds
        due = [handle for at, handle in self._due if at <= self.now and not handle.cancelled()]
        self._due = [(at, handle) for at, handle in self._due if at > self.now]
        for handle in due:
            handle._run()

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio.get_running_loop(), name)
