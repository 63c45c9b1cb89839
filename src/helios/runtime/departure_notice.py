"""Telling the person at a terminal that a node has left the cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from helios.model.topology import Topology
from helios.ports.store import Store
from helios.stores.following import followed
from helios.stores.records import TOPOLOGY


async def tell_of_departure(store: Store, tell: Callable[[str], None]) -> None:
    """For ever: call `tell` with the id of each node that was in the cluster and is not any more."""
    present: set[str] = set()
    async with aclosing(followed(store, Topology, TOPOLOGY)) as topologies:
        async for topology in topologies:
            now = {node.id for node in topology.nodes}
            for node_id in sorted(present - now):
                tell(node_id)
            present = now
