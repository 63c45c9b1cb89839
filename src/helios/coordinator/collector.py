"""Looking at what every shard carries, now and then, and keeping it for all to read."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import exp

from helios.admin.measuring import FoundKey, Measured, known_loads, measure, measure_all, snapshot
from helios.coordinator.access import Access
from helios.coordinator.counts import Counts
from helios.coordinator.growth import Growth, Held
from helios.coordinator.publisher import Publisher
from helios.errors import EngineError
from helios.model.settings import ClusterSettings
from helios.model.topology import Placement, Shard
from helios.placement.load import Load
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import BIG_VALUE_BYTES, Engine
from helios.ports.records import (
    BIG_KEYS,
    LOAD,
    BigKeysRecord,
    KeyFigure,
    LoadRecord,
    ShardStats,
    list_records,
    put_record,
    read_record,
)

logger = logging.getLogger(__name__)

# Each look takes as many keys as have all of them looked at within a minute, between these bounds: a thousand cost a
# server some two milliseconds.
_MIN_SAMPLE_KEYS = 1000
_MAX_SAMPLE_KEYS = 20_000
_COVERED_S = 60.0
# One process takes in the samples of all shards, and does more than that.
_SAMPLED_TOGETHER = 60_000
_REST = 4.0  # times what the last look took: servers that are slow to answer are not asked all the time
# So many keys more or less than at the last look, and it is looked again: stats are of no use beside fresh keys.
_SOON_S = 2.0
_CHANGED_KEYS = 100
_CHANGED_PART = 0.1
_NAMED_KEYS = 5
_HOT_HITS = 100  # fewer accesses lately are no sign of anything
# A request is planned when it comes and when it begins: by the same snapshot, if little time has passed. No other
# request is, since keys may have come meanwhile.
_FRESH_S = 20.0
# Operations are averaged, so that a moment's burst moves no keys.
_OPS_MEMORY_S = 60.0


@dataclass(frozen=True, slots=True)
class _Counter:
    """A server's count of operations at a moment; `run_id` differs after a restart, which begins it anew."""

    run_id: str
    operations: int
    at_s: float


