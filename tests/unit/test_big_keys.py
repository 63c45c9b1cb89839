"""Big keys: routers name those that pass them, and the coordinator looks at these first."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from tests.simulation.loop import SimClock, SimLoop
from tests.topologies import cluster
from tests.waiting import until

from helios.admin.measuring import Measured, measure
from helios.coordinator import collector as collecting
from helios.coordinator.access import Access
from helios.coordinator.collector import Collector
from helios.coordinator.counts import Counts
from helios.coordinator.growth import Growth, Held
from helios.coordinator.publisher import Publisher
from helios.engines.memory import MemoryConnector
from helios.engines.memory.server import MemoryServer
from helios.errors import EngineUnreachable
from helios.model.sections import CoordinatorSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import Rule, Topology
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import BIG_VALUE_BYTES, Engine, EngineInfo
from helios.ports.records import BIG_KEYS, LOAD, TERM, BigKeysRecord, LoadRecord, put_record, read_record
from helios.ports.store import Put
from helios.resp.wire import encode_command
from helios.router.stats.big_keys import CAPACITY, BigKeys
from helios.router.stats.frames import sent_keys
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

BIG = b"x" * BIG_VALUE_BYTES
MINUTE_S = 60.0


class Seen:
    """Big keys on a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.keys = BigKeys(lambda: self.now_s)

    async def now(self) -> tuple[bytes, ...]:
        """Those of the last minute."""
        return await self.keys.other_than((b"what has never been",))


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ([b"SET", b"one", BIG], (b"one",)),
        ([b"APPEND", b"\xff\r\n", BIG], (b"\xff\r\n",)),
        ([b"SADD", b"set", *[b"%0500d" % n for n in range(2000)]], (b"set",)),
        ([b"MSET", b"a", b"1", b"b", BIG], (b"a", b"b")),
        ([b"MSET", *[word for n in range(20) for word in (b"k:%d" % n, BIG if n == 7 else b"1")]], (b"k:7",)),
        ([b"EVAL", b"return 1", b"2", b"c", b"d", BIG], (b"c", b"d")),
        ([b"SET", b"k" * 257, BIG], ()),
        ([b"ECHO", BIG], ()),
        ([b"NEVER", b"heard", BIG], ()),
    ],
)
async def test_keys_are_those_that_the_command_may_have_made_big(command: list[bytes], keys: tuple[bytes]) -> None:
    seen = Seen()
    seen.keys.sent(encode_command(command))
    assert await seen.now() == keys


async def test_a_big_reply_tells_of_its_key_unless_it_is_put_together_from_many() -> None:
    seen = Seen()
    seen.keys.answered(encode_command([b"LRANGE", b"list", b"0", b"-1"]), BIG_VALUE_BYTES)
    seen.keys.answered(encode_command([b"MGET", *(b"k:%d" % n for n in range(1000))]), BIG_VALUE_BYTES)
    assert await seen.now() == (b"list",)


async def test_the_biggest_are_kept_for_a_minute_since_they_were_last_seen() -> None:
    seen = Seen()
    for number in range(2 * CAPACITY):
        seen.keys.sent(encode_command([b"SET", b"%03d" % number, BIG + b"x" * number]))
    assert await seen.now() == tuple(b"%03d" % number for number in range(CAPACITY, 2 * CAPACITY))
    seen.now_s = MINUTE_S / 2
    seen.keys.sent(encode_command([b"SET", b"063", BIG]))
    seen.now_s = MINUTE_S + 1
    assert await seen.now() == (b"063",)


async def test_who_waits_is_told_at_once_of_another_key_and_not_of_the_same() -> None:
    seen = Seen()
    waiting = asyncio.create_task(seen.keys.other_than(()))
    await asyncio.sleep(0)
    seen.keys.sent(encode_command([b"SET", b"one", BIG]))
    assert await waiting == (b"one",)
    waiting = asyncio.create_task(seen.keys.other_than((b"one",)))
    for key in (b"one", b"two"):
        await asyncio.sleep(0)
        assert not waiting.done()
        seen.keys.sent(encode_command([b"SET", key, BIG]))
    assert await waiting == (b"one", b"two")


class Accounting(MemoryServer):
    """A server that says itself how much its keys and values occupy."""

    def info(self) -> EngineInfo:
        """With that number."""
        said = super().info()
        return replace(said, dataset_bytes=said.used_memory_bytes)


