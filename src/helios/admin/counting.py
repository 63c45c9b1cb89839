"""How many keys of its own a server holds."""

from __future__ import annotations

from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.engine import Engine

SCAN_COUNT = 1000


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
