"""How evenly the load lies, what would even it out, and what has been done about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from helios.access.request_context import visible
from helios.admin.measuring import known_loads, snapshot
from helios.admin.router_views import HotKeyView, RouterView
from helios.admin.routers import router_views
from helios.admin.views import BalanceView, KeyFigureView, NodeLoadView, PreviewView
from helios.control.admission import desired_weights
from helios.control.health import seen_by_reader, suspect_after_s
from helios.control.rebalance import NOTHING_TO_MOVE, RebalancePolicy, Rebalancing, outcome, propose
from helios.errors import InvalidInput, Unavailable
from helios.model.balancing import Measure, Strategy
from helios.model.health import NodeHealth
from helios.model.settings import ClusterSettings
from helios.model.topology import NodeKind, Topology
from helios.placement.balance import band_of
from helios.placement.load import Load, spread
from helios.placement.table import table_of
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.records import (
    AGENTS,
    HEALTH,
    LOAD,
    RUNNING,
    AgentRecord,
    HealthRecord,
    KeyFigure,
    LoadRecord,
    ShardStats,
    list_records,
    read_record,
)
from helios.ports.store import Store

_HOT_KEYS = 5


def policy_of(strategy: str, by: str, settings: ClusterSettings) -> RebalancePolicy:
    """The settings with the strategy and measure of these names, where they are not empty. Raises InvalidInput."""
    sharding = settings.sharding
    try:
        chosen = Strategy(strategy.lower().replace("-", "_")) if strategy else sharding.rebalance_strategy
    except ValueError:
        raise InvalidInput(f"{strategy!r} is no strategy: use {' or '.join(Strategy)}") from None
    try:
        measure = Measure(by.lower()) if by else sharding.rebalance_by
    except ValueError:
        raise InvalidInput(f"{by!r} cannot be balanced by: use {', '.join(Measure)}") from None
    return RebalancePolicy(strategy=chosen, by=measure, threshold=sharding.rebalance_threshold)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the coordinator has written down of every node: its load and its health."""

    collected_at: float | None
    stats: Mapping[str, ShardStats]
    health: Mapping[str, NodeHealth]

    def load(self, shard: str, by: Measure) -> float:
        """What a shard carries; 0 where nothing is known."""
        stats = self.stats.get(shard)
        if stats is None:
            return 0.0
        return {Measure.KEYS: stats.keys, Measure.BYTES: stats.bytes, Measure.OPS: stats.ops}[by]

    def deviations(self, topology: Topology, by: Measure) -> dict[str, float]:
        """For each node that should have a share how far it is from it: 0.3 is 30 % more."""
        weights = desired_weights(topology)
        if not weights:
            return {}
        everywhere = {shard.id: self.load(shard.id, by) for shard in topology.shards}
        return spread(everywhere, weights).deviations


async def read_standing(topology: Topology, store: Store, clock: Clock, settings: ClusterSettings) -> Standing:
    """Read what there is; costs four reads of the store."""
    load = await read_record(store, LoadRecord, LOAD)
    judged = await read_record(store, HealthRecord, HEALTH)
    agents = await _heard_at(store, now := clock.wall(), timeout_s := settings.coordinator.health_timeout)
    known = {} if judged is None else {health.node: health for health in judged.value.nodes}
    for node in topology.nodes:
        if node.kind is NodeKind.EXTERNAL and node.id not in known:
            agents.setdefault(node.id, now)  # it has no agent, and the coordinator has not looked at it yet
    return Standing(
        None if load is None else load.value.collected_at,
        {} if load is None else {stats.shard: stats for stats in load.value.shards},
        {
            node.id: seen_by_reader(node.id, known.get(node.id), agents.get(node.id), now, timeout_s)
            for node in topology.nodes
        },
    )


async def _heard_at(store: Store, now: float, timeout_s: float) -> dict[str, float]:
    """When each node was last heard from. The clocks of other hosts may be off: an agent's lease is what counts."""
    running = {entry.key.removeprefix(RUNNING) for entry in (await store.list(RUNNING)).entries}
    heard = {}
    for agent in [record.value for record in await list_records(store, AgentRecord, AGENTS)]:
        if agent.kind is NodeKind.EXTERNAL:
            heard[agent.node] = agent.seen_at
        else:
            heard[agent.node] = now if agent.node in running else min(agent.seen_at, now - suspect_after_s(timeout_s))
    return heard


