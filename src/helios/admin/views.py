"""What people and programs see: the shapes that RESP verbs, REST and CLI all show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with its share. `status` is online, suspect or offline; `keys` is None where it does not answer.

    `state` is active, joining (keys are on their way to it) or draining. `ring_share` is between 0 and 1.
    `leader` is the id of the member that takes the shard's commands, `leader_address` where it listens.
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


@dataclass(frozen=True, slots=True)
class KeyView:
    """Where a key lives. `decided_by` is "ring" or "rule"; `rule` names the pattern then."""

    key: str
    node_id: str
    address: str
    decided_by: str
    rule: str | None


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
class PreviewView:
    """What a change would move from one node to another, estimated from a sample of `sampled` keys."""

    source_node: str
    target_node: str
    keys: int
    bytes: int
    sampled: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a check found. `kind` is stray, double, orphaned_user, under_replicated, unreachable,
    silent_node or abandoned_migration; `node` is empty where it concerns the whole cluster."""

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
    """The cluster in numbers. `total_keys` counts owned keys only; unreachable nodes are left out of it."""

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
