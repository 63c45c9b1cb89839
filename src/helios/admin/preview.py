"""What a change would move, without moving anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from helios.admin.views import PreviewView
from helios.control.admission import holds_keys, placement_after
from helios.errors import Refused
from helios.model.ids import founder_id
from helios.model.migration import Change
from helios.model.topology import Member, Node, NodeKind, Placement, Topology
from helios.placement.change import with_weights
from helios.placement.plan import pairs_between
from helios.placement.table import PlacementTable
from helios.ports.engine import Connector, Engine

_SAMPLE_KEYS = 5000
_SCAN_COUNT = 1000


async def preview(topology: Topology, change: Change, connector: Connector) -> list[PreviewView]:
    """For each pair of nodes how many keys and bytes would move, estimated from a sample of each source's keys.

    Reads at most a few thousand keys a source. A transition that runs is taken as finished. Raises what
    stands in the way of the change, EngineUnreachable where a source does not answer.
    """
    if topology.transition is not None:
        topology = replace(topology, placement=topology.transition.next, transition=None)
    following = placement_after(topology, change)
    pairs = pairs_between(topology.placement, following)
    before, after = PlacementTable(topology.placement), PlacementTable(following)
    views: list[PreviewView] = []
    for source in sorted({source for source, _ in pairs}):
        shard = topology.shard(source)
        if shard is None:
            continue
        engine = await connector.open(shard.leading)
        try:
            views += await _source(
                engine, source, [target for other, target in pairs if other == source], before, after
            )
        finally:
            await engine.close()
    return views


async def own_keys(topology: Topology, node: Node, connector: Connector, *, told: bool) -> list[PreviewView]:
    """Which keys of its own a server would bring to which node. Raises Refused where it was not `told` what to do."""
    if node.kind is not NodeKind.EXTERNAL:
        return []
    engine = await connector.open(Member(founder_id(node.id), node.id, node.address))
    try:
        keys = await engine.count()
        if keys and not told:
            raise Refused(holds_keys(node, keys, first=not topology.nodes))
        if not keys or not topology.nodes:
            return []
        # All that it has is foreign to it, as if it had owned everything until now.
        alone = PlacementTable(with_weights(Placement(), {node.id: 1.0}))
        owners = [shard.id for shard in topology.shards]
        return [
            view
            for view in await _source(engine, node.id, owners, alone, PlacementTable(topology.placement))
            if view.keys
        ]
    finally:
        await engine.close()


async def _source(
    engine: Engine, source: str, targets: list[str], before: PlacementTable, after: PlacementTable
) -> list[PreviewView]:
    total = await engine.count()
    seen: set[bytes] = set()
    sample: set[bytes] = set()
    cursor = 0
    while len(sample) < _SAMPLE_KEYS:
        cursor, keys = await engine.scan(cursor, _SCAN_COUNT)
        seen.update(keys)
        sample.update(key for key in keys if before.owner(key) == source)
        if cursor == 0:
            break
    # Where the whole server was seen, the numbers are exact.
    scale = 1.0 if cursor == 0 else total / max(1, len(seen))
    ordered = sorted(sample)
    sizes = await engine.sizes(ordered)
    count: Counter[str] = Counter()
    volume: Counter[str] = Counter()
    for key, size in zip(ordered, sizes, strict=True):
        target = after.owner(key)
        count[target] += 1
        volume[target] += size
    return [
        PreviewView(source, target, round(count[target] * scale), round(volume[target] * scale), len(sample))
        for target in targets
    ]
