"""What Helios keeps in the store: the keys and the shapes behind them (JSON by `model.codec`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from helios.model.codec import decode, encode
from helios.model.health import NodeHealth
from helios.model.ids import Address
from helios.model.migration import Change
from helios.model.topology import NodeKind
from helios.model.users import User
from helios.ports.store import Put, Store

T = TypeVar("T")

# The form of all that follows. A release that reads what earlier ones write, and writes what they read, keeps the
# number, so that both run side by side; fields that a release does not know it passes over.
FORMAT = 1

CLUSTER = "/cluster"  # ClusterRecord
TOPOLOGY = "/topology"  # TopologyRecord (ports.topology_records); written by the coordinator alone
PAIRS = TOPOLOGY + "/pairs/"  # + digest of the base + "/" + place in the transition → PairRecord
OBJECTS = "/objects/"  # + digest + "/" + number of the part → what the topology names by digest, written once
COORDINATOR = "/coordinator"  # CoordinatorRecord, bound to the coordinator's lease
TERM = "/term"  # decimal number; grows with each election and resignation, and outlives the leases
SETTINGS = "/settings"  # ClusterSettings (model.settings): what all processes must agree on
SETTING_ORIGINS = "/setting-origins"  # SettingOrigins
SETTING_CHANGES = "/setting-changes/"  # + number, ten digits → SettingChange
CHANGES = "/changes/"  # + change id → Change
CANCELS = "/cancels/"  # + change id → b"1": a user wants the change not to happen
PAUSES = "/pauses/"  # + change id → b"1": a user wants its copies to wait
MIGRATIONS = "/migrations/"  # + migration id → Migration
SESSIONS = "/sessions/"  # + session id → SessionRecord, bound to the session's lease
AGENTS = "/agents/"  # + node id → AgentRecord; a heartbeat, not bound to a lease
RUNNING = "/running/"  # + node id → RunningRecord, bound to a lease of its agent: one agent at a time runs a node
BIG_KEYS = "/big-keys/"  # + session id → BigKeysRecord, bound to the session's lease
IMPORTS = "/imports/"  # + change id → NoteRecord (coordinator.import_note); behind it the parts of the batch's keys
DOUBTS = "/import-doubts/"  # + name → DoubtsRecord (coordinator.import_doubts); behind it the parts of the keys
MEMBERS = "/members/"  # + member id → MemberRecord
BACKUPS = "/backups/"  # + change id → BackupRecord, while the copies of all shards are begun
REPLICAS = "/replicas/"  # + shard id → ReplicasRecord; written by the coordinator alone
DEPARTED = "/departed/"  # + member id → Member: a server outside of the cluster that may have users of ours
SCRIPTS = "/scripts/"  # + SHA1 → the body of a script (raw bytes) that SCRIPT LOAD was given
SCRIPTS_FLUSHED = "/scripts-flushed"  # rewritten by each SCRIPT FLUSH
STRAY_SCRIPTS = "/stray-scripts/"  # + SHA1 of its name → StrayScript
USERS = "/users"  # UsersRecord: who may use the cluster; there is none before users were ever configured
LOAD = "/load"  # LoadRecord: what the coordinator has last found on all shards
IMPORTING = "/importing"  # b"1" while `helios import-store` writes: there is no cluster yet
ADOPTION = "/adoption"  # AdoptionRecord, while a lost store is made again from what the nodes of each host remember
HEALTH = "/health"  # HealthRecord: how the nodes are, written when that changes
HISTORY = "/history/"  # + change id → HistoryRecord: the last changes that have ended
FAILOVERS = "/failovers/"  # + its id → FailoverRecord: the last of them

LEASED = (COORDINATOR, SESSIONS, BIG_KEYS, RUNNING)
"""What is bound to leases: there is none of it where no process of the cluster runs."""


@dataclass(frozen=True, slots=True)
class CoordinatorRecord:
    """Who coordinates now, by a lease that lasts for `lease_s` (0: nobody says how long)."""

    node: str
    term: int
    lease_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """Which cluster the store is of (a random id), since when (Unix seconds), and the command that founded it.

    `key_check` tells whether a process has the cluster's key; empty where it has none. `format` is that of all records
    of the store, and `version` the release of Helios that has brought them to it. `adopts`: the running server that
    the first node founds the cluster with, whose keys stay where they are.
    """

    id: str
    founded_at: float
    founded_by: str
    key_check: str = ""
    format: int = 1
    version: str = ""
    adopts: Address | None = None


@dataclass(frozen=True, slots=True)
class AdoptionRecord:
    """Which nodes have been heard after a loss of the store, and which are still to be: nothing starts before."""

    heard: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningRecord:
    """Who runs a node: the process `pid` of a host, since its `boot`, on the data folder that has this `instance`."""

    node: str
    address: Address
    host: str
    boot: str
    pid: int
    folder: str
    instance: str


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A router's lease: what it is and the last epoch that it has acknowledged (0: none yet).

    The coordinator deletes it before it forces the session off: a router whose record is gone starts over.
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
class BigKeysRecord:
    """Keys whose values were big when they last passed a router, each byte of them as one character."""

    keys: tuple[str, ...]

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> BigKeysRecord:
        """The record of these keys."""
        return cls(tuple(key.decode("latin-1") for key in keys))

    def names(self) -> list[bytes]:
        """The keys."""
        return [key.encode("latin-1") for key in self.keys]


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """A node's heartbeat: when it was last heard from (Unix seconds) and how to reach it.

    `news` are the last sentences that its agent has for people, of `news_count` since the agent's start. `trouble`:
    why one of its data servers cannot be started; empty where each can.
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
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """How to reach and administer a server process: made by the agent that supervises it.

    Where the cluster has a key, the password comes of it and of `salt`, and stands nowhere in the store. `clients` is
    where its node takes clients. `run` is another one with each start of the process (empty: told by none so far);
    `dead`: that process has ended, and no other has begun. `leaving`: its node is about to stop, and waits for
    others to lead what it leads.
    """

    id: str
    node: str
    address: Address
    user: str
    password: str = ""
    salt: str = ""
    clients: Address | None = None
    run: str = ""
    dead: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class ReplicasRecord:
    """The nodes that are to carry a member of a shard, beside the one that has founded it.

    The agent of such a node runs the member and says where it is by a MemberRecord. One whose node is not named any
    more goes, with its data, as soon as the topology does not list it. `refused` says why none of them can follow the
    leader, which is external; empty where they can.
    """

    shard: str
    nodes: tuple[str, ...]
    refused: str = ""


