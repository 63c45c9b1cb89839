"""What people and programs see: the shapes that RESP verbs, REST and CLI all show."""

from __future__ import annotations

from dataclasses import dataclass

from helios.admin.router_views import HotKeyView


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with its share; `keys` is None where it does not answer.

    `status` is online, read-only (it answers and refuses writes), suspect or offline. `state` is active, joining (keys
    are on their way to it), draining or drained. `ring_share` is between 0 and 1.
    `leader` is the id of the member that takes the shard's commands, `leader_address` where it listens.
    `status_since` (Unix seconds) is when the status began, `status_reason` what is missing, empty where nothing is.
    `bytes`, `ops` (a second) and `deviation` (from its share by what is balanced: 0.3 is 30 % more) are as last
    collected, at `measured_at` (Unix seconds); None where nothing is known yet.
    """

    id: str
    address: str
    kind: str
    status: str
    state: str
    weight: float
    zone: str
    keys: int | None
    ring_share: float
    leader: str
    leader_address: str
    last_seen: float | None
    status_since: float | None
    status_reason: str
    bytes: int | None
    ops: float | None
    deviation: float | None
    measured_at: float | None = None


@dataclass(frozen=True, slots=True)
class KeyFigureView:
    """A key that stands out. `hits` is about how often it was accessed lately, 0 where that is not known."""

    key: str
    bytes: int
    hits: int


@dataclass(frozen=True, slots=True)
class NodeLoadView:
    """What a node carries, as last collected at `measured_at` (Unix seconds); None where nothing is known yet.

    `fair_share` is its part of everything by weight, between 0 and 1, and `deviation` how far it is from it: 0.3 is
    30 % more. `big_keys` were found in samples of `sampled` keys so far, and so were `hot_keys`, which its server alone
    can tell, where it counts accesses (`hits_known`). `covered` is the part of its keys, between 0 and 1, that samples
    of the last minute have looked at. `error` says why it could not be looked at last.
    """

    id: str
    status: str
    weight: float
    fair_share: float
    keys: int | None
    bytes: int | None
    ops: float | None
    deviation: float | None
    measured_at: float | None
    sampled: int
    big_keys: tuple[KeyFigureView, ...]
    hot_keys: tuple[KeyFigureView, ...]
    hits_known: bool
    error: str
    covered: float = 0.0


@dataclass(frozen=True, slots=True)
class PreviewView:
    """What a change would move from one node to another, estimated from a sample of `sampled` keys."""

    source_node: str
    target_node: str
    keys: int
    bytes: int
    sampled: int


@dataclass(frozen=True, slots=True)
class BalanceView:
    """How evenly the load lies and what a rebalance would do.

    `by` is keys, bytes or ops. `threshold` is the deviation beyond which is evened out, `band` what the strategy
    leaves. `worst` names the node that is farthest from its share. `proposal` says what a rebalance would do and why;
    `moved` is how much that moves, `least` the least that any way of moving needs (in keys, bytes or operations a
    second), `worst_after` the worst deviation then; None where nothing would be done. `hot_keys` are those that all
    routers together have seen much of in the last minute, the hottest first.
    """

    by: str
    strategy: str
    threshold: float
    band: float
    auto_rebalance: bool
    collected_at: float | None
    nodes: tuple[NodeLoadView, ...]
    worst: str
    worst_deviation: float
    proposal: str
    moved: float
    least: float
    worst_after: float | None
    moves: tuple[PreviewView, ...]
    hot_keys: tuple[HotKeyView, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryView:
    """A change that was admitted, or a failover. `what` was asked for or done, by `origin` (user or automatic).

    `user` is the name of the user who asked, empty where nobody had logged in. `status` and `message` are as for a
    change; times are Unix seconds, `ended_at` None while it is under way. `shard` is whose leader was lost.
    """

    change: str
    kind: str
    what: str
    origin: str
    status: str
    reason: str
    message: str
    requested_at: float
    ended_at: float | None
    keys_moved: int
    user: str = ""
    shard: str = ""


@dataclass(frozen=True, slots=True)
class CopyView:
    """One copy of a shard: the member, and where it is.

    `role` is leader, replica, learner (it still catches up, and counts for nothing) or leaving. `in_sync` is None where
    the leader does not say. `lag_bytes` is how much of what the leader has written it has not acknowledged, `lag_s` how
    long ago it last acknowledged anything; both None for the leader, and where it is not in sync.
    """

    member: str
    node: str
    address: str
    role: str
    in_sync: bool | None
    lag_bytes: int | None = None
    lag_s: float | None = None


@dataclass(frozen=True, slots=True)
class ShardView:
    """A shard and its copies, the leader first.

    `status` is ok, under-replicated (`missing` of the `wanted` copies do not count yet), no majority (too few members
    follow to confirm writes) or no leader. `durability` says when a write is acknowledged: quorum or async.
    """

    id: str
    status: str
    leader_node: str
    leader_address: str
    durability: str
    wanted: int
    missing: int
    copies: tuple[CopyView, ...]


@dataclass(frozen=True, slots=True)
class PlaceView:
    """A node that has a copy of a key; `role` as in CopyView."""

    node: str
    address: str
    role: str


@dataclass(frozen=True, slots=True)
class KeyView:
    """Where a key lives. `decided_by` is "ring" or "rule"; `rule` names the pattern then.

    `copies` are the nodes that have it, the one whose server leads first.
    """

    key: str
    node_id: str
    address: str
    decided_by: str
    rule: str | None
    copies: tuple[PlaceView, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationView:
    """The keys on their way from one node to another. Times are Unix seconds; `error` is None or a sentence.

    `remaining_s` estimates by the speed so far how long copying will still take; None where that means nothing.
    `verified` counts the keys whose copies were compared with the source and found equal.
    """

    id: str
    change: str
    source_node: str
    target_node: str
    key_pattern: str
    status: str
    phase: str
    keys_moved: int
    total_keys: int
    requested_at: float
    start_time: float | None
    end_time: float | None
    pause_ms: float | None
    slowed_ms: int
    paused: bool
    remaining_s: float | None
    verified: int
    error: str | None


@dataclass(frozen=True, slots=True)
class ChangeView:
    """What came of a request, and the migrations that it led to.

    `status` is submitted, queued, running, done, refused, failed or cancelled.
    """

    change: str
    kind: str
    status: str
    message: str
    migrations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleView:
    """A placement rule: keys that the ring gives to `source` and that match all `patterns` live on `target`."""

    source: str
    target: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WeightView:
    """A node on the ring."""

    node: str
    weight: float


@dataclass(frozen=True, slots=True)
class PointView:
    """A point of the ring that a rebalance has given to another node.

    `position` is a whole number below 2^64, as text, since it is too large for the numbers of many programs.
    """

    position: str
    node: str


@dataclass(frozen=True, slots=True)
class PlacementView:
    """All that decides where keys live: a node of weight w has `points` times w points on the ring.

    With `moving` it is that from before the change that is under way.
    """

    epoch: int
    points: int
    nodes: tuple[WeightView, ...]
    reassigned: tuple[PointView, ...]
    rules: tuple[RuleView, ...]
    moving: bool


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting that all processes of the cluster share, with its unit and what it may be.

    `origin` says where its value comes from: "default", a file and line, "environment variable …", "command line" or
    "set at run time". `effect` is "at once", or "fixed" for what no running cluster can change.
    """

    name: str
    value: str
    origin: str
    effect: str
    unit: str
    allowed: str
    description: str


