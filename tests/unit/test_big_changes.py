"""Changes among a hundred nodes: more records than one commit takes, and coordinators that die between two commits."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
from tests.waiting import until

from helios.control.mutations import Reverse, begin
from helios.control.transition_state import Ending
from helios.coordinator.import_note import ImportNote, delete_note
from helios.coordinator.migration_records import MigrationRecords, settle
from helios.coordinator.publisher import Publisher
from helios.errors import StoreError
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationStatus
from helios.model.topology import Member, Node, Pair, PairPhase, Placement, Shard, Topology, Transition
from helios.ports.records import CHANGES, IMPORTS, MIGRATIONS, TERM, list_records, put_record
from helios.ports.store import Compare, Operation, Put
from helios.router.script_cache import ScriptCache, sha_of
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

NODES = [f"shard-{number:03}" for number in range(100)]
CLOCK = SystemClock()
CHANGE = Change("c", ChangeKind.REBALANCE, ChangeStatus.QUEUED, pattern="x*")


class MortalStore:
    """A store whose user dies at a commit."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.left: int | None = None  # commits before that

    async def commit(self, operations: Sequence[Operation], *, compares: Sequence[Compare] = ()) -> int:
        if self.left == 0:
            raise StoreError("the coordinator is dead")
        if self.left is not None:
            self.left -= 1
        return await self._store.commit(operations, compares=compares)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Lives:
    """Coordinators of one cluster, one after the other."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self._term = 0

    async def next(self) -> tuple[MortalStore, Publisher]:
        self._term += 1
        version = await self.store.commit([Put(TERM, b"%d" % self._term)])
        store = MortalStore(self.store)
        return store, await Publisher.open(store, CLOCK, self._term, version)

    async def begun(self) -> tuple[MortalStore, Publisher, MigrationRecords]:
        """One that has a transition among all nodes, each of whose migrations runs."""
        store, publisher = await self.next()
        await self.found(publisher)
        records = MigrationRecords(CHANGE, {}, CLOCK)
        step = records.started(pairs())
        await publisher.publish(starting, step.change, behind=step.migrations)
        return store, publisher, records

    async def found(self, publisher: Publisher) -> None:
        nodes = tuple(Node(name, Address("host", 1)) for name in NODES)
        shards = tuple(Shard(name, f"{name}.0", (Member(f"{name}.0", name, Address("host", 1)),)) for name in NODES)
        await publisher.publish(lambda now: Topology(now.epoch, nodes=nodes, shards=shards))

    async def resumed(self, publisher: Publisher) -> MigrationRecords:
        """The records of a successor after it has done what its predecessor left."""
        await settle(publisher, CLOCK)
        transition = publisher.topology.transition
        assert transition is not None
        found = {migration.id: migration for migration in await self.migrations()}
        (change,) = await list_records(self.store, Change, CHANGES)
        records = MigrationRecords(change.value, found, CLOCK)
        await publisher.write_apart(records.in_step(transition))
        return records

    async def migrations(self) -> list[Migration]:
        return [record.value for record in await list_records(self.store, Migration, MIGRATIONS)]


def pairs(phase: PairPhase = PairPhase.COPYING) -> tuple[Pair, ...]:
    return tuple(Pair(a, b, f"{a}-{b}", phase) for a in NODES for b in NODES[:30] if a != b)


def starting(topology: Topology) -> Topology:
    return begin(topology, "c", Placement(), pairs())


def statuses(migrations: list[Migration]) -> dict[MigrationStatus, int]:
    found = [migration.status for migration in migrations]
    return {status: found.count(status) for status in MigrationStatus if status in found}


@pytest.mark.parametrize("commits", [0, 1, 2, 3, 15, 27])
async def test_a_beginning_that_was_not_wholly_recorded_is_made_good(commits: int) -> None:
    lives = Lives()
    store, publisher = await lives.next()
    await lives.found(publisher)
    expected = [Migration(pair.migration, "c", pair.source, pair.target, "x*") for pair in pairs()[:500]]
    await publisher.write_apart([put_record(MIGRATIONS + one.id, one) for one in expected])
    records = MigrationRecords(CHANGE, {one.id: one for one in expected}, CLOCK)
    step = records.started(pairs())
    store.left = commits
    with pytest.raises(StoreError, match="dead"):
        await publisher.publish(starting, step.change, behind=step.migrations)
    _, successor = await lives.next()
    if successor.topology.transition is None:  # It was dead before the commit that counts.
        assert statuses(await lives.migrations()) == {MigrationStatus.PENDING: 500}
        return
    await lives.resumed(successor)
    migrations = await lives.migrations()
    assert statuses(migrations) == {MigrationStatus.IN_PROGRESS: len(pairs())}
    assert {migration.id for migration in migrations} == {pair.migration for pair in pairs()}
    assert {migration.pattern for migration in migrations} == {"x*"}


@pytest.mark.parametrize("commits", [0, 3, 20])
async def test_a_reversal_that_was_not_wholly_recorded_is_made_good(commits: int) -> None:
    lives = Lives()
    store, publisher, records = await lives.begun()
    back = Reverse({(pair.source, pair.target): f"back-{pair.migration}" for pair in pairs()})

    def switched_and_back(topology: Topology) -> Topology:
        moved = Transition("c", Placement(), pairs(PairPhase.SWITCHED)[:1_000] + pairs()[1_000:])
        return back.apply(Topology(topology.epoch, nodes=topology.nodes, shards=topology.shards, transition=moved))

    transition = switched_and_back(publisher.topology).transition
    assert transition is not None
    step = records.reversed(transition.pairs, Ending(cancelled=False, reason="no room"))
    store.left = commits
    with pytest.raises(StoreError, match="dead"):
        await publisher.publish(switched_and_back, step.change, behind=step.migrations)
    _, successor = await lives.next()
    await lives.resumed(successor)
    migrations = await lives.migrations()
    reversing = successor.topology.transition is not None and successor.topology.transition.reversing
    if not reversing:
        assert statuses(migrations) == {MigrationStatus.IN_PROGRESS: len(pairs())}
        return
    assert statuses(migrations) == {MigrationStatus.IN_PROGRESS: 1_000, MigrationStatus.FAILED: len(pairs())}
    assert {one.error for one in migrations if one.status is MigrationStatus.FAILED} == {"no room"}
    assert all(one.id.startswith("back-") for one in migrations if one.status is MigrationStatus.IN_PROGRESS)


async def test_migrations_of_a_change_that_has_ended_end_with_it_and_those_of_no_change_go() -> None:
    lives = Lives()
    _, publisher = await lives.next()
    ended = Change("ended", ChangeKind.DRAIN, ChangeStatus.CANCELLED, error="cancelled before it began")
    waits = Change("waits", ChangeKind.DRAIN, ChangeStatus.QUEUED)
    await publisher.write_apart([put_record(CHANGES + change.id, change) for change in (ended, waits)])
    for change in ("ended", "waits", "gone"):
        names = [f"{change}-{number}" for number in range(200)]
        await publisher.write_apart([put_record(MIGRATIONS + n, Migration(n, change, "a", "b")) for n in names])
    await settle(publisher, CLOCK)
    migrations = await lives.migrations()
    assert statuses(migrations) == {MigrationStatus.PENDING: 200, MigrationStatus.CANCELLED: 200}
    assert {one.error for one in migrations if one.change == "ended"} == {"cancelled before it began"}
    assert {one.change for one in migrations} == {"ended", "waits"}


@pytest.mark.parametrize("commits", [0, 1, 2, 3])
async def test_the_note_of_an_import_is_the_old_batch_or_the_new_one(commits: int) -> None:
    lives = Lives()
    store, publisher = await lives.next()
    first = {b"old-%032d" % number for number in range(10)}
    second = {bytes(f"{number:0200x}", "ascii") for number in range(10_000)}
    note = ImportNote(publisher, "c")
    await note.begin(first, "run")
    await note.copied()
    store.left = commits
    try:
        await note.begin(second, "run")
    except StoreError:
        assert await ImportNote(publisher, "c").read() in ((first, True), (second, False))
    else:
        assert await ImportNote(publisher, "c").read() == (second, False)
    store.left = None
    await publisher.write_apart(await delete_note(publisher.store, "c"))
    assert await ImportNote(publisher, "c").read() is None
    assert (await lives.store.list(IMPORTS)).entries == ()


@pytest.mark.parametrize("copied", [False, True])
async def test_a_note_of_the_release_before_is_read_and_replaced(copied: bool) -> None:
    lives = Lives()
    _, publisher = await lives.next()
    old = {"copied": copied, "keys": [b64encode(key).decode() for key in (b"a", b"\xff")]}
    await lives.store.commit([Put(IMPORTS + "c", json.dumps(old).encode())])
    note = ImportNote(publisher, "c")
    assert await note.read() == ({b"a", b"\xff"}, copied)
    await note.begin({b"b"}, "a run")
    assert await ImportNote(publisher, "c").read() == ({b"b"}, False)


async def test_a_flush_forgets_a_thousand_scripts_at_once_though_they_are_deleted_one_by_one() -> None:
    lives = Lives()
    store = MortalStore(lives.store)
    one, other = ScriptCache(store), ScriptCache(lives.store)
    bodies = [b"return %d" % number for number in range(1_000)]
    for body in bodies:
        assert await one.remember(body)
    following = asyncio.create_task(other.follow())
    await other.ready.wait()
    assert other.body(sha_of(bodies[-1])) == bodies[-1]
    store.left = 3
    with pytest.raises(StoreError, match="dead"):
        await one.flush()
    later = b"return 'later'"
    await ScriptCache(lives.store).remember(later)
    await until(lambda: asyncio.sleep(0, other.body(sha_of(later)) == later), "the new script is known")
    assert [body for body in bodies if other.body(sha_of(body))] == []
    following.cancel()
    # One that begins now finds what the flush has left to delete, and goes by it no more.
    fresh = ScriptCache(lives.store)
    following = asyncio.create_task(fresh.follow())
    await fresh.ready.wait()
    assert [body for body in [*bodies, later] if fresh.body(sha_of(body))] == [later]
    following.cancel()


async def test_a_big_script_takes_the_place_of_hundreds_of_small_ones() -> None:
    store = MemoryStore()
    cache = ScriptCache(store)
    for number in range(995):
        await cache.remember(b"--" + b"%d" % number * 2_500)
    for number in range(3):
        await cache.remember(b"--%d" % number + b"x" * 500_000)
    kept = (await store.list("/scripts/")).entries
    assert sum(len(entry.value) for entry in kept) <= 8 * 1024 * 1024
    assert sum(len(entry.value) > 400_000 for entry in kept) == 3
    assert len(kept) < 950
