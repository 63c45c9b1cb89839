"""Changes (what was asked for) and migrations (what users see of the keys on their way)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from helios.model.balancing import Measure, Strategy
from helios.model.topology import Node


class MigrationStatus(StrEnum):
    """The statuses that users see."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (MigrationStatus.COMPLETED, MigrationStatus.FAILED, MigrationStatus.CANCELLED)


class MigrationPhase(StrEnum):
    """The phases inside `in_progress`; NONE before and after."""

    NONE = ""
    COPYING = "copying"
    CATCHING_UP = "catching_up"
    FENCED = "fenced"
    SWITCHED = "switched"
    SWEEPING = "sweeping"


@dataclass(frozen=True, slots=True)
class Migration:
    """The keys that travel from one shard to another, as users list and cancel them. Times are Unix seconds.

    `pause_ms` is the time from publishing the fence to publishing the switch. `slowed_ms` is the most by
    which routers had to delay writes for the copy to catch up; 0 where they did not. `verified` counts the
    keys whose copies were compared with the source and found equal; 0 where that was not asked for.
    """

    id: str
    change: str
    source: str
    target: str
    pattern: str = "*"
    status: MigrationStatus = MigrationStatus.PENDING
    phase: MigrationPhase = MigrationPhase.NONE
    keys_moved: int = 0
    total_keys: int = 0
    requested_at: float = 0.0
    start_time: float | None = None
    end_time: float | None = None
    pause_ms: float | None = None
    slowed_ms: int = 0
    paused: bool = False
    verified: int = 0
    error: str | None = None


class ChangeKind(StrEnum):
    """What can be asked of the coordinator."""

    FOUND = "found"
    ADD_NODE = "add_node"
    REMOVE_NODE = "remove_node"
    MIGRATE = "migrate"
    REBALANCE = "rebalance"
    REWEIGHT = "reweight"
    DRAIN = "drain"
    UNDRAIN = "undrain"
    PROMOTE = "promote"
    REPAIR = "repair"
    END_SCRIPT = "end_script"
    BACKUP = "backup"


class ChangeStatus(StrEnum):
    """How a change fares. `refused` changed nothing; `queued` waits for the transition before it."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self not in (ChangeStatus.SUBMITTED, ChangeStatus.QUEUED, ChangeStatus.RUNNING)


# For those who have a status as text, as it comes over the network.
MIGRATION_ENDED = frozenset(str(status) for status in MigrationStatus if status.ended)
CHANGE_ENDED = frozenset(str(status) for status in ChangeStatus if status.ended)


class Origin(StrEnum):
    """Who has asked for a change."""

    USER = "user"
    AUTOMATIC = "automatic"


@dataclass(frozen=True, slots=True)
class Change:
    """One request to change who owns what; ids sort in the order of the requests.

    Which of the fields behind `kind` count depends on it: `nodes` for found and add_node (with `import_keys`, `flush`
    or, for what becomes the first owner, `adopt` where a server holds keys), `node` for remove_node, drain, undrain and
    (with `weight`) reweight, `source`, `target`, `pattern` and `migration` for migrate, `strategy` and `by` for
    rebalance, `shard`, `node` and `accept_loss` for promote. With `verify` every copy is compared with its
    source before a switch, whatever the setting says. `user` is who has asked, empty where nobody had logged in.
    `cancelled` tells, while keys are on their way back, that a user wanted it; a wish to cancel has a record of its
    own. `reason` says in a sentence why, as far as Helios itself decided what is to be done, `outcome` what was done.
    """

    id: str
    kind: ChangeKind
    status: ChangeStatus = ChangeStatus.SUBMITTED
    nodes: tuple[Node, ...] = ()
    node: str = ""
    shard: str = ""
    source: str = ""
    target: str = ""
    pattern: str = "*"
    migration: str = ""
    import_keys: bool = False
    flush: bool = False
    adopt: bool = False
    verify: bool = False
    accept_loss: bool = False
    weight: float = 1.0
    strategy: Strategy = Strategy.MINIMIZE_MOVEMENT
    by: Measure = Measure.KEYS
    origin: Origin = Origin.USER
    user: str = ""
    cancelled: bool = False
    reason: str = ""
    outcome: str = ""
    requested_at: float = 0.0
    error: str | None = None
