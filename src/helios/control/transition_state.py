"""What is known of a running transition, the facts that come in (events) and the work that goes out (effects)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from helios.control.mutations import Mutation
from helios.model.topology import PairPhase, Transition

Key = tuple[str, str]


class Stage(StrEnum):
    """How far a pair that is fenced has come."""

    ACKNOWLEDGING = "acknowledging"
    DRAINING = "draining"
    DRAINED = "drained"
    LIFTING = "lifting"


@dataclass(frozen=True, slots=True)
class Ending:
    """The transition is to be given up: by a user's wish, or because of an error."""

    cancelled: bool
    reason: str


@dataclass(frozen=True, slots=True)
class TransitionState:
    """What a coordinator knows of the transition that it performs.

    `copying` names for each source that is being copied the targets of that copy. At most `at_once` pairs that have
    not switched are in it, and those that wait to share a fence: the others wait until one of these has. At most
    `fenced_at_once` pairs are fenced by one epoch; `stages` says how far each of these is.
    """

    transition: Transition
    at_once: int = 1_000_000
    fenced_at_once: int = 1
    copying: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    caught_up: tuple[Key, ...] = ()
    lagging: frozenset[Key] = frozenset()
    stages: Mapping[Key, Stage] = field(default_factory=dict)
    publishing: Mutation | None = None
    sweeping: frozenset[str] = frozenset()
    swept: frozenset[str] = frozenset()
    unswept: frozenset[str] = frozenset()
    fence_failures: int = 0
    copy_attempts: Mapping[str, int] = field(default_factory=dict)
    sweep_attempts: Mapping[str, int] = field(default_factory=dict)
    ending: Ending | None = None
    paused: bool = False
    finished: bool = False

    def pairs(self, phase: PairPhase) -> tuple[Key, ...]:
        """The pairs in that phase."""
        return tuple((pair.source, pair.target) for pair in self.transition.pairs if pair.phase is phase)

    @property
    def waiting(self) -> tuple[Key, ...]:
        """The pairs that have not switched yet."""
        return self.pairs(PairPhase.COPYING) + self.pairs(PairPhase.FENCED)

    @property
    def fenced(self) -> tuple[Key, ...]:
        """The pairs that are fenced."""
        return self.pairs(PairPhase.FENCED)


# Events


@dataclass(frozen=True, slots=True)
class Begun:
    """A coordinator takes the transition up, as it stands in the topology."""


@dataclass(frozen=True, slots=True)
class Published:
    """The last mutation is in the store; None where the transition has ended with it."""

    transition: Transition | None


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What is left to copy of the pair fits the fence budget."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Lagging:
    """The pair's keys change as fast as they are copied: the copy gains nothing."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """No router has a command for the pair's keys in flight, and none will send one."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Drained:
    """The target holds the pair's keys as the source does, as durably as the cluster promises."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class FenceFailed:
    """The fence has to be lifted: acknowledgements or the last copies did not come in time."""

    source: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class CopyBroken:
    """The copy of a source has stopped and starts again; `fatal` where trying again cannot help."""

    source: str
    reason: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class CopyProgressed:
    """The copy of a source works: earlier failures no longer count."""

    source: str


@dataclass(frozen=True, slots=True)
class Released:
    """Every target of a source's copy has switched, and the copy has ended: the source may be copied to others."""

    source: str


@dataclass(frozen=True, slots=True)
class Swept:
    """The shard holds no key any more that it does not own; unless `durable`, its power could bring some back."""

    shard: str
    durable: bool = True


@dataclass(frozen=True, slots=True)
class SweepFailed:
    """The shard could not be swept."""

    shard: str
    reason: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A user wants the keys to stay where they were."""


@dataclass(frozen=True, slots=True)
class PauseRequested:
    """A user wants no pair to be fenced (`paused`), or that again."""

    paused: bool


Event = (
    Begun
    | Published
    | CaughtUp
    | Lagging
    | Acknowledged
    | Drained
    | FenceFailed
    | CopyBroken
    | CopyProgressed
    | Released
    | Swept
    | SweepFailed
    | CancelRequested
    | PauseRequested
)

# Effects


@dataclass(frozen=True, slots=True)
class Publish:
    """Commit the mutation to the store, then report Published."""

    mutation: Mutation


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Commit the reversal of the transition (the performer names the migrations back), then report Published."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the keys of these pairs from the beginning and keep them up to date, after `delay_s`."""

    source: str
    targets: tuple[str, ...]
    delay_s: float


@dataclass(frozen=True, slots=True)
class StopWork:
    """End all copying and sweeping; when this returns none is under way."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The fence of the pair was lifted: catch up again and report CaughtUp."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class AwaitAcknowledgements:
    """Wait for every router (force off those that do not answer), then report Acknowledged or FenceFailed."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Copy the last changes and make them durable, then report Drained or FenceFailed."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """Delete from the shard what it does not own, after `delay_s`, then report Swept or SweepFailed."""

    shard: str
    delay_s: float


Effect = Publish | GiveUp | Copy | StopWork | Resume | AwaitAcknowledgements | Drain | Sweep
