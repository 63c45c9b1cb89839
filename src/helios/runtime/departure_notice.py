"""Telling the person at a terminal what becomes of nodes: that one has left, and what their agents report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import aclosing

from helios.errors import StoreError
from helios.model.codec import decode
from helios.model.topology import NodeKind
from helios.ports.following import updates
from helios.ports.records import AGENTS, AgentRecord
from helios.ports.store import Store
from helios.ports.topologies import TopologyReader

_RETRY_S = 1.0


def _unheeded(_node: str) -> None:
    pass


async def tell_of_departure(
    store: Store,
    tell: Callable[[str, bool], None],
    back: Callable[[str], None] = _unheeded,
    before: Collection[str] = (),
) -> None:
    """For ever: call `tell` with the id of each node that was in the cluster and is not any more.

    Nodes in `before` were in it when it was last looked at. With the id goes whether the cluster has only external
    nodes now. `back` is called with that of each node which has left and is in the cluster again.
    """
    present = set(before)
    left: set[str] = set()
    async with aclosing(TopologyReader(store).sampled()) as topologies:
        async for topology in topologies:
            now = {node.id for node in topology.nodes}
            alone = all(node.kind is NodeKind.EXTERNAL for node in topology.nodes)
            for node_id in sorted(present - now):
                tell(node_id, alone)
            for node_id in sorted(left & now):
                back(node_id)
            left = (left | present) - now
            present = now


async def tell_news(store: Store, tell: Callable[[str], None]) -> None:
    """For ever: call `tell` with what the agents report from now on: deaths, hangs and returns of what they run."""
    known: dict[str, tuple[int, int]] = {}  # of each node its agent's pid and how much of its news is known
    first = True
    while True:
        try:
            async with aclosing(updates(store, AGENTS)) as following:
                async for update in following:
                    for event in update.events:
                        if event.value is None:
                            continue
                        record = decode(AgentRecord, event.value)
                        pid, count = known.get(record.node, (record.pid, record.news_count if first else 0))
                        fresh = record.news_count - (count if pid == record.pid else 0)
                        known[record.node] = record.pid, record.news_count
                        for sentence in record.news[max(0, len(record.news) - fresh) :] if fresh > 0 else ():
                            tell(f"{record.node}: {sentence}")
                    first = False
            return
        except StoreError:
            await asyncio.sleep(_RETRY_S)