@dataclass(frozen=True, slots=True)
class AlteredView:
    """A setting that got another value, and where that came from."""

    name: str
    old: str
    new: str
    origin: str


@dataclass(frozen=True, slots=True)
class SettingChangeView:
    """Settings that were changed together: when (Unix seconds) and by whom."""

    number: int
    at: float
    by: str
    altered: tuple[AlteredView, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found; `node` is empty where it concerns the whole cluster.

    `kind` is stray, double, stray_script (it wrote keys of other nodes), orphaned_user, under_replicated, unreachable,
    silent_node, direct_client (of an external server), replaced_server (a copy leads its keys) or abandoned_migration.
    """

    kind: str
    node: str
    count: int
    detail: str


@dataclass(frozen=True, slots=True)
class CheckView:
    """The result of a check. `repaired` says what was done, and is empty where nothing was to be done."""

    clean: bool
    findings: tuple[Finding, ...]
    repaired: str


@dataclass(frozen=True, slots=True)
class StatsView:
    """The cluster in numbers. `total_keys` counts owned keys only; unreachable nodes are left out of it.

    `under_replicated`, `leaderless` and `without_majority` count the shards of which that is true. `lag_bytes` and
    `lag_s` are those of the replica that is farthest behind; None where there is none. `replica_reads` were answered by
    replicas, `replica_reads_by_leader` could not be, as the routers that answer have counted since their start.
    """

    total_nodes: int
    online_nodes: int
    total_keys: int
    sharding_enabled: bool
    replication_factor: int
    virtual_nodes: int
    active_migrations: int
    pending_migrations: int
    epoch: int
    coordinator: str | None
    auto_rebalance: bool
    migration_rate: int
    rules: int
    nodes: tuple[NodeView, ...]
    under_replicated: int = 0
    leaderless: int = 0
    without_majority: int = 0
    lag_bytes: int | None = None
    lag_s: float | None = None
    replica_reads: int = 0
    replica_reads_by_leader: int = 0
