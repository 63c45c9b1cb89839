"""The control of one transition: facts come in as events, work goes out as effects. Pure.

The topology holds what must survive a crash (which pairs are fenced or switched); a `Course` holds
what a coordinator knows beside that. After a crash a successor begins a new course from the
topology alone: fences are lifted and copies start again, switched pairs stay switched.

`step` records the event and then asks `_decide` what is due. One publication is under way at a
time, so that every decision is made on the topology as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Unfence
from helios.control.transition_state import (
    Acknowledged,
    AwaitAcknowledgements,
    Begun,
    CancelRequested,
    CaughtUp,
    Copy,
    CopyBroken,
    CopyProgressed,
    Drain,
    Drained,
    Effect,
    Ending,
    Event,
    FenceFailed,
    GiveUp,
    Lagging,
    PauseRequested,
    Publish,
    Published,
    Released,
    Resume,
    Stage,
    StopWork,
    Sweep,
    SweepFailed,
    Swept,
    TransitionState,
)
from helios.model.topology import PairPhase, Transition

COPY_ATTEMPTS_MAX = 8
FENCE_ATTEMPTS_MAX = 8
SWEEP_ATTEMPTS_MAX = 8
SLOW_FIRST_MS = 2
SLOW_MAX_MS = 256
BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 8.0


def step(course: TransitionState, event: Event) -> tuple[TransitionState, tuple[Effect, ...]]:
    """What the event means and what is to be done now. Events that have become pointless change nothing."""
    course, effects = _record(course, event)
    if course.finished:
        return course, effects
    course, more = _decide(course)
    return course, effects + more


def _record(course: TransitionState, event: Event) -> tuple[TransitionState, tuple[Effect, ...]]:
    match event:
        case Published(transition):
            return _published(course, transition)
        case CaughtUp(source, target):
            key = (source, target)
            copied = target in course.copying.get(source, ())
            if copied and key in course.pairs(PairPhase.COPYING) and key not in course.caught_up:
                return replace(course, caught_up=(*course.caught_up, key)), ()
        case Lagging(source, target):
            if target in course.copying.get(source, ()) and (source, target) in course.pairs(PairPhase.COPYING):
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
        case Released(source):
            if not any((source, target) in course.waiting for target in course.copying.get(source, ())):
                return replace(course, copying=_without(course.copying, source)), ()
        case Swept(shard):
            return replace(course, sweeping=course.sweeping - {shard}, swept=course.swept | {shard}), ()
        case SweepFailed(shard, _):
            return _sweep_failed(course, shard), ()
        case CancelRequested():
            if course.ending is None and _can_end(course.transition):
                return replace(course, ending=Ending(cancelled=True, reason="cancelled by request")), ()
        case PauseRequested(paused):
            return _paused(course, paused=paused)
        case Begun():
            pass
    return course, ()


def _published(course: TransitionState, transition: Transition | None) -> tuple[TransitionState, tuple[Effect, ...]]:
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
            return TransitionState(transition, at_once=course.at_once, paused=course.paused), ()
        case _:
            return course, ()


def _copy_broken(course: TransitionState, source: str, reason: str, *, fatal: bool) -> TransitionState:
    if source not in course.copying:
        return course
    attempts = course.copy_attempts.get(source, 0) + 1
    course = replace(
        course,
        copying=_without(course.copying, source),
        caught_up=tuple(key for key in course.caught_up if key[0] != source),
        copy_attempts={**course.copy_attempts, source: attempts},
    )
    if course.fenced is not None and course.fenced[0] == source and not isinstance(course.publishing, Switch):
        course = replace(course, stage=Stage.LIFTING)
    return _give_up(course, reason) if fatal or attempts >= COPY_ATTEMPTS_MAX else course


def _fence_failed(course: TransitionState, reason: str) -> TransitionState:
    course = replace(course, stage=Stage.LIFTING, fence_failures=course.fence_failures + 1)
    return _give_up(course, reason) if course.fence_failures >= FENCE_ATTEMPTS_MAX else course


def _paused(course: TransitionState, *, paused: bool) -> tuple[TransitionState, tuple[Effect, ...]]:
    if paused or not course.paused:
        return replace(course, paused=paused), ()
    # Big values that change are not copied while their pair waits for its fence: it has to catch up once more.
    publishing = course.publishing
    fencing = (publishing.source, publishing.target) if isinstance(publishing, Fence) else None
    behind = tuple(Resume(*key) for key in course.caught_up if key != fencing and key[0] in course.copying)
    caught_up = tuple(key for key in course.caught_up if key == fencing)
    return replace(course, paused=False, caught_up=caught_up), behind


def _can_end(transition: Transition) -> bool:
    """Whether what has switched can go back. What cannot goes on until it succeeds, and so does the way back itself."""
    return not transition.reversing and not transition.no_way_back


def _give_up(course: TransitionState, reason: str) -> TransitionState:
    if course.ending is not None or not _can_end(course.transition):
        return course
    return replace(course, ending=Ending(cancelled=False, reason=reason))


def _sweep_failed(course: TransitionState, shard: str) -> TransitionState:
    attempts = course.sweep_attempts.get(shard, 0) + 1
    course = replace(
        course,
        sweeping=course.sweeping - {shard},
        sweep_attempts={**course.sweep_attempts, shard: attempts},
    )
    # A server that stays away must not hold up the cluster: it is swept when it is back, as an unclean shard.
    return replace(course, unswept=course.unswept | {shard}) if attempts >= SWEEP_ATTEMPTS_MAX else course


def _decide(course: TransitionState) -> tuple[TransitionState, tuple[Effect, ...]]:
    """The work that is due; nothing while a publication is under way, since it may change everything."""
    if course.publishing is not None:
        return course, ()
    if course.ending is not None and course.waiting and _can_end(course.transition):
        # The performer fills in the names of the migrations back; which mutation it is stands fixed.
        stopped = replace(course, publishing=Reverse({}), copying={}, stage=None)
        return stopped, (StopWork(), GiveUp(course.ending))
    publish = _due_publication(course)
    if publish is not None:
        return replace(course, publishing=publish), (Publish(publish),)
    course, copies = _due_copies(course)
    course, sweeps = _due_sweeps(course)
    return course, copies + sweeps


def _due_publication(course: TransitionState) -> Mutation | None:
    if course.fenced is not None:
        if course.stage is Stage.DRAINED:
            return Switch(*course.fenced)
        # A fence without a stage was left by a coordinator that is gone.
        if course.stage is Stage.LIFTING or course.stage is None:
            return Unfence(*course.fenced)
        return None
    for pair in course.transition.pairs:
        if pair.phase is not PairPhase.COPYING:
            continue
        if course.paused:  # Nobody waits for what does not go on.
            if pair.slow_ms:
                return Slow(pair.source, pair.target, 0)
        elif (pair.source, pair.target) in course.lagging:
            return Slow(pair.source, pair.target, min(SLOW_MAX_MS, pair.slow_ms * 2 or SLOW_FIRST_MS))
    if course.caught_up and not course.paused:
        return Fence(*course.caught_up[0])
    if not course.pairs(PairPhase.COPYING) and _to_sweep(course) <= course.swept | course.unswept:
        return Finish(course.unswept)
    return None


def _due_copies(course: TransitionState) -> tuple[TransitionState, tuple[Effect, ...]]:
    """Copies of the sources that none serves, for as many pairs as there is room for."""
    effects: list[Effect] = []
    copying = dict(course.copying)
    room = course.at_once - sum(target in copying.get(source, ()) for source, target in course.waiting)
    for source in sorted({source for source, _ in course.waiting} - copying.keys()):
        targets = tuple(target for other, target in course.waiting if other == source)[: max(0, room)]
        if targets:
            effects.append(Copy(source, targets, _backoff_s(course.copy_attempts.get(source, 0))))
            copying[source] = targets
            room -= len(targets)
    return replace(course, copying=copying), tuple(effects)


def _without(copying: Mapping[str, tuple[str, ...]], source: str) -> dict[str, tuple[str, ...]]:
    return {other: targets for other, targets in copying.items() if other != source}


def _due_sweeps(course: TransitionState) -> tuple[TransitionState, tuple[Effect, ...]]:
    # One pass over a source serves all its pairs, so it waits for the last of them to switch. It also
    # waits where the shard is still a target, whose copies in the making are not to be counted as leftovers.
    busy = {shard for key in course.waiting for shard in key}
    due = sorted(_to_sweep(course) - busy - course.sweeping - course.swept - course.unswept)
    effects = tuple(Sweep(shard, _backoff_s(course.sweep_attempts.get(shard, 0))) for shard in due)
    return replace(course, sweeping=course.sweeping | set(due)), effects


def _to_sweep(course: TransitionState) -> frozenset[str]:
    """The shards that hold keys which they do not own, or may do so."""
    pairs = course.transition.pairs
    sources = frozenset(pair.source for pair in pairs)
    # A copy clears its target first, but what returns in name only is not copied: such a target may still
    # hold what an earlier transition had failed to sweep from it.
    return sources | {pair.target for pair in pairs} if course.transition.reversing else sources


def _backoff_s(attempts: int) -> float:
    return 0.0 if attempts == 0 else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (attempts - 1))