async def proposed(
    topology: Topology,
    standing: Standing,
    connector: Connector,
    clock: Clock,
    policy: RebalancePolicy,
) -> tuple[Rebalancing | None, Load]:
    """What a rebalance would do now, by a sample taken for it; nothing is changed. Raises Unavailable."""
    if topology.transition is not None:
        raise Unavailable("keys are moving: what would be left to even out is known when they have arrived")
    ops = {shard: stats.ops for shard, stats in standing.stats.items()}
    load = await snapshot(topology, connector.open, known_loads(standing.stats), ops, clock.monotonic())
    return propose(topology, load, policy), load


def moves_of(topology: Topology, made: Rebalancing, load: Load) -> tuple[PreviewView, ...]:
    """What a plan would move from where to where, estimated from the sample behind it."""
    before, after = table_of(topology.placement).ring, table_of(made.placement).ring
    sampled = Counter(key.shard for key in load.sample)
    keys: Counter[tuple[str, str]] = Counter()
    volume: Counter[tuple[str, str]] = Counter()
    for key in load.sample:
        # What a rule has brought to its shard stays there.
        target = after.at(key.position)
        if target != key.shard and before.at(key.position) == key.shard:
            keys[key.shard, target] += 1
            volume[key.shard, target] += round(key.bytes)
    views = []
    for (source, target), count in sorted(keys.items()):
        scale = load.shards[source].keys / sampled[source]
        size = round(volume[source, target] * scale)
        views.append(PreviewView(source, target, round(count * scale), size, sampled[source]))
    return tuple(views)


async def balance_view(
    topology: Topology,
    store: Store,
    connector: Connector,
    clock: Clock,
    settings: ClusterSettings,
    choice: tuple[str, str],
) -> BalanceView:
    """The load of every node as last collected, and what a rebalance would do about it."""
    policy = policy_of(*choice, settings)
    standing = await read_standing(topology, store, clock, settings)
    deviations = standing.deviations(topology, policy.by)
    worst = max(deviations, key=lambda node: (abs(deviations[node]), node), default="")
    made: Rebalancing | None = None
    moves: tuple[PreviewView, ...] = ()
    reason = NOTHING_TO_MOVE
    try:
        made, load = await proposed(topology, standing, connector, clock, policy)
    except Unavailable as error:
        reason = str(error)
    else:
        reason = outcome(made, load, topology, policy)
        if made is not None:
            moves = moves_of(topology, made, load)
    return BalanceView(
        by=str(policy.by),
        strategy=str(policy.strategy),
        threshold=policy.threshold,
        band=band_of(policy.strategy, policy.threshold),
        auto_rebalance=settings.sharding.auto_rebalance,
        collected_at=standing.collected_at,
        nodes=tuple(_node_load(topology, standing, node, deviations.get(node)) for node in sorted(standing.health)),
        worst=worst,
        worst_deviation=deviations.get(worst, 0.0),
        proposal=reason,
        moved=0.0 if made is None else made.plan.moved,
        least=0.0 if made is None else made.plan.least,
        worst_after=None if made is None else made.plan.after.worst,
        moves=moves,
        hot_keys=tuple(replace(one, key=visible(one.key)) for one in hottest(await router_views(store))),
    )


def hottest(routers: Sequence[RouterView]) -> tuple[HotKeyView, ...]:
    """The keys that all routers together have seen the most of; where one lies is what the last of them says."""
    ops: defaultdict[str, float] = defaultdict(float)
    shards: dict[str, str] = {}
    for one in (key for router in routers for key in router.hot_keys):
        ops[one.key] += one.ops
        shards[one.key] = one.shard
    found = sorted(
        (HotKeyView(key, shards[key], count) for key, count in ops.items()), key=lambda one: (-one.ops, one.key)
    )
    return tuple(found[:_HOT_KEYS])


def _node_load(topology: Topology, standing: Standing, node_id: str, deviation: float | None) -> NodeLoadView:
    stats = standing.stats.get(node_id, ShardStats(node_id))
    weights = desired_weights(topology)
    known = stats.measured_at is not None
    return NodeLoadView(
        id=node_id,
        status=str(standing.health[node_id].status),
        weight=weights.get(node_id, 0.0),
        fair_share=weights.get(node_id, 0.0) / sum(weights.values()) if weights else 0.0,
        keys=stats.keys if known else None,
        bytes=stats.bytes if known else None,
        ops=stats.ops if known else None,
        deviation=deviation if known else None,
        measured_at=stats.measured_at,
        sampled=stats.sampled,
        big_keys=_key_views(stats.big_keys),
        hot_keys=_key_views(stats.hot_keys),
        hits_known=stats.hits_known,
        error=stats.error,
        covered=stats.covered,
    )


def _key_views(keys: tuple[KeyFigure, ...]) -> tuple[KeyFigureView, ...]:
    return tuple(KeyFigureView(visible(one.key), one.bytes, one.hits) for one in keys)
