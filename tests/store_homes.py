"""The homes of the store that the conformance suite runs over: another one adds a line to HOMES."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from helios.ports.store import Store
from helios.stores.memory import MemoryStore
from helios.stores.sqlite import SqliteStore

Open = Callable[[], Awaitable[Store]]


class JumpingClock:
    """The real clock, which a test may put forward."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def wall(self) -> float:
        return time.time() + self._ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds


def _memory(folder: Path, clock: JumpingClock, keep_commits: int) -> Open:
    memory = MemoryStore(clock, keep_commits=keep_commits)

    async def open_one() -> Store:
        return memory.open()

    return open_one


def _sqlite(folder: Path, clock: JumpingClock, keep_commits: int) -> Open:
    async def open_one() -> Store:
        return await SqliteStore.open(folder / "store.db", clock=clock, keep_commits=keep_commits)

    return open_one


HOMES: dict[str, Callable[[Path, JumpingClock, int], Open]] = {"memory": _memory, "sqlite": _sqlite}
