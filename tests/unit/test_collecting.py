"""Counting and sampling what a shard carries, and keeping a history of bounded length."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.topologies import cluster

from helios.admin.measuring import measure
from helios.coordinator.history import KEPT, History
from helios.coordinator.publisher import Publisher
from helios.engines.memory import MemoryConnector
from helios.engines.memory.engine import MemoryEngine
from helios.engines.memory.server import MemoryServer
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationStatus
from helios.placement.routing import Routes
from helios.ports.engine import EngineInfo
from helios.ports.records import HISTORY, MIGRATIONS, TERM, HistoryRecord, list_records, put_record
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

ROUTES = Routes(cluster("a", "b"))
KEYS = [b"k:%d" % number for number in range(4000)]
MINE = [key for key in KEYS if ROUTES.owner(key) == "a"]


class Accounting(MemoryServer):
    """A server that says itself how much its keys occupy."""

    dataset_bytes = 0

    def info(self) -> EngineInfo:
        """With that number."""
        return replace(super().info(), dataset_bytes=self.dataset_bytes)


async def opened(server: MemoryServer, keys: list[bytes]) -> MemoryEngine:
    """The server with these keys, opened as the one of shard a."""
    for key in keys:
        server.set(key, b"1234567890")
    leader = cluster("a", "b").shards[0].leading
    return await MemoryConnector({leader.address: server}).open(leader)


async def engine_with(keys: list[bytes]) -> MemoryEngine:
    """A server in memory that holds these keys."""
    return await opened(MemoryServer("a", wall=SystemClock().wall), keys)


async def test_a_small_server_is_counted_exactly_without_what_others_own() -> None:
    found = await measure(await engine_with(KEYS[:800]), ROUTES, "a", 1000)
    mine = [key for key in KEYS[:800] if ROUTES.owner(key) == "a"]
    assert (found.keys, found.bytes) == (len(mine), 10 * len(mine))
    assert sorted(one.key for one in found.sample) == sorted(mine)


async def test_samples_go_on_until_every_key_was_seen() -> None:
    engine = await engine_with(MINE)
    seen: set[bytes] = set()
    cursor, looks = 0, 0
    while True:
        found = await measure(engine, ROUTES, "a", 500, cursor)
        assert found.keys == len(MINE)
        seen.update(one.key for one in found.sample)
        cursor = found.cursor
        looks += 1
        if cursor == 0:
            break
    assert seen == set(MINE)
    assert looks >= len(MINE) // 1000


async def test_what_stood_out_before_is_looked_at_again_and_what_is_gone_is_not() -> None:
    found = await measure(await engine_with(MINE), ROUTES, "a", 100, also=(MINE[0], b"gone"))
    keys = {one.key for one in found.sample}
    assert MINE[0] in keys
    assert b"gone" not in keys


async def test_values_that_a_sample_misses_show_in_the_servers_account() -> None:
    server = Accounting("a", wall=SystemClock().wall)
    engine = await opened(server, MINE)
    estimated = (await measure(engine, ROUTES, "a", 500)).bytes
    assert estimated == 10 * len(MINE)
    server.dataset_bytes = 1 << 30
    assert (await measure(engine, ROUTES, "a", 500)).bytes > 1_000_000_000
    server.dataset_bytes = 200_000  # what an empty server says
    assert (await measure(engine, ROUTES, "a", 500)).bytes == estimated


async def test_one_big_value_does_not_stand_for_all_that_a_sample_has_missed() -> None:
    server = Accounting("a", wall=SystemClock().wall)
    engine = await opened(server, MINE)
    small = 10 * len(MINE)
    big = (await measure(engine, ROUTES, "a", 500)).sample[0].key
    server.set(big, b"x" * 30_000_000)
    assert (await measure(engine, ROUTES, "a", 500)).bytes > 2 * 30_000_000, "nothing tells that it is the only one"
    for noted in ((big,), ()):  # known from the look before; met for the first time
        server.dataset_bytes = 30_000_000 + small if not noted else 0
        assert (await measure(engine, ROUTES, "a", 500, 0, noted)).bytes == pytest.approx(30_000_000 + small, rel=0.05)


async def test_history_keeps_the_last_changes_and_knows_who_rests() -> None:
    store = MemoryStore()
    publisher = await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")]))
    clock = SystemClock()
    history = History(publisher, clock)
    done = Change("000", ChangeKind.REBALANCE, ChangeStatus.DONE, reason="because")
    migration = Migration(
        "m", "000", "a", "b", status=MigrationStatus.COMPLETED, keys_moved=7, end_time=clock.wall() - 100
    )
    await store.commit([put_record(MIGRATIONS + "m", migration)])
    await history.note(done)
    rested = await History(publisher, clock).rested_s()
    assert rested.keys() == {"a", "b"}
    assert 100 <= rested["a"] < 200
    for status in (ChangeStatus.REFUSED, ChangeStatus.RUNNING):
        await history.note(replace(done, id=f"not {status}", status=status))
    for number in range(1, KEPT + 3):
        await history.note(replace(done, id=f"{number:03}"))
    await history.note(done)
    kept = [record.value.change.id for record in await list_records(store, HistoryRecord, HISTORY)]
    assert kept == [f"{number:03}" for number in range(3, KEPT + 3)]
