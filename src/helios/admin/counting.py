"""How many keys of its own a server holds."""

from __future__ import annotations

from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.engine import Engine

SCAN_COUNT = 1000
_LOOKED_THROUGH_KEYS = 100_000  # a server with more is not looked through for what scripts may have left there


def may_hold_others(topology: Topology, shard: str) -> bool:
    """Whether the shard's server may hold keys that are not its own, so that counting must look at each."""
    return shard in topology.unclean


async def count_owned(engine: Engine, routes: Routes, shard: str) -> int:
    """How many keys of its own a server holds, by looking at each: for servers that may hold others, too."""
    owned: set[bytes] = set()
    cursor = 0
    while True:
        cursor, keys = await engine.scan(cursor, SCAN_COUNT)
        owned.update(key for key in keys if routes.owner(key) == shard)
        if cursor == 0:
            return len(owned)


async def count_beside_strays(engine: Engine, routes: Routes, shard: str, strays: int) -> int:
    """How many keys of its own a server holds that no move concerns; `strays` is what was last seen of others.

    Where scripts have run and there are not many keys, each is looked at.
    """
    held = await engine.count()
    if held <= _LOOKED_THROUGH_KEYS and (strays or (await engine.info()).script_calls):
        return await count_owned(engine, routes, shard)
    return max(held - strays, 0)