class Lab:
    """A collector over two servers in memory, of which a has so many keys that one look meets few of them."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        wall = SystemClock().wall
        self.topology: Topology = cluster("a", "b")
        self.servers = {shard.id: Accounting(shard.id, wall=wall) for shard in self.topology.shards}
        publisher.topology = self.topology
        routes = Routes(self.topology)
        self.mine = [key for key in (b"k:%d" % number for number in range(20_000)) if routes.owner(key) == "a"]
        for key in self.mine:
            self.servers["a"].set(key, b"small")

    @classmethod
    async def made(cls) -> Lab:
        """With a store of its own."""
        store = MemoryStore()
        return cls(await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")])))

    def collector(
        self, settings: ClusterSettings | None = None, counts: Counts | None = None, clock: Clock | None = None
    ) -> Collector:
        """That of another term."""
        addresses = {shard.leading.address: self.servers[shard.id] for shard in self.topology.shards}
        access = Access(MemoryConnector(addresses), self.publisher)
        return Collector(
            self.publisher,
            access,
            clock or SystemClock(),
            lambda: settings or ClusterSettings(),
            counts or Counts(),
        )

    async def routers_name(self, *keys: bytes) -> None:
        """A router has seen that these are big."""
        await self.publisher.store.commit([put_record(BIG_KEYS + "session", BigKeysRecord.of(keys))])

    async def found(self, shard: str) -> list[tuple[str, int]]:
        """The big keys of a shard as all can read them, and their bytes."""
        record = await read_record(self.publisher.store, LoadRecord, LOAD)
        assert record is not None
        (stats,) = [one for one in record.value.shards if one.shard == shard]
        return [(one.key, one.bytes) for one in stats.big_keys]


async def test_what_a_router_names_is_found_at_the_first_look_among_any_number_of_keys() -> None:
    lab = await Lab.made()
    key = next(key for key in (b"\xff:%d" % n for n in range(100)) if Routes(lab.topology).owner(key) == "a")
    lab.servers["a"].set(key, BIG)
    await lab.routers_name(key, lab.mine[0], b"gone")
    await lab.collector().collect()
    assert await lab.found("a") == [(key.decode(errors="backslashreplace"), len(BIG))]


async def test_a_big_key_stays_known_where_it_moves_and_when_the_coordinator_changes() -> None:
    lab = await Lab.made()
    key = lab.mine[-1]
    lab.servers["a"].set(key, BIG)
    await lab.routers_name(key)
    collector = lab.collector()
    await collector.collect()
    await lab.routers_name()
    for _ in range(2):
        await collector.collect()
        assert await lab.found("a") == [(key.decode(), len(BIG))]
    successor = lab.collector()
    running = asyncio.create_task(successor.run())
    before = await read_record(lab.publisher.store, LoadRecord, LOAD)

    async def collected() -> bool:
        return await read_record(lab.publisher.store, LoadRecord, LOAD) != before

    await until(collected, "the successor has looked")
    running.cancel()
    await asyncio.wait([running])
    assert await lab.found("a") == [(key.decode(), len(BIG))]


async def test_what_nobody_names_is_sought_where_a_server_has_grown_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_SOON_S", 0.01)
    monkeypatch.setattr(collecting, "_MAX_SAMPLE_KEYS", 1000)
    lab = await Lab.made()
    # One look comes by itself, and another when keys have moved.
    settings = ClusterSettings(coordinator=CoordinatorSettings(collect_interval=3600))
    running = asyncio.create_task(lab.collector(settings).run())

    async def looked() -> bool:
        return await read_record(lab.publisher.store, LoadRecord, LOAD) is not None

    async def met() -> bool:
        return await lab.found("a") == [(key.decode(), 2 * len(BIG))]

    await until(looked, "the first look is over")
    key = lab.mine[-1]
    lab.servers["a"].set(key, 2 * BIG)
    rules = (Rule("b", "a", ("nothing:*",)),)
    moved = replace(lab.topology.placement, rules=rules)
    await lab.publisher.publish(lambda topology: replace(topology, placement=moved))
    await until(met, "the samples have been everywhere")
    running.cancel()
    await asyncio.wait([running])


async def test_the_stats_are_fresh_where_the_watch_has_counted_many_keys_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_SOON_S", 0.01)
    lab = await Lab.made()
    settings = ClusterSettings(coordinator=CoordinatorSettings(collect_interval=3600))
    counts = Counts()
    running = asyncio.create_task(lab.collector(settings, counts).run())

    async def keys_of_b() -> int | None:
        record = await read_record(lab.publisher.store, LoadRecord, LOAD)
        return None if record is None else record.value.shards[1].keys

    async def looked() -> bool:
        return await keys_of_b() is not None

    async def known() -> bool:
        return bool(await keys_of_b())

    await until(looked, "the first look is over")
    routes = Routes(lab.topology)
    theirs = [key for key in (b"n:%d" % number for number in range(1000)) if routes.owner(key) == "b"]
    for key in theirs:
        lab.servers["b"].set(key, b"small")
    counts.saw("b.0", len(theirs))
    await until(known, "the next look does not wait for its time")
    running.cancel()
    await asyncio.wait([running])


async def test_shards_share_what_one_look_may_take_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def noted(engine: Engine, routes: Routes, shard: str, keys: int, *rest: Any) -> Measured:
        asked.append(keys)
        return await measure(engine, routes, shard, keys, *rest)

    monkeypatch.setattr(collecting, "measure", noted)
    lab = await Lab.made()
    await lab.collector().collect()
    monkeypatch.setattr(collecting, "_SAMPLED_TOGETHER", 600)
    await lab.collector().collect()
    assert asked == [1000, 1000, 300, 300]


def test_after_a_look_that_took_long_the_servers_have_a_longer_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = SimLoop()
    clock = SimClock(loop)
    began: list[float] = []

    async def slow(engine: Engine, routes: Routes, shard: str, *rest: Any) -> Measured:
        if shard == "a":
            began.append(clock.monotonic())
        await asyncio.sleep(4)
        raise EngineUnreachable(f"{shard} did not answer")

    async def looks() -> None:
        lab = await Lab.made()
        running = asyncio.create_task(lab.collector(clock=clock).run())
        await asyncio.sleep(90)
        running.cancel()
        await asyncio.wait([running])

    monkeypatch.setattr(collecting, "measure", slow)
    try:
        loop.run_until_complete(looks())
    finally:
        loop.close()
    assert [round(after - before) for before, after in pairwise(began)] == [20, 20, 20, 20]


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("then", "sought"),
    [
        (Held(1000, 100 * MEGABYTE), False),
        (Held(1000, 101 * MEGABYTE - 1), False),
        (Held(1000, 102 * MEGABYTE), True),
        (Held(1020, 102 * MEGABYTE), False),
        (Held(1020, 104 * MEGABYTE), True),
        (Held(980, 98 * MEGABYTE), False),
        (Held(980, 102 * MEGABYTE), True),
    ],
)
def test_growth_that_new_keys_do_not_explain_is_sought(then: Held, sought: bool) -> None:
    growth = Growth()
    growth.looked(Held(1000, 100 * MEGABYTE), 100)
    assert not growth.sought
    growth.looked(then, 100)
    assert growth.sought == sought


def test_a_search_ends_when_every_key_has_been_looked_at() -> None:
    growth = Growth()
    growth.looked(Held(1000, MEGABYTE), 400)
    looks = [Held(1000, 3 * MEGABYTE)] * 3 + [Held(1000, MEGABYTE), Held(1000, 3 * MEGABYTE)]
    sought = []
    for look in looks:
        growth.looked(look, 400)
        sought.append(growth.sought)
    assert sought == [True, True, False, False, True]


def test_a_server_whose_keys_are_all_looked_at_needs_no_search() -> None:
    growth = Growth()
    growth.looked(Held(0, 0), 0)
    growth.looked(Held(300, 90 * MEGABYTE), 300)
    assert not growth.sought


def test_the_keys_of_a_long_command_cost_no_collection() -> None:
    """Each would look through the command's arguments, too, and there may be a million of them."""
    frame = encode_command([b"MSET", *(b"word:%d" % number for number in range(1000))])
    gc.collect()
    gc.disable()
    try:
        before = gc.get_count()[0]
        keys, sizes = sent_keys(frame)
        made = gc.get_count()[0] - before
    finally:
        gc.enable()
    assert keys == [b"word:%d" % number for number in range(0, 1000, 2)]
    assert len(sizes) == len(keys)
    assert made < 50, "objects that the collector counts: none for each key"


def test_whoever_goes_by_counts_is_told_of_other_ones_alone() -> None:
    loop = SimLoop()

    async def test() -> None:
        counts = Counts()
        counts.saw("a.0", 7)
        waiting = asyncio.ensure_future(counts.changed())
        await asyncio.sleep(1)
        counts.saw("a.0", 7)
        await asyncio.sleep(1)
        assert not waiting.done()
        counts.saw("a.0", 8)
        await waiting
        begun = asyncio.ensure_future(counts.changed())
        counts.saw("a.0", 9)  # before it has had a turn
        await begun
        counts.forget("a.0")
        assert counts.of("a.0") is None

    try:
        loop.run_until_complete(test())
    finally:
        loop.close()
