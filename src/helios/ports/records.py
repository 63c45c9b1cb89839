"""What Helios keeps in the store: the keys and the shapes behind them (JSON by `model.codec`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from helios.model.codec import decode, encode
from helios.model.health import NodeHealth
from helios.model.ids import Address
from helios.model.migration import Change
from helios.model.topology import NodeKind
from helios.model.users import User
from helios.ports.store import Put, Store

T = TypeVar("T")

TOPOLOGY = "/topology"  # TopologyRecord (ports.topology_records); written by the coordinator alone
PAIRS = TOPOLOGY + "/pairs/"  # + digest of the base + "/" + place in the transition → PairRecord
OBJECTS = "/objects/"  # + digest + "/" + number of the part → what the topology names by digest, written once
COORDINATOR = "/coordinator"  # CoordinatorRecord, bound to the coordinator's lease
TERM = "/term"  # decimal number; grows with each election and outlives the leases
SETTINGS = "/settings"  # ClusterSettings (model.settings): what all processes must agree on
SETTING_ORIGINS = "/setting-origins"  # SettingOrigins
SETTING_CHANGES = "/setting-changes/"  # + number, ten digits → SettingChange
CHANGES = "/changes/"  # + change id → Change
CANCELS = "/cancels/"  # + change id → b"1": a user wants the change not to happen
PAUSES = "/pauses/"  # + change id → b"1": a user wants its copies to wait
MIGRATIONS = "/migrations/"  # + migration id → Migration
SESSIONS = "/sessions/"  # + session id → SessionRecord, bound to the session's lease
AGENTS = "/agents/"  # + node id → AgentRecord; a heartbeat, not bound to a lease
IMPORTS = "/imports/"  # + change id → the batch being taken over: its keys (base64) and whether all are copied
MEMBERS = "/members/"  # + member id → MemberRecord
DEPARTED = "/departed/"  # + member id → Member: a server outside of the cluster that may have users of ours
SCRIPTS = "/scripts/"  # + SHA1 → the body of a script (raw bytes) that SCRIPT LOAD was given
SCRIPTS_FLUSHED = "/scripts-flushed"  # written anew by each SCRIPT FLUSH
STRAY_SCRIPTS = "/stray-scripts/"  # + SHA1 of its name → StrayScript
USERS = "/users"  # UsersRecord: who may use the cluster; there is none before users were ever configured
LOAD = "/load"  # LoadRecord: what the coordinator has last found on all shards
HEALTH = "/health"  # HealthRecord: how the nodes are, written when that changes
HISTORY = "/history/"  # + change id → HistoryRecord: the last changes that have ended


@dataclass(frozen=True, slots=True)
class CoordinatorRecord:
    """Who coordinates now."""

    node: str
    term: int


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A router's lease: what it is and the last epoch that it has acknowledged (0: none yet).

    The coordinator deletes it before it forces the session off: a router whose record is gone starts anew.
    At `address` the router says how it fares, to who knows the secret. `deaf`: it sends no fenced command, but
    messages that the targets of the fences would publish could still be missed. At the members `as_default` it has no
    user of its own, so that only the end of its lease, `ttl_s` after its last renewal, ends it there.
    """

    id: str
    router: str
    acked_epoch: int = 0
    worker: int = 0
    address: str = ""
    secret: str = ""
    deaf: bool = False
    as_default: tuple[str, ...] = ()
    ttl_s: float = 3.0


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """A node's heartbeat: when it was last heard from (Unix seconds) and how to reach it.

    `news` are the last sentences that its agent has for people, of `news_count` since the agent's start.
    """

    node: str
    address: Address
    kind: NodeKind
    seen_at: float
    ready: bool = True
    pid: int = 0
    version: str = ""
    news: tuple[str, ...] = ()
    news_count: int = 0


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """How to reach and administer a server process: made by the agent that supervises it."""

    id: str
    node: str
    address: Address
    user: str
    password: str


@dataclass(frozen=True, slots=True)
class UsersRecord:
    """Who may use the cluster, by name; the settings file of `helios up` is where they come from."""

    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class SettingOrigins:
    """Where the values in /settings come from, by name; what is not named stands at its default."""

    of: dict[str, str]


@dataclass(frozen=True, slots=True)
class AlteredSetting:
    """A setting that got another value; `origin` is where that comes from, `before` where the old one came from."""

    name: str
    old: str
    new: str
    origin: str
    before: str


@dataclass(frozen=True, slots=True)
class SettingChange:
    """Settings that were changed together: when (Unix seconds) and by whom."""

    number: int
    at: float
    by: str
    altered: tuple[AlteredSetting, ...]


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A key that stands out: its name as people read it, its bytes, and accesses lately (0: unknown)."""

    key: str
    bytes: int
    hits: int = 0


@dataclass(frozen=True, slots=True)
class ShardStats:
    """What a shard carries: its own keys, their bytes, operations a second, and what stood out in a sample.

    Figures of a shard that does not answer are those of its last answer; `error` says what is wrong then.
    `hits_known` tells whether its server counts accesses, so that hot keys could be found. `covered` is the part of
    its keys, between 0 and 1, that samples of the last minute have looked at. `strays` are about how many keys its
    server has besides, which scripts have made up or moves left.
    """

    shard: str
    measured_at: float | None = None
    keys: int = 0
    bytes: int = 0
    ops: float = 0.0
    sampled: int = 0
    big_keys: tuple[KeyFigure, ...] = ()
    hot_keys: tuple[KeyFigure, ...] = ()
    hits_known: bool = False
    error: str = ""
    covered: float = 0.0
    strays: int = 0


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """The figures of all shards as collected last (Unix seconds)."""

    collected_at: float
    shards: tuple[ShardStats, ...]


@dataclass(frozen=True, slots=True)
class StrayScript:
    """A script (by SHA1) or function that has written a key of `owner` on `shard`, and when that was last seen."""

    script: str
    shard: str
    key: str
    owner: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class HealthRecord:
    """How the nodes are, as the coordinator saw it when it last changed."""

    nodes: tuple[NodeHealth, ...] = ()


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """A change that has ended (Unix seconds), how many keys it moved, and the shards that gave or took any.

    `moves` is how many migrations it led to, whether they met keys or not.
    """

    change: Change
    ended_at: float
    keys_moved: int = 0
    shards: tuple[str, ...] = ()
    moves: int = 0


@dataclass(frozen=True, slots=True)
class Record(Generic[T]):
    """A stored value with the version to compare with when it is replaced."""

    key: str
    value: T
    version: int


async def read_record(store: Store, kind: type[T], key: str) -> Record[T] | None:
    """The record at `key`, or None."""
    entry = await store.get(key)
    return None if entry is None else Record(key, decode(kind, entry.value), entry.version)


async def list_records(store: Store, kind: type[T], prefix: str) -> list[Record[T]]:
    """All records under `prefix`, in key order."""
    snapshot = await store.list(prefix)
    return [Record(entry.key, decode(kind, entry.value), entry.version) for entry in snapshot.entries]


def put_record(key: str, value: object, lease: str | None = None) -> Put:
    """The operation that writes `value` at `key`."""
    return Put(key, encode(value), lease)