class BackupStage(StrEnum):
    """How far a router and the coordinator are with the one moment at which all shards are copied.

    The router asks; the coordinator, when it is its turn, has it open connections to every leader; then it holds all
    commands, has the copies begin, and lets the commands go.
    """

    ASKED = "asked"
    OPENING = "opening"  # the router's turn
    OPEN = "open"  # the coordinator's
    STILL = "still"  # the router's: no command runs anywhere
    BEGUN = "begun"  # the coordinator's
    DONE = "done"


@dataclass(frozen=True, slots=True)
class BackupRecord:
    """How far a backup has come to its moment; `pause_ms` is for how long commands were held."""

    id: str
    stage: BackupStage
    pause_ms: float = 0.0


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
    """The stats of all shards as collected last (Unix seconds)."""

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
class FailoverRecord:
    """A lost leader was replaced (Unix seconds): on which node, by a member on which, and why it was lost.

    `lossy` tells that what was acknowledged may be gone.
    """

    id: str
    shard: str
    before: str
    leader: str
    reason: str
    began_at: float
    ended_at: float
    lossy: bool = False


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


def put_record(key: str, value: object, lease: str | None = None, *, durable: bool = True) -> Put:
    """The operation that writes `value` at `key`."""
    return Put(key, encode(value), lease, durable)
