"""The control of one transition: facts come in as events, work goes out as effects. Pure.

The topology holds what must survive a crash (which pairs are fenced or switched); a `Course` holds
what a coordinator knows beside that. After a crash a successor begins a new course from the
topology alone: fences are lifted and copies start again, switched pairs stay switched.

`step` records the event and then asks `_decide` what is due. One publication is under way at a
time, so that every decision is made on the topology as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Unfence
from helios.model.topology import PairPhase, Transition

Key = tuple[str, str]

COPY_ATTEMPTS_MAX = 8
FENCE_ATTEMPTS_MAX = 8
SWEEP_ATTEMPTS_MAX = 8
SLOW_FIRST_MS = 2
SLOW_MAX_MS = 256
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 8.0


class Stage(StrEnum):
    """How far the one pair that is fenced has come."""

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
class Course:
    """What a coordinator knows of the transition that it performs."""

    transition: Transition
    copying: frozenset[str] = frozenset()
    caught_up: tuple[Key, ...] = ()
    lagging: frozenset[Key] = frozenset()
    stage: Stage | None = None
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
    def fenced(self) -> Key | None:
        """The pair that is fenced, if one is."""
        return next(iter(self.pairs(PairPhase.FENCED)), None)


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
class Swept:
    """The shard holds no key any more that it does not own."""

    shard: str


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


def step(course: Course, event: Event) -> tuple[Course, tuple[Effect, ...]]:
    """What the event means and what is to be done now. Events that have become pointless change nothing."""
    course, effects = _record(course, event)
    if course.finished:
        return course, effects
    course, more = _decide(course)
    return course, effects + more


def _record(course: Course, event: Event) -> tuple[Course, tuple[Effect, ...]]:
    match event:
        case Published(transition):
            return _published(course, transition)
        case CaughtUp(source, target):
            key = (source, target)
            if source in course.copying and key in course.pairs(PairPhase.COPYING) and key not in course.caught_up:
                return replace(course, caught_up=(*course.caught_up, key)), ()
        case Lagging(source, target):
            if source in course.copying and (source, target) in course.pairs(PairPhase.COPYING):
                return replace(course, lagging=course.lagging | {(source, target)}), ()
        case Acknowledged(source, target):
            if course.fenced == (source, target) and course.stage is Stage.ACKNOWLEDGING:
                return replace(course, stage=Stage.DRAINING), (Drain(source, target),)
        case Drained(source, target):
            if course.fenced == (source, target) and course.stage is Stage.DRAINING:
                return replace(course, stage=Stage.DRAINED), ()
        case FenceFailed(source, target, reason):
            if course.fenced == (source, target) and course.publishing is None:
                return _fence_failed(course, reason), ()
        case CopyBroken(source, reason, fatal):
            return _copy_broken(course, source, reason, fatal=fatal), ()
        case CopyProgressed(source):
            return replace(course, copy_attempts={**course.copy_attempts, source: 0}), ()
        case Swept(shard):
            return replace(course, sweeping=course.sweeping - {shard}, swept=course.swept | {shard}), ()
        case SweepFailed(shard, _):
            return _sweep_failed(course, shard), ()
        case CancelRequested():
            if course.ending is None and not course.transition.reversing:
                return replace(course, ending=Ending(cancelled=True, reason="cancelled by request")), ()
        case PauseRequested(paused):
            return replace(course, paused=paused), ()
        case Begun():
            pass
    return course, ()


def _published(course: Course, transition: Transition | None) -> tuple[Course, tuple[Effect, ...]]:
    mutation = course.publishing
    if transition is None:
        return replace(course, publishing=None, finished=True), ()
    course = replace(course, transition=transition, publishing=None)
    match mutation:
        case Fence(source, target):
            caught_up = tuple(key for key in course.caught_up if key != (source, target))
            course = replace(course, caught_up=caught_up)
            if source not in course.copying:  # The copy broke while the fence was being published.
                return replace(course, stage=Stage.LIFTING), ()
            return replace(course, stage=Stage.ACKNOWLEDGING), (AwaitAcknowledgements(source, target),)
        case Unfence(source, target):
            effects = (Resume(source, target),) if source in course.copying else ()
            return replace(course, stage=None), effects
        case Switch():
            return replace(course, stage=None, fence_failures=0), ()
        case Slow(source, target, _):
            return replace(course, lagging=course.lagging - {(source, target)}), ()
        case Reverse():
            return Course(transition, paused=course.paused), ()
        case _:
            return course, ()


def _copy_broken(course: Course, source: str, reason: str, *, fatal: bool) -> Course:
    if source not in course.copying:
        return course
    attempts = course.copy_attempts.get(source, 0) + 1
    course = replace(
        course,
        copying=course.copying - {source},
        caught_up=tuple(key for key in course.caught_up if key[0] != source),
        copy_attempts={**course.copy_attempts, source: attempts},
    )
    if course.fenced is not None and course.fenced[0] == source and not isinstance(course.publishing, Switch):
        course = replace(course, stage=Stage.LIFTING)
    return _give_up(course, reason) if fatal or attempts >= COPY_ATTEMPTS_MAX else course


def _fence_failed(course: Course, reason: str) -> Course:
    course = replace(course, stage=Stage.LIFTING, fence_failures=course.fence_failures + 1)
    return _give_up(course, reason) if course.fence_failures >= FENCE_ATTEMPTS_MAX else course


def _give_up(course: Course, reason: str) -> Course:
    """The way back has no way back: it goes on until it succeeds."""
    if course.ending is not None or course.transition.reversing:
        return course
    return replace(course, ending=Ending(cancelled=False, reason=reason))


def _sweep_failed(course: Course, shard: str) -> Course:
    attempts = course.sweep_attempts.get(shard, 0) + 1
    course = replace(
        course,
        sweeping=course.sweeping - {shard},
        sweep_attempts={**course.sweep_attempts, shard: attempts},
    )
    # A server that stays away must not hold up the cluster: it is swept when it is back, as an unclean shard.
    return replace(course, unswept=course.unswept | {shard}) if attempts >= SWEEP_ATTEMPTS_MAX else course


def _decide(course: Course) -> tuple[Course, tuple[Effect, ...]]:
    """The work that is due; nothing while a publication is under way, since it may change everything."""
    if course.publishing is not None:
        return course, ()
    if course.ending is not None and course.pairs(PairPhase.COPYING) + course.pairs(PairPhase.FENCED):
        # The performer fills in the names of the migrations back; which mutation it is stands fixed.
        stopped = replace(course, publishing=Reverse({}), copying=frozenset(), stage=None)
        return stopped, (StopWork(), GiveUp(course.ending))
    publish = _due_publication(course)
    if publish is not None:
        return replace(course, publishing=publish), (Publish(publish),)
    course, copies = _due_copies(course)
    course, sweeps = _due_sweeps(course)
    return course, copies + sweeps


def _due_publication(course: Course) -> Mutation | None:
    if course.fenced is not None:
        if course.stage is Stage.DRAINED:
            return Switch(*course.fenced)
        # A fence without a stage was left by a coordinator that is gone.
        if course.stage is Stage.LIFTING or course.stage is None:
            return Unfence(*course.fenced)
        return None
    for pair in course.transition.pairs:
        if (pair.source, pair.target) in course.lagging and pair.phase is PairPhase.COPYING:
            return Slow(pair.source, pair.target, min(SLOW_MAX_MS, pair.slow_ms * 2 or SLOW_FIRST_MS))
    if course.caught_up and not course.paused:
        return Fence(*course.caught_up[0])
    if not course.pairs(PairPhase.COPYING) and _to_sweep(course) <= course.swept | course.unswept:
        return Finish(course.unswept)
    return None


def _due_copies(course: Course) -> tuple[Course, tuple[Effect, ...]]:
    effects: list[Effect] = []
    waiting = course.pairs(PairPhase.COPYING) + course.pairs(PairPhase.FENCED)
    for source in sorted({source for source, _ in waiting} - course.copying):
        targets = tuple(target for other, target in waiting if other == source)
        effects.append(Copy(source, targets, _backoff_s(course.copy_attempts.get(source, 0))))
    started = frozenset(effect.source for effect in effects if isinstance(effect, Copy))
    return replace(course, copying=course.copying | started), tuple(effects)


def _due_sweeps(course: Course) -> tuple[Course, tuple[Effect, ...]]:
    waiting = course.pairs(PairPhase.COPYING) + course.pairs(PairPhase.FENCED)
    # One pass over a source serves all its pairs, so it waits for the last of them to switch. It also
    # waits where the shard is still a target, whose copies in the making are not to be counted as leftovers.
    busy = {shard for key in waiting for shard in key}
    due = sorted(_to_sweep(course) - busy - course.sweeping - course.swept - course.unswept)
    effects = tuple(Sweep(shard, _backoff_s(course.sweep_attempts.get(shard, 0))) for shard in due)
    return replace(course, sweeping=course.sweeping | set(due)), effects


def _to_sweep(course: Course) -> frozenset[str]:
    """The shards that hold keys which they do not own, or may do so."""
    pairs = course.transition.pairs
    sources = frozenset(pair.source for pair in pairs)
    # A copy clears its target first, but what returns in name only is not copied: such a target may still
    # hold what an earlier transition had failed to sweep from it.
    return sources | {pair.target for pair in pairs} if course.transition.reversing else sources


def _backoff_s(attempts: int) -> float:
    return 0.0 if attempts == 0 else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (attempts - 1))
