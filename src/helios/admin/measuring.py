"""What shards carry: counted and sampled on their servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from helios.errors import EngineError, EngineUnreachable, Unavailable
from helios.model.topology import Member, Shard, Topology
from helios.placement.load import Load, SampledKey, ShardLoad
from helios.placement.ring import position
from helios.placement.routing import Routes
from helios.ports.engine import Engine, EngineInfo
from helios.ports.records import ShardStats

Open = Callable[[Member], Awaitable[Engine]]
Opened = Callable[[Member], AbstractAsyncContextManager[Engine]]
Found = TypeVar("Found")

PLAN_SAMPLE_KEYS = 5000
_SCAN_COUNT = 500
_EMPTY_SCANS_MAX = 16  # of a server whose table has shrunk
_AT_ONCE = 16
_ACCOUNT_ROUGH_BYTES = 1 << 20  # what it may be wrong by
_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key of a sample with its bytes and, where the server counts them, its accesses lately."""

    key: bytes
    bytes: int
    hits: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found on one shard: its own keys, estimated where its server may hold others, and a sample of them.

    `cursor` is where the next sample goes on; 0 is the beginning. `held` counts all keys of the server.
    """

    info: EngineInfo
    keys: float
    bytes: float
    sample: tuple[FoundKey, ...]
    cursor: int
    held: int


async def measure(
    engine: Engine, routes: Routes, shard: str, sample_keys: int, cursor: int = 0, also: Collection[bytes] = ()
) -> Measured:
    """Count a shard's keys and look at some: about `sample_keys` of them from `cursor` on, and those in `also`.

    Costs the server some two milliseconds for a thousand keys. A sample from the beginning that holds every key
    makes the stats exact.
    """
    beginning = cursor == 0
    info, held, (cursor, keys) = await asyncio.gather(engine.info(), engine.count(), engine.scan(cursor, _SCAN_COUNT))
    seen = dict.fromkeys((*also, *keys))
    scans = 1
    while cursor and len(seen) < sample_keys and scans < sample_keys // _SCAN_COUNT + _EMPTY_SCANS_MAX:
        cursor, keys = await engine.scan(cursor, _SCAN_COUNT)
        seen.update(dict.fromkeys(keys))
        scans += 1
    found = await _looked_at(engine, list(seen), info)
    own = [one for one in found if routes.owner(one.key) == shard]
    if beginning and cursor == 0:
        return Measured(info, len(own), sum(one.bytes for one in own), tuple(own), 0, held)
    # Those in `also` were not drawn, and stand for no others.
    drawn = [one for one in found if one.key not in also]
    known = [one for one in own if one.key in also]
    mine = [one for one in own if one.key not in also]
    drawn_keys = (held - len(found) + len(drawn)) * (len(mine) / len(drawn) if drawn else 0.0)
    drawn_bytes = drawn_keys * (sum(one.bytes for one in mine) / len(mine) if mine else 0.0)
    estimated = sum(one.bytes for one in known) + drawn_bytes
    all_bytes, own_bytes = sum(one.bytes for one in found), sum(one.bytes for one in own)
    # Big values that the sample has missed, or taken to be common, show in the server's own account of all.
    accounted = info.dataset_bytes * (own_bytes / all_bytes if all_bytes else 0.0)
    if info.dataset_bytes:
        estimated = min(max(estimated, accounted - _ACCOUNT_ROUGH_BYTES), accounted + _ACCOUNT_ROUGH_BYTES)
    return Measured(info, len(known) + drawn_keys, estimated, tuple(own), cursor, held)


async def _looked_at(engine: Engine, keys: list[bytes], info: EngineInfo) -> list[FoundKey]:
    """The keys that are still there, in steps that keep no server busy for long."""
    found: list[FoundKey] = []
    for start in range(0, len(keys), _SCAN_COUNT):
        step = keys[start : start + _SCAN_COUNT]
        sizes = await engine.sizes(step)
        hits = await engine.frequencies(step) if info.counts_accesses else [0] * len(step)
        found += [FoundKey(*one) for one in zip(step, sizes, hits, strict=True) if one[1]]
    return found


def for_once(open_engine: Open) -> Opened:
    """Engines that are closed when they have been looked at."""

    @asynccontextmanager
    async def opened(member: Member) -> AsyncIterator[Engine]:
        engine = await open_engine(member)
        try:
            yield engine
        finally:
            await engine.close()

    return opened


async def measure_all(
    topology: Topology, opened: Opened, look: Callable[[Engine, Shard], Awaitable[Found]]
) -> dict[str, Found | EngineError]:
    """`look` at every shard, some at a time; for one that does not answer the error, which keeps none from the rest."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(shard: Shard) -> Found | EngineError:
        try:
            async with places, asyncio.timeout(_TIMEOUT_S), opened(shard.leading) as engine:
                return await look(engine, shard)
        except TimeoutError:
            return EngineUnreachable(f"{shard.leading.id} did not answer within {_TIMEOUT_S:g} s")
        except EngineError as error:
            return error

    results = await asyncio.gather(*map(one, topology.shards))
    return {shard.id: result for shard, result in zip(topology.shards, results, strict=True)}


async def snapshot(
    topology: Topology, open_engine: Open, known: Mapping[str, ShardLoad], ops: Mapping[str, float], now_s: float
) -> Load:
    """The load of the whole cluster to plan by. A shard that does not answer is silent and counts as in `known`.

    Operations a second are taken from `ops`: they need two looks some time apart. Raises Unavailable where no shard
    answers.
    """
    routes = Routes(topology)

    async def look(engine: Engine, shard: Shard) -> Measured:
        return await measure(engine, routes, shard.id, PLAN_SAMPLE_KEYS)

    results = await measure_all(topology, for_once(open_engine), look)
    measured = {shard: one for shard, one in results.items() if isinstance(one, Measured)}
    silent = {shard: str(error) for shard, error in results.items() if isinstance(error, EngineError)}
    if silent and not measured:
        raise Unavailable(f"what nodes carry is not known: {next(iter(silent.values()))}, nor does any other")
    load = load_of(measured, ops, now_s)
    last = {shard: known.get(shard, ShardLoad()) for shard in silent}
    return replace(load, shards={**load.shards, **last}, silent=silent)


def known_loads(stats: Mapping[str, ShardStats]) -> dict[str, ShardLoad]:
    """What was last collected of each shard, for those that do not answer when a plan is to be made."""
    return {shard: ShardLoad(one.keys, one.bytes, one.ops) for shard, one in stats.items()}


def load_of(results: Mapping[str, Measured], ops: Mapping[str, float], now_s: float) -> Load:
    """Measured shards as a snapshot for planning."""
    return Load(
        {shard: ShardLoad(one.keys, one.bytes, ops.get(shard, 0.0)) for shard, one in results.items()},
        [
            SampledKey(shard, position(found.key), found.bytes, found.hits)
            for shard, one in results.items()
            for found in one.sample
        ],
        now_s,
    )
