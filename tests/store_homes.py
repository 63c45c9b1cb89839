"""The homes of the store that the conformance suite runs over: another one adds a line to HOMES."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.etcd_servers import has_etcd

from helios.ports.store import Compare, Delete, Event, Put, Store
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access, Gateway
from helios.stores.memory import MemoryStore
from helios.stores.sqlite import SqliteStore

Open = Callable[[], Awaitable[Store]]
KEPT_COMMITS = 50


# How much faster leases of tests end in etcd, whose clock nobody can put forward, and how late it may be with that.
_HASTE = 15.0
_ETCD_LATE_S = 1.0


async def take(watch: AsyncIterator[tuple[Event, ...]], count: int) -> list[tuple[Event, ...]]:
    """The next `count` commits of a watch."""
    async with asyncio.timeout(20):
        return [await anext(watch) for _ in range(count)]


async def revision_of(store: Store) -> int:
    """The revision that the store has come to."""
    return (await store.list("")).revision


class JumpingClock:
    """The real clock, which a test may put forward."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def wall(self) -> float:
        return time.time() + self._ahead_s

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_s

    boottime = monotonic

    def advance(self, seconds: float) -> None:
        self._ahead_s += seconds

    def end_leases(self, seconds: float) -> None:
        """Put the clock forward by as long as leases live that are to have ended then."""
        self.advance(seconds)


class HastyClock(JumpingClock):
    """For a store with a clock of its own: to put it forward is to wait, a fraction of the time."""

    def advance(self, seconds: float) -> None:
        time.sleep(seconds / _HASTE)

    def end_leases(self, seconds: float) -> None:
        self.advance(seconds)
        time.sleep(_ETCD_LATE_S)


@dataclass(frozen=True)
class Site:
    """What a home is made with. `service` gives an address of what the home needs to run, by name."""

    folder: Path
    keep_commits: int
    service: Callable[[str], Any]


@dataclass(frozen=True)
class Home:
    """Opens handles of one store; `clock` is the one that its leases go by."""

    open: Open
    clock: JumpingClock


def _memory(site: Site) -> Home:
    clock = JumpingClock()
    memory = MemoryStore(clock, keep_commits=site.keep_commits)

    async def open_one() -> Store:
        return memory.open()

    return Home(open_one, clock)


def _sqlite(site: Site) -> Home:
    clock = JumpingClock()

    async def open_one() -> Store:
        return await SqliteStore.open(site.folder / "store.db", clock=clock, keep_commits=site.keep_commits)

    return Home(open_one, clock)


def _etcd(site: Site) -> Home:
    access = Access((site.service("etcd"),))
    prefix = f"tests/{uuid4().hex}"

    async def open_one() -> Store:
        return _HastyEtcdStore(Gateway(access), f"/{prefix}/", site.keep_commits)

    return Home(open_one, HastyClock())


class _HastyEtcdStore(EtcdStore):
    """Long leases are shorter by the clock's haste, and of the commits as many are kept as are asked for."""

    def __init__(self, gateway: Gateway, prefix: str, keep_commits: int) -> None:
        super().__init__(gateway, prefix)
        self._keep_commits = keep_commits

    async def grant(self, ttl_s: float) -> str:
        return await super().grant(math.ceil(ttl_s / _HASTE) if ttl_s > _HASTE else ttl_s)

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        revision = await super().commit(operations, compares=compares)
        if revision > self._keep_commits:
            await self.compact(revision - self._keep_commits + 1)
        return revision


HOMES: dict[str, Callable[[Site], Home]] = {"memory": _memory, "sqlite": _sqlite}
if has_etcd():
    HOMES["etcd"] = _etcd