class Collector:
    """Samples every shard each `coordinator.collect_interval`, and the whole cluster when a plan is to be made.

    Where keys have just moved, or many have come or gone, it does not wait for that: the stats would be wrong.

    Each sample goes on where the one before ended, so that every key is looked at in time; the biggest and hottest
    found so far are looked at again each time, and so are those that routers name: a big value that passes one is
    known at the next look, and the samples need to meet only what has grown bit by bit. Where a server has grown by
    more than that explains, looks follow each other until every key has been looked at. A shard that does not answer
    keeps its last stats, with the error.
    """

    def __init__(
        self,
        publisher: Publisher,
        access: Access,
        clock: Clock,
        settings: Callable[[], ClusterSettings],
        counts: Counts,
    ) -> None:
        self._publisher = publisher
        self._access = access
        self._clock = clock
        self._settings = settings
        self._counts = counts
        self._stats: dict[str, ShardStats] = {}
        self._cursors: dict[str, int] = {}
        self._noted: dict[str, tuple[bytes, ...]] = {}
        self._counters: dict[str, _Counter] = {}
        self._averages: dict[str, float] = {}
        self._held: dict[str, int] = {}
        self._looks: dict[str, deque[tuple[float, int]]] = {}  # when samples were taken, and of how many keys
        self._growth = defaultdict[str, Growth](Growth)
        self._planned: tuple[str, Placement, float, Load] | None = None

    async def run(self) -> None:
        """Collect forever. Raises StoreError."""
        record = await read_record(self._publisher.store, LoadRecord, LOAD)
        if record is not None:
            self._stats = {stats.shard: stats for stats in record.value.shards}
            # A name that was cut or escaped is no key's, and falls out at the first look.
            self._noted = {
                stats.shard: tuple(one.key.encode() for one in (*stats.big_keys, *stats.hot_keys))
                for stats in record.value.shards
            }
        looked_under = self._publisher.topology.placement

        def moved() -> bool:
            return self._publisher.topology.placement != looked_under

        while True:
            looked_under = self._publisher.topology.placement
            began_s = self._clock.monotonic()
            await self.collect()
            looked_s = self._clock.monotonic()
            rest_s = _REST * (looked_s - began_s)
            while not moved() and (left_s := looked_s + max(rest_s, self._pause_s()) - self._clock.monotonic()) > 0:
                news = [
                    asyncio.ensure_future(self._publisher.until(lambda _: moved())),
                    asyncio.ensure_future(self._counts.changed()),
                ]
                try:
                    await asyncio.wait(news, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for one in news:
                        one.cancel()

    def _pause_s(self) -> float:
        """How long to wait from one look to the next, by what is known now."""
        hurried = self._seeks() or self._many_came_or_went()
        return min(self._interval_s(), _SOON_S) if hurried else self._interval_s()

    def _interval_s(self) -> float:
        return self._settings().coordinator.collect_interval

    def _seeks(self) -> bool:
        """Whether a server holds a big value that has not been met."""
        return any(self._growth[shard.id].sought for shard in self._publisher.topology.shards)

    def _many_came_or_went(self) -> bool:
        """Whether a server holds many keys more or less than when it was last looked at."""
        for shard in self._publisher.topology.shards:
            held, before = self._counts.of(shard.leader), self._held.get(shard.id)
            if held is not None and before is not None:
                changed = abs(held - before)
                if changed > max(_CHANGED_KEYS, _CHANGED_PART * before) or (changed and not before):
                    return True
        return False

    async def collect(self) -> None:
        """Look at every shard once and write down what was found, in one commit."""
        topology = self._publisher.topology
        if not topology.shards:
            return
        routes = Routes(topology)
        named = await self._named(routes)

        async def look(engine: Engine, shard: Shard) -> Measured:
            cursor = self._cursors.get(shard.id, 0)
            return await measure(engine, routes, shard.id, self._sample_keys(shard.id), cursor, named[shard.id])

        results = await measure_all(topology, self._access.kept.engine, look)
        now = self._clock.wall()
        self._stats = {
            shard: self._failed(shard, result) if isinstance(result, EngineError) else self._taken(shard, result, now)
            for shard, result in results.items()
        }
        record = LoadRecord(now, tuple(self._stats[shard] for shard in sorted(self._stats)))
        await self._publisher.write([put_record(LOAD, record, durable=False)])

    async def _named(self, routes: Routes) -> Mapping[str, list[bytes]]:
        """By owner, the keys that stood out at the last look, which may have moved, and those that routers name."""
        named = defaultdict[str, list[bytes]](list)
        seen = await list_records(self._publisher.store, BigKeysRecord, BIG_KEYS)
        by_routers = (record.value.names() for record in seen)
        for key in sorted({key for keys in (*self._noted.values(), *by_routers) for key in keys}):
            named[routes.owner(key)].append(key)
        return named

    async def snapshot(self, change: str = "") -> Load:
        """The load by a larger sample, to plan that change by. Raises Unavailable where no shard answers."""
        topology = self._publisher.topology
        now_s = self._clock.monotonic()
        if self._planned is not None and change:
            of, placement, at_s, load = self._planned
            if (of, placement) == (change, topology.placement) and now_s - at_s < _FRESH_S:
                return load
        load = await snapshot(topology, self._access.administer, known_loads(self._stats), self._averages, now_s)
        # A node that is silent now may answer at the next look.
        self._planned = None if load.silent else (change, topology.placement, now_s, load)
        return load

    def _sample_keys(self, shard: str) -> int:
        part = self._interval_s() / _COVERED_S
        wanted = max(_MIN_SAMPLE_KEYS, round(self._held.get(shard, 0) * part))
        return min(wanted, _MAX_SAMPLE_KEYS, _SAMPLED_TOGETHER // len(self._publisher.topology.shards))

    def _covered(self, shard: str, found: Measured) -> float:
        """The part of the shard's keys that samples of the last minute have looked at."""
        now = self._clock.monotonic()
        looks = self._looks.setdefault(shard, deque())
        looks.append((now, len(found.sample)))
        while looks[0][0] <= now - _COVERED_S:
            looks.popleft()
        return min(1.0, round(sum(keys for _, keys in looks) / found.keys, 3)) if found.keys else 1.0

    def _failed(self, shard: str, error: EngineError) -> ShardStats:
        known = self._stats.get(shard, ShardStats(shard))
        if not known.error:
            logger.warning("load not collected: shard=%s error=%s", shard, error)
        self._counters.pop(shard, None)
        return replace(known, error=str(error))

    def _taken(self, shard: str, found: Measured, now: float) -> ShardStats:
        self._cursors[shard] = found.cursor
        self._held[shard] = found.held
        biggest = _top((one for one in found.sample if one.bytes >= BIG_VALUE_BYTES), lambda one: one.bytes)
        hottest = _top((one for one in found.sample if one.hits >= _HOT_HITS), lambda one: one.hits)
        if found.info.dataset_bytes:
            small_bytes = found.info.dataset_bytes - sum(one.bytes for one in biggest)
            self._growth[shard].looked(Held(found.held, small_bytes), len(found.sample))
        self._noted[shard] = tuple(one.key for one in (*biggest, *hottest))
        return ShardStats(
            shard,
            now,
            round(found.keys),
            round(found.bytes),
            round(self._rate(shard, found), 1),
            len(found.sample),
            tuple(map(_named, biggest)),
            tuple(map(_named, hottest)),
            found.info.counts_accesses,
            covered=self._covered(shard, found),
            # While a move goes on they are copies, which nobody counts.
            strays=0 if shard in self._publisher.topology.unclean else found.held - round(found.keys),
        )

    def _rate(self, shard: str, found: Measured) -> float:
        """Operations a second since the look before; 0 at the first one."""
        now = _Counter(found.info.run_id, found.info.operations, self._clock.monotonic())
        before, self._counters[shard] = self._counters.get(shard), now
        if before is None or before.run_id != now.run_id or before.operations > now.operations:
            return 0.0
        passed_s = max(now.at_s - before.at_s, 0.001)
        rate = (now.operations - before.operations) / passed_s
        average = self._averages.get(shard, rate)
        self._averages[shard] = average + (rate - average) * (1 - exp(-passed_s / _OPS_MEMORY_S))
        return rate


def _top(found: Iterable[FoundKey], weight: Callable[[FoundKey], int]) -> list[FoundKey]:
    return sorted(found, key=lambda one: (-weight(one), one.key))[:_NAMED_KEYS]


def _named(found: FoundKey) -> KeyFigure:
    return KeyFigure(found.key.decode(errors="backslashreplace")[:200], found.bytes, found.hits)
