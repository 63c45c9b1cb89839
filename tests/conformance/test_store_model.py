"""Both homes of the store against an obvious model, over random lives."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios.errors import Conflict, LeaseLost
from helios.ports.store import Compare, Delete, Put, Store
from helios.stores.memory import MemoryStore
from helios.stores.sqlite import SqliteStore

Change = tuple[str, bytes | None]

KEYS = ["/a", "/a/b", "/ab", "/b%", "é"]
PREFIXES = ["", "/", "/a", "/a/", "é", "x"]


class HandClock:
    """Time that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    boottime = monotonic


@dataclass
class Lease:
    id: str
    ttl_s: float
    deadline: float
    alive: bool = True


@dataclass
class Model:
    """What the store should hold. Versions are the store's own: a model of them would only repeat its code."""

    values: dict[str, bytes] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)
    leases: list[Lease] = field(default_factory=list)
    commits: list[list[Change]] = field(default_factory=list)

    def apply(self, operations: list[Put | Delete]) -> bool:
        changes: list[Change] = []
        for operation in operations:
            if isinstance(operation, Put):
                self.bound.pop(operation.key, None)
                if operation.lease is not None:
                    self.bound[operation.key] = operation.lease
                self.values[operation.key] = operation.value
                changes.append((operation.key, operation.value))
            elif operation.key in self.values:
                del self.values[operation.key]
                self.bound.pop(operation.key, None)
                changes.append((operation.key, None))
        if changes:
            self.commits.append(changes)
        return bool(changes)

    def end(self, lease: Lease) -> None:
        lease.alive = False
        self.apply([Delete(key) for key in sorted(self.bound) if self.bound[key] == lease.id])

    def expire(self, now: float) -> None:
        due = [lease for lease in self.leases if lease.alive and lease.deadline <= now]
        for lease in sorted(due, key=lambda lease: lease.deadline):
            self.end(lease)


@dataclass(frozen=True)
class CommitStep:
    operations: list[tuple[str, str, bytes, int]]  # what to do, key, value, which lease
    compares: list[tuple[str, bool]]  # key, whether with its right version


@dataclass(frozen=True)
class LeaseStep:
    verb: str  # grant, keep, revoke
    number: int


@dataclass(frozen=True)
class WaitStep:
    seconds: int


@dataclass(frozen=True)
class ReopenStep:
    pass


operations = st.tuples(
    st.sampled_from(["put", "put", "lease", "delete"]),
    st.sampled_from(KEYS),
    st.binary(max_size=3),
    st.integers(0, 3),
)
steps = st.one_of(
    st.builds(
        CommitStep,
        st.lists(operations, max_size=4, unique_by=lambda operation: operation[1]),
        st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([True, True, True, False])), max_size=2),
    ),
    st.builds(LeaseStep, st.sampled_from(["grant", "grant", "keep", "revoke"]), st.integers(0, 3)),
    st.builds(WaitStep, st.integers(1, 4)),
    st.builds(ReopenStep),
)


class Life:
    """One store and the model beside it, taken through the same steps."""

    def __init__(self, reopen: Callable[[], Awaitable[Store]], clock: HandClock) -> None:
        self._reopen = reopen
        self._clock = clock
        self._model = Model()

    async def run(self, taken: list[CommitStep | LeaseStep | WaitStep | ReopenStep]) -> None:
        self._store = await self._reopen()
        start = (await self._store.list("")).revision
        for step in taken:
            if isinstance(step, CommitStep):
                await self._commit(step)
            elif isinstance(step, LeaseStep):
                await self._lease(step)
            elif isinstance(step, WaitStep):
                self._clock.now += step.seconds
                self._model.expire(self._clock.now)
            else:
                await self._store.close()
                self._store = await self._reopen()
            await self._check()
        await self._check_history(start)
        await self._store.close()

    async def _commit(self, step: CommitStep) -> None:
        model, leases = self._model, self._model.leases
        wanted: list[Put | Delete] = []
        for what, key, value, number in step.operations:
            if what == "delete":
                wanted.append(Delete(key))
            elif what == "lease" and leases:
                wanted.append(Put(key, value, leases[number % len(leases)].id))
            else:
                wanted.append(Put(key, value))
        compares: list[Compare] = []
        for key, right in step.compares:
            entry = await self._store.get(key)
            version = 0 if entry is None else entry.version
            compares.append(Compare(key, version if right else version + 1))
        dead = {lease.id for lease in leases if not lease.alive}
        before = (await self._store.list("")).revision
        if not all(right for _, right in step.compares):
            with pytest.raises(Conflict):
                await self._store.commit(wanted, compares=compares)
        elif any(isinstance(operation, Put) and operation.lease in dead for operation in wanted):
            with pytest.raises(LeaseLost):
                await self._store.commit(wanted, compares=compares)
        else:
            revision = await self._store.commit(wanted, compares=compares)
            if model.apply(wanted):
                assert revision > before
                for operation in wanted:
                    entry = await self._store.get(operation.key)
                    assert (None if entry is None else entry.version) == (
                        revision if isinstance(operation, Put) else None
                    )

    async def _lease(self, step: LeaseStep) -> None:
        leases = self._model.leases
        if step.verb == "grant" or not leases:
            # Fractions that differ keep any two leases from ending at the same moment.
            ttl_s = 1 + step.number + (len(leases) + 1) / 1000
            leases.append(Lease(await self._store.grant(ttl_s), ttl_s, self._clock.now + ttl_s))
            return
        lease = leases[step.number % len(leases)]
        if step.verb == "revoke":
            await self._store.revoke(lease.id)
            if lease.alive:
                self._model.end(lease)
        elif lease.alive:
            await self._store.keep_alive(lease.id)
            lease.deadline = self._clock.now + lease.ttl_s
        else:
            with pytest.raises(LeaseLost):
                await self._store.keep_alive(lease.id)

    async def _check(self) -> None:
        for prefix in PREFIXES:
            listed = [(entry.key, entry.value) for entry in (await self._store.list(prefix)).entries]
            assert listed == sorted(pair for pair in self._model.values.items() if pair[0].startswith(prefix))
        for key in KEYS:
            entry = await self._store.get(key)
            assert (None if entry is None else entry.value) == self._model.values.get(key)

    async def _check_history(self, start: int) -> None:
        await self._store.commit([Put("/end", b"")])
        self._model.apply([Put("/end", b"")])
        watch = self._store.watch("", start)
        seen: list[list[Change]] = []
        last = start
        async with asyncio.timeout(20):
            while not seen or seen[-1] != [("/end", b"")]:
                events = await anext(watch)
                assert {event.version for event in events} == {events[0].version}
                assert events[0].version > last
                last = events[0].version
                seen.append([(event.key, event.value) for event in events])
        assert seen == self._model.commits


@given(st.lists(steps, max_size=25))
@settings(max_examples=80, deadline=None)
def test_the_memory_store_is_as_the_model(taken: list[CommitStep | LeaseStep | WaitStep | ReopenStep]) -> None:
    clock = HandClock()

    async def live() -> None:
        shared = MemoryStore(clock)

        async def reopen() -> Store:
            return shared.open()

        await Life(reopen, clock).run(taken)

    asyncio.run(live())


@given(st.lists(steps, max_size=25))
@settings(max_examples=40, deadline=None)
def test_the_sqlite_store_is_as_the_model(taken: list[CommitStep | LeaseStep | WaitStep | ReopenStep]) -> None:
    clock = HandClock()

    async def live(path: Path) -> None:
        async def reopen() -> Store:
            return await SqliteStore.open(path, clock=clock)

        await Life(reopen, clock).run(taken)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder) / "store.db"))
