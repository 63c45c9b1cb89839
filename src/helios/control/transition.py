"""The control of one transition: facts come in as events, work goes out as effects. Pure.

The topology holds what must survive a crash (which pairs are fenced or switched); a `TransitionState` holds
what a coordinator knows beside that. After a crash a successor begins a new state from the
topology alone: it lifts fences and starts copies again; switched pairs stay switched.

`step` records the event and then asks `_decide` what is due. One publication is under way at a
time, so that every decision is made on the topology as it stands. STAGES says how a fenced pair
goes on; tests/control has transcripts of whole transitions.

Every router acknowledges every fence, so that a node which joins N others costs N * N acknowledgements where each pair
has a fence of its own. In a large cluster, whose pairs are small parts of its keys, several are fenced by one epoch:
those that have caught up wait for more, but never for the slower half. Each switches as soon as it is drained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Unfence, parts_of, together
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
    Key,
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
# So many fences are enough for a transition of any size, if several pairs have caught up at a time.
FENCES_ENOUGH = 12

# How far a fenced pair is after an event, by how far it was; what is not named here changes nothing. A pair without a
# stage is not fenced, or its fence was left by a coordinator that is gone, and is lifted.
STAGES: Mapping[Stage | None, Mapping[type[Event | Mutation], Stage | None]] = {
    None: {Fence: Stage.ACKNOWLEDGING, Unfence: None, CopyBroken: Stage.LIFTING, FenceFailed: Stage.LIFTING},
    Stage.ACKNOWLEDGING: {Acknowledged: Stage.DRAINING, CopyBroken: Stage.LIFTING, FenceFailed: Stage.LIFTING},
    Stage.DRAINING: {Drained: Stage.DRAINED, CopyBroken: Stage.LIFTING, FenceFailed: Stage.LIFTING},
    Stage.DRAINED: {Switch: None, CopyBroken: Stage.LIFTING, FenceFailed: Stage.LIFTING},
    Stage.LIFTING: {Unfence: None, CopyBroken: Stage.LIFTING, FenceFailed: Stage.LIFTING},
}


def step(state: TransitionState, event: Event) -> tuple[TransitionState, tuple[Effect, ...]]:
    """What the event means and what is to be done now. Events that have become pointless change nothing."""
    state, effects = _record(state, event)
    if state.finished:
        return state, effects
    state, more = _decide(state)
    return state, effects + more


def _record(state: TransitionState, event: Event) -> tuple[TransitionState, tuple[Effect, ...]]:
    match event:
        case Published(transition):
            return _published(state, transition)
        case CaughtUp(source, target):
            key = (source, target)
            copied = target in state.copying.get(source, ())
            if copied and key in state.pairs(PairPhase.COPYING) and key not in state.caught_up:
                return replace(state, caught_up=(*state.caught_up, key)), ()
        case Lagging(source, target):
            if target in state.copying.get(source, ()) and (source, target) in state.pairs(PairPhase.COPYING):
                return replace(state, lagging=state.lagging | {(source, target)}), ()
        case Acknowledged(source, target):
            if _expects(state, (source, target), Acknowledged):
                return _staged(state, (source, target), Acknowledged), (Drain(source, target),)
        case Drained(source, target):
            if _expects(state, (source, target), Drained):
                return _staged(state, (source, target), Drained), ()
        case FenceFailed(source, target, reason):
            key = (source, target)
            if key in state.fenced and key not in _being_published(state, Unfence, Switch):
                return _fence_failed(state, key, reason), ()
        case CopyBroken(source, reason, fatal):
            return _copy_broken(state, source, reason, fatal=fatal), ()
        case CopyProgressed(source):
            return replace(state, copy_attempts={**state.copy_attempts, source: 0}), ()
        case Released(source):
            if not any((source, target) in state.waiting for target in state.copying.get(source, ())):
                return replace(state, copying=_without(state.copying, source)), ()
        case Swept(shard, durable=True):
            return replace(state, sweeping=state.sweeping - {shard}, swept=state.swept | {shard}), ()
        case Swept(shard):  # It stays unclean for that long.
            return replace(state, sweeping=state.sweeping - {shard}, unswept=state.unswept | {shard}), ()
        case SweepFailed(shard, _):
            return _sweep_failed(state, shard), ()
        case CancelRequested():
            if state.ending is None and _can_end(state.transition):
                return replace(state, ending=Ending(cancelled=True, reason="cancelled by request")), ()
        case PauseRequested(paused):
            return _paused(state, paused=paused)
        case Begun():
            pass
    return state, ()


def fences_at_once(pairs: int) -> int:
    """How many pairs of a transition that has so many one epoch may fence."""
    return max(1, pairs // FENCES_ENOUGH)


def _expects(state: TransitionState, key: Key, event: type[Event]) -> bool:
    return key in state.fenced and event in STAGES[state.stages.get(key)]


def _being_published(state: TransitionState, *kinds: type[Mutation]) -> frozenset[Key]:
    """The pairs for whose fences the publication under way does one of these."""
    return frozenset((part.source, part.target) for part in parts_of(state.publishing) if isinstance(part, kinds))


def _staged(state: TransitionState, key: Key, cause: type[Event | Mutation]) -> TransitionState:
    stage = STAGES[state.stages.get(key)][cause]
    others = {other: known for other, known in state.stages.items() if other != key}
    return replace(state, stages=others if stage is None else {**others, key: stage})


def _published(state: TransitionState, transition: Transition | None) -> tuple[TransitionState, tuple[Effect, ...]]:
    mutation = state.publishing
    if transition is None:
        return replace(state, publishing=None, finished=True), ()
    state = replace(state, transition=transition, publishing=None)
    match mutation:
        case Slow(source, target, _):
            return replace(state, lagging=state.lagging - {(source, target)}), ()
        case Reverse():
            anew = TransitionState(
                transition, at_once=state.at_once, fenced_at_once=state.fenced_at_once, paused=state.paused
            )
            return anew, ()
    effects: list[Effect] = []
    for part in parts_of(mutation):
        key = (part.source, part.target)
        is_copied = part.source in state.copying
        match part:
            case Fence():
                state = replace(state, caught_up=tuple(other for other in state.caught_up if other != key))
                # Where it is not copied, the copy broke while the fence was being published.
                state = _staged(state, key, Fence if is_copied else CopyBroken)
                effects += [AwaitAcknowledgements(*key)] if is_copied else []
            case Unfence():
                state = _staged(state, key, Unfence)
                effects += [Resume(*key)] if is_copied else []
            case Switch():
                state = replace(_staged(state, key, Switch), fence_failures=0)
    return state, tuple(effects)


def _copy_broken(state: TransitionState, source: str, reason: str, *, fatal: bool) -> TransitionState:
    if source not in state.copying:
        return state
    attempts = state.copy_attempts.get(source, 0) + 1
    state = replace(
        state,
        copying=_without(state.copying, source),
        caught_up=tuple(key for key in state.caught_up if key[0] != source),
        copy_attempts={**state.copy_attempts, source: attempts},
    )
    switching = _being_published(state, Switch)
    for key in state.fenced:
        if key[0] == source and key not in switching:
            state = _staged(state, key, CopyBroken)
    return _give_up(state, reason) if fatal or attempts >= COPY_ATTEMPTS_MAX else state


def _fence_failed(state: TransitionState, key: Key, reason: str) -> TransitionState:
    state = replace(_staged(state, key, FenceFailed), fence_failures=state.fence_failures + 1)
    return _give_up(state, reason) if state.fence_failures >= FENCE_ATTEMPTS_MAX else state


def _paused(state: TransitionState, *, paused: bool) -> tuple[TransitionState, tuple[Effect, ...]]:
    if paused or not state.paused:
        return replace(state, paused=paused), ()
    # Big values that change are not copied while their pair waits for its fence: it has to catch up once more.
    fencing = _being_published(state, Fence)
    behind = tuple(Resume(*key) for key in state.caught_up if key not in fencing and key[0] in state.copying)
    caught_up = tuple(key for key in state.caught_up if key in fencing)
    return replace(state, paused=False, caught_up=caught_up), behind


def _can_end(transition: Transition) -> bool:
    """Whether what has switched can go back. What cannot goes on until it succeeds, and so does the way back itself."""
    return not transition.reversing and not transition.no_way_back


def _give_up(state: TransitionState, reason: str) -> TransitionState:
    if state.ending is not None or not _can_end(state.transition):
        return state
    return replace(state, ending=Ending(cancelled=False, reason=reason))


def _sweep_failed(state: TransitionState, shard: str) -> TransitionState:
    attempts = state.sweep_attempts.get(shard, 0) + 1
    state = replace(
        state,
        sweeping=state.sweeping - {shard},
        sweep_attempts={**state.sweep_attempts, shard: attempts},
    )
    # A server that stays away must not hold up the cluster: it is swept when it is back, as an unclean shard.
    return replace(state, unswept=state.unswept | {shard}) if attempts >= SWEEP_ATTEMPTS_MAX else state


def _decide(state: TransitionState) -> tuple[TransitionState, tuple[Effect, ...]]:
    """The work that is due; nothing while a publication is under way, since it may change everything."""
    if state.publishing is not None:
        return state, ()
    if state.ending is not None and state.waiting and _can_end(state.transition):
        # The performer fills in the names of the migrations back; which mutation it is stands fixed.
        stopped = replace(state, publishing=Reverse({}), copying={}, stages={})
        return stopped, (StopWork(), GiveUp(state.ending))
    publish = _due_publication(state)
    if publish is not None:
        return replace(state, publishing=publish), (Publish(publish),)
    state, copies = _due_copies(state)
    state, sweeps = _due_sweeps(state)
    return state, copies + sweeps


def _due_publication(state: TransitionState) -> Mutation | None:
    if state.fenced:
        due = [part for key in state.fenced if (part := _end_of_fence(key, state.stages.get(key))) is not None]
        return together(due) if due else None
    for pair in state.transition.pairs:
        if pair.phase is not PairPhase.COPYING:
            continue
        if state.paused:  # Nobody waits for what does not go on.
            if pair.slow_ms:
                return Slow(pair.source, pair.target, 0)
        elif (pair.source, pair.target) in state.lagging:
            return Slow(pair.source, pair.target, min(SLOW_MAX_MS, pair.slow_ms * 2 or SLOW_FIRST_MS))
    if _is_fence_due(state):
        return together([Fence(*key) for key in state.caught_up[: state.fenced_at_once]])
    if not state.pairs(PairPhase.COPYING) and _to_sweep(state) <= state.swept | state.unswept:
        return Finish(state.unswept)
    return None


def _is_fence_due(state: TransitionState) -> bool:
    if not state.caught_up or state.paused:
        return False
    # What a source has left for its next copy comes only when all pairs of this one have switched.
    coming = [
        (source, target)
        for source, target in state.pairs(PairPhase.COPYING)
        if source not in state.copying or target in state.copying[source]
    ]
    return len(state.caught_up) >= min(state.fenced_at_once, (len(coming) + 1) // 2)


def _end_of_fence(key: Key, stage: Stage | None) -> Switch | Unfence | None:
    if stage is Stage.DRAINED:
        return Switch(*key)
    # A fence without a stage was left by a coordinator that is gone.
    return Unfence(*key) if stage is Stage.LIFTING or stage is None else None


def _due_copies(state: TransitionState) -> tuple[TransitionState, tuple[Effect, ...]]:
    """Copies of the sources that none serves, for as many pairs as there is room for."""
    effects: list[Effect] = []
    copying = dict(state.copying)
    waiting: dict[str, list[str]] = {}  # targets by source
    for source, target in state.waiting:
        waiting.setdefault(source, []).append(target)
    # What waits for others to be fenced with is not copied any more.
    following = min(len(state.caught_up), state.fenced_at_once - 1)
    under_way = sum(target in copying.get(source, ()) for source in waiting for target in waiting[source])
    room = state.at_once + following - under_way
    for source in sorted(waiting.keys() - copying.keys()):
        targets = tuple(waiting[source][: max(0, room)])
        if targets:
            effects.append(Copy(source, targets, backoff_s(state.copy_attempts.get(source, 0))))
            copying[source] = targets
            room -= len(targets)
    return replace(state, copying=copying), tuple(effects)


def _without(copying: Mapping[str, tuple[str, ...]], source: str) -> dict[str, tuple[str, ...]]:
    return {other: targets for other, targets in copying.items() if other != source}


def _due_sweeps(state: TransitionState) -> tuple[TransitionState, tuple[Effect, ...]]:
    # One pass over a source serves all its pairs, so it waits for the last of them to switch. It also
    # waits where the shard is still a target, whose copies in the making are not to be counted as leftovers.
    busy = {shard for key in state.waiting for shard in key}
    due = sorted(_to_sweep(state) - busy - state.sweeping - state.swept - state.unswept)
    effects = tuple(Sweep(shard, backoff_s(state.sweep_attempts.get(shard, 0))) for shard in due)
    return replace(state, sweeping=state.sweeping | set(due)), effects


def _to_sweep(state: TransitionState) -> frozenset[str]:
    """The shards that hold keys which they do not own, or may do so."""
    pairs = state.transition.pairs
    sources = frozenset(pair.source for pair in pairs)
    # A copy clears its target first, but what returns in name only is not copied: such a target may still
    # hold what an earlier transition had failed to sweep from it.
    return sources | {pair.target for pair in pairs} if state.transition.reversing else sources


def backoff_s(attempts: int) -> float:
    """How long to wait when so many attempts have failed in a row."""
    return 0.0 if attempts == 0 else min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (attempts - 1))
