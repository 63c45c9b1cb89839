"""Mending what a check finds and what is safe to mend: stale copies of keys that their owners have."""

from __future__ import annotations

from contextlib import AsyncExitStack

from helios.coordinator.access import Access
from helios.coordinator.sweep import SCAN_COUNT, not_owned
from helios.errors import EngineError
from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.engine import Engine


async def repair(access: Access, topology: Topology) -> str:
    """Delete each key that lies where it is not owned and that its owner has too; what was done, in a sentence.

    A stray key whose owner does not have it stays: whether anybody still wants it is for people to decide. No
    transition may run meanwhile. A server that does not answer is named and left.
    """
    routes = Routes(topology)
    deleted = kept = 0
    away: list[str] = []
    async with AsyncExitStack() as opened:
        identity = opened.enter_context(access.identity())
        engines: dict[str, Engine] = {}
        for shard in topology.shards:
            try:
                engines[shard.id] = await access.open_source(shard.leading, identity)
                opened.push_async_callback(engines[shard.id].close)
            except EngineError:
                away.append(shard.id)
        for shard_id, engine in engines.items():
            gone, left = await _mend(shard_id, engine, engines, routes)
            deleted += gone
            kept += left
    words = [f"{deleted} stale copies deleted", f"{kept} stray keys left because their owners do not have them"]
    if away:
        words.append(f"not looked at, since they do not answer: {', '.join(away)}")
    return "; ".join(words)


async def _mend(shard_id: str, engine: Engine, engines: dict[str, Engine], routes: Routes) -> tuple[int, int]:
    stray = not_owned(routes, shard_id)
    deleted = kept = 0
    cursor = 0
    while True:
        cursor, keys = await engine.scan(cursor, SCAN_COUNT)
        by_owner: dict[str, list[bytes]] = {}
        for key in sorted({key for key in keys if stray(key)}):
            by_owner.setdefault(routes.owner(key), []).append(key)
        for owner, strays in by_owner.items():
            there = await engines[owner].exists(strays) if owner in engines else [False] * len(strays)
            stale = [key for key, exists in zip(strays, there, strict=True) if exists]
            deleted += await engine.delete(stale)
            kept += len(strays) - len(stale)
        if cursor == 0:
            return deleted, kept
