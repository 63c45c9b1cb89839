"""What is shown, put together from the topology, the store and the servers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helios.admin.balance import read_standing
from helios.admin.counting import count_beside_strays, count_owned, may_hold_others
from helios.admin.shards import NO_LEADER, NO_MAJORITY, replaced_server, why_it_stays
from helios.admin.views import ChangeView, MigrationView, NodeView, PlaceView, ShardView, StatsView
from helios.control.health import as_answered
from helios.errors import EngineError
from helios.model.health import NodeHealth, NodeStatus
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationPhase, MigrationStatus
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, NodeState, PairPhase, Shard, Topology
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.records import CoordinatorRecord, ShardStats
from helios.ports.store import Store

_COUNT_TIMEOUT_S = 5.0


async def node_views(
    topology: Topology,
    store: Store,
    connector: Connector,
    clock: Clock,
    settings: ClusterSettings,
    *,
    exact: bool = True,
) -> list[NodeView]:
    """Every node with its keys, counted now; a server that does not answer in time shows none.

    Without `exact` neither does one that may hold keys of others, which would have to be looked at one by one.
    """
    standing = await read_standing(topology, store, clock, settings)
    deviations = standing.deviations(topology, settings.sharding.rebalance_by)
    routes = Routes(topology)
    strays = {shard: stats.strays for shard, stats in standing.stats.items()}
    looks = await asyncio.gather(
        *(_look(connector, routes, shard, exact, strays.get(shard.id, 0)) for shard in topology.shards)
    )
    seen = {shard.id: look for shard, look in zip(topology.shards, looks, strict=True)}
    nobody = _Look()
    refuses = _refuses_by_node(topology, seen)
    now = clock.wall()
    return [
        _node_view(
            node,
            topology,
            routes,
            standing.stats.get(node.id),
            as_answered(standing.health[node.id], refuses.get(node.id), now),
            seen.get(node.id, nobody).keys,
            deviations.get(node.id),
        )
        for node in topology.nodes
    ]


@dataclass(frozen=True, slots=True)
class _Look:
    """What a server says now: its keys, and why it refuses writes; None where it does not answer."""

    keys: int | None = None
    refuses: str | None = None


def _refuses_by_node(topology: Topology, seen: Mapping[str, _Look]) -> dict[str, str | None]:
    """Why servers that lead refuse writes, by their nodes: empty where all take them, None where one is silent."""
    found: dict[str, str | None] = {}
    for shard in topology.shards:
        node, refuses = shard.leading.node, seen[shard.id].refuses
        before = found.get(node, "")
        found[node] = before or refuses if before is not None else refuses or None
    return found


async def _look(connector: Connector, routes: Routes, shard: Shard, exact: bool, strays: int) -> _Look:
    refuses: str | None = None
    try:
        async with asyncio.timeout(_COUNT_TIMEOUT_S):
            engine = await connector.open(shard.leading)
            try:
                refuses = await engine.refuses_writes()
                if not may_hold_others(routes.topology, shard.id):
                    return _Look(await count_beside_strays(engine, routes, shard.id, strays), refuses)
                return _Look(await count_owned(engine, routes, shard.id) if exact else None, refuses)
            finally:
                await engine.close()
    except (EngineError, TimeoutError):
        return _Look(None, refuses)


def _node_view(
    node: Node,
    topology: Topology,
    routes: Routes,
    stats: ShardStats | None,
    health: NodeHealth,
    keys: int | None,
    deviation: float | None,
) -> NodeView:
    shard = topology.shard(node.id)
    known = stats is not None and stats.measured_at is not None
    return NodeView(
        id=node.id,
        address=str(node.address),
        kind=str(node.kind),
        status=str(health.status),
        state=_state(node, topology),
        weight=node.weight,
        zone=node.zone,
        keys=keys,
        ring_share=round(routes.share(node.id), 6),
        leader="" if shard is None else shard.leader,
        leader_address="" if shard is None else str(shard.leading.address),
        last_seen=health.last_seen,
        status_since=health.since,
        status_reason="; ".join(
            filter(None, (health.reason, replaced_server(topology, node), why_it_stays(topology, node)))
        ),
        bytes=stats.bytes if stats is not None and known else None,
        ops=stats.ops if stats is not None and known else None,
        deviation=deviation if known else None,
        measured_at=stats.measured_at if stats is not None else None,
    )


def _state(node: Node, topology: Topology) -> str:
    if node.state is NodeState.DRAINED and node.id not in dict(topology.placement.weights):
        return "drained"
    if node.state is not NodeState.ACTIVE:
        return "draining"
    arriving = topology.transition is not None and any(
        pair.target == node.id and pair.phase is not PairPhase.SWITCHED for pair in topology.transition.pairs
    )
    return "joining" if arriving and node.id not in dict(topology.placement.weights) else "active"


def _remaining_s(migration: Migration, now: float) -> float | None:
    if migration.status is not MigrationStatus.IN_PROGRESS or migration.phase is not MigrationPhase.COPYING:
        return None
    if migration.paused or not migration.keys_moved or migration.start_time is None:
        return None
    elapsed_s = max(now - migration.start_time, 0.001)
    return round((migration.total_keys - migration.keys_moved) / (migration.keys_moved / elapsed_s), 1)


def migration_view(migration: Migration, now: float) -> MigrationView:
    """A migration in the words of the interface."""
    return MigrationView(
        id=migration.id,
        change=migration.change,
        source_node=migration.source,
        target_node=migration.target,
        key_pattern=migration.pattern,
        status=str(migration.status),
        phase=str(migration.phase),
        keys_moved=migration.keys_moved,
        total_keys=migration.total_keys,
        requested_at=migration.requested_at,
        start_time=migration.start_time,
        end_time=migration.end_time,
        pause_ms=migration.pause_ms,
        slowed_ms=migration.slowed_ms,
        paused=migration.paused,
        remaining_s=_remaining_s(migration, now),
        verified=migration.verified,
        error=migration.error,
    )


_DONE = {
    ChangeKind.FOUND: "the cluster exists now",
    ChangeKind.ADD_NODE: "added; it owns nothing until `rebalance` or `migrate` gives it keys",
    ChangeKind.REMOVE_NODE: "removed",
    ChangeKind.MIGRATE: "done",
    ChangeKind.REBALANCE: "done",
    ChangeKind.REWEIGHT: "its weight is changed, and its share with it",
    ChangeKind.DRAIN: "drained: it owns nothing until `undrain` or `reweight` brings it back",
    ChangeKind.UNDRAIN: "it has its share again",
    ChangeKind.PROMOTE: "it leads already",
    ChangeKind.REPAIR: "done",
    ChangeKind.END_SCRIPT: "done",
    ChangeKind.BACKUP: "all shards were held, and their copies have begun",
}
_UNDER_WAY = {
    ChangeKind.FOUND: "being founded",
    ChangeKind.ADD_NODE: "added; its keys are on their way",
    ChangeKind.REMOVE_NODE: "draining; it goes when it is empty",
    ChangeKind.MIGRATE: "accepted",
    ChangeKind.REBALANCE: "accepted",
    ChangeKind.REWEIGHT: "accepted",
    ChangeKind.DRAIN: "draining; it stays in the cluster",
    ChangeKind.UNDRAIN: "accepted",
    ChangeKind.PROMOTE: "accepted; it leads as soon as it has everything",
    ChangeKind.REPAIR: "accepted",
    ChangeKind.END_SCRIPT: "accepted",
    ChangeKind.BACKUP: "it waits for the changes before it",
}


def change_view(change: Change, migrations: Sequence[str]) -> ChangeView:
    """A request with what came of it so far."""
    if change.import_keys and not change.status.ended:
        message = "its keys are moving to their owners; it joins when it is empty"
    elif change.kind is ChangeKind.ADD_NODE and change.status is ChangeStatus.DONE and migrations:
        message = "added; it has its share of the keys"
    else:
        message = (_DONE if change.status is ChangeStatus.DONE else _UNDER_WAY)[change.kind]
        if change.kind in (ChangeKind.REBALANCE, ChangeKind.ADD_NODE, ChangeKind.PROMOTE):
            message = change.outcome or (f"{message}: {change.reason}" if change.reason else message)
    return ChangeView(change.id, str(change.kind), str(change.status), change.error or message, tuple(migrations))


def stats_view(
    topology: Topology,
    settings: ClusterSettings,
    nodes: Sequence[NodeView],
    shards: Sequence[ShardView],
    migrations: Sequence[Migration],
    coordinator: CoordinatorRecord | None,
) -> StatsView:
    """The cluster in numbers."""
    copies = [copy for shard in shards for copy in shard.copies]
    return StatsView(
        total_nodes=len(nodes),
        online_nodes=sum(NodeStatus(node.status).heard for node in nodes),
        total_keys=sum(node.keys or 0 for node in nodes),
        sharding_enabled=topology.sharding_enabled,
        replication_factor=settings.sharding.replication_factor,
        virtual_nodes=topology.placement.virtual_nodes,
        active_migrations=sum(m.status is MigrationStatus.IN_PROGRESS for m in migrations),
        pending_migrations=sum(m.status is MigrationStatus.PENDING for m in migrations),
        epoch=topology.epoch,
        coordinator=None if coordinator is None else coordinator.node,
        auto_rebalance=settings.sharding.auto_rebalance,
        migration_rate=settings.sharding.migration_rate,
        rules=len(topology.placement.rules),
        nodes=tuple(nodes),
        under_replicated=sum(shard.missing > 0 for shard in shards),
        leaderless=sum(shard.status == NO_LEADER for shard in shards),
        without_majority=sum(shard.status == NO_MAJORITY for shard in shards),
        lag_bytes=max((one.lag_bytes for one in copies if one.lag_bytes is not None), default=None),
        lag_s=max((one.lag_s for one in copies if one.lag_s is not None), default=None),
    )


def places(topology: Topology, shard_id: str) -> tuple[PlaceView, ...]:
    """The nodes that have the shard's keys, whose server leads first; those that still catch up are none of them."""
    shard = topology.shard(shard_id)
    if shard is None:
        return ()
    others = sorted((member for member in shard.members if member.id != shard.leader), key=lambda member: member.id)
    nodes = {node.id: str(node.address) for node in topology.nodes}
    return tuple(
        PlaceView(member.node, nodes.get(member.node, ""), "leader" if member is shard.leading else "replica")
        for member in (shard.leading, *others)
    )
