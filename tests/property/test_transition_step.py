"""The control of a transition under events in any order, repeated, late and made up."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.topologies import SHARDS, cluster, in_transition, one_way, random_topology

from helios.control import transition_state as control
from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Together, Unfence, parts_of
from helios.control.transition import (
    BACKOFF_MAX_S,
    COPY_ATTEMPTS_MAX,
    FENCE_ATTEMPTS_MAX,
    SLOW_MAX_MS,
    SWEEP_ATTEMPTS_MAX,
    step,
)
from helios.control.transition_state import Ending, Event, TransitionState
from helios.model.topology import PairPhase, Placement, Topology, Transition
from helios.placement.change import with_weights

SEEDS = st.integers(0, 2**32 - 1)
Key = tuple[str, str]


class Witness:
    """Feeds events to `step`, commits what it publishes, and checks every effect against what has happened."""

    def __init__(self, topology: Topology, at_once: int = 1_000_000, fenced_at_once: int = 1) -> None:
        assert topology.transition is not None
        self.topology = topology
        self.at_once = at_once
        self.fenced_at_once = fenced_at_once
        self.transition_state = TransitionState(topology.transition, at_once, fenced_at_once)
        self.pending: Mutation | None = None
        self.caught_up: set[Key] = set()
        self.copying: dict[str, set[str]] = {}
        self.sweeping: set[str] = set()
        self.swept: set[str] = set()
        # How far each fence has come: fenced, acknowledged, drained. One that is not here is to be lifted.
        self.fences: dict[Key, str] = {}
        self.cancelled = False
        self.switches = 0
        self.gave_up: Ending | None = None

    @property
    def transition(self) -> Transition:
        assert self.topology.transition is not None
        return self.topology.transition

    def pairs(self, *phases: PairPhase) -> list[Key]:
        return [(p.source, p.target) for p in self.transition.pairs if p.phase in phases]

    @property
    def waiting(self) -> list[Key]:
        return self.pairs(PairPhase.COPYING, PairPhase.FENCED)

    def copied(self, source: str) -> set[str]:
        """The targets of a source's copy that have not switched."""
        return {target for target in self.copying.get(source, ()) if (source, target) in self.waiting}

    @property
    def fenced(self) -> list[Key]:
        return self.pairs(PairPhase.FENCED)

    def publishing(self, *kinds: type[Mutation]) -> set[Key]:
        """The pairs for whose fences the publication under way does one of these."""
        return {(part.source, part.target) for part in parts_of(self.pending) if isinstance(part, kinds)}

    def feed(self, event: Event) -> None:
        """One event, and what it means for what may come."""
        match event:
            case control.CaughtUp(source, target) if target in self.copying.get(source, ()):
                self.caught_up |= {(source, target)}.intersection(self.pairs(PairPhase.COPYING))
            case control.Acknowledged(source, target) if self.fences.get((source, target)) == "fenced":
                self.fences[source, target] = "acknowledged"
            case control.Drained(source, target) if self.fences.get((source, target)) == "acknowledged":
                self.fences[source, target] = "drained"
            case control.FenceFailed(source, target):
                if (source, target) not in self.publishing(Switch, Unfence):
                    self.fences.pop((source, target), None)
            case control.CopyBroken(source):
                self.copying.pop(source, None)
                self.caught_up = {key for key in self.caught_up if key[0] != source}
                for key in [key for key in self.fences if key[0] == source and key not in self.publishing(Switch)]:
                    del self.fences[key]
            case control.Released(source) if not self.copied(source):
                self.copying.pop(source, None)
            case control.Swept(shard, durable):
                if durable:
                    self.swept.add(shard)
                self.sweeping.discard(shard)
            case control.SweepFailed(shard):
                self.sweeping.discard(shard)
            case control.CancelRequested() if not self.transition.reversing:
                self.cancelled = True
            case control.PauseRequested(paused) if self.transition_state.paused and not paused:
                # What had caught up may have fallen behind.
                self.caught_up &= self.publishing(Fence)
        self.transition_state, effects = step(self.transition_state, event)
        for effect in effects:
            self.check(effect, event)

    def check(self, effect: control.Effect, cause: Event) -> None:
        """Whether the effect is allowed now."""
        match effect:
            case control.Publish(mutation):
                assert self.pending is None
                self.pending = mutation
                self.check_mutation(mutation)
            case control.GiveUp(ending):
                assert self.pending is None
                assert self.waiting
                assert not self.transition.reversing
                assert not self.transition.no_way_back
                assert not self.copying
                assert ending.cancelled <= self.cancelled
                self.gave_up = ending
                self.pending = Reverse({(p.source, p.target): f"back-{p.migration}" for p in self.transition.pairs})
            case control.StopWork():
                self.copying.clear()
                self.sweeping.clear()
                self.caught_up.clear()
                self.fences.clear()
            case control.Copy(source, targets, delay_s):
                assert source not in self.copying
                assert targets
                assert {(source, target) for target in targets} <= set(self.waiting)
                assert 0 <= delay_s <= BACKOFF_MAX_S
                self.copying[source] = set(targets)
                under_way = sum(len(self.copied(source)) for source in self.copying)
                room = self.at_once + min(len(self.caught_up), self.fenced_at_once - 1)
                assert under_way <= room
                left = {target for other, target in self.waiting if other == source} - set(targets)
                assert not left or under_way == room, "there was room for another pair"
            case control.Resume(source, target):
                assert (source, target) in self.pairs(PairPhase.COPYING)
                assert source in self.copying
            case control.AwaitAcknowledgements(source, target):
                assert isinstance(cause, control.Published)
                assert (source, target) in self.fenced
            case control.Drain(source, target):
                assert (source, target) in self.fenced
                assert self.fences[source, target] == "acknowledged"
            case control.Sweep(shard, delay_s):
                assert shard not in self.sweeping | self.swept
                assert shard not in {end for key in self.waiting for end in key}
                assert 0 <= delay_s <= BACKOFF_MAX_S
                self.sweeping.add(shard)

    def check_mutation(self, mutation: Mutation) -> None:
        match mutation:
            case Together(parts):
                assert 1 < len(parts) == len({(part.source, part.target) for part in parts})
                # New fences come when no other stands.
                assert len({isinstance(part, Fence) for part in parts}) == 1
                assert not isinstance(parts[0], Fence) or len(parts) <= self.fenced_at_once
                for part in parts:
                    self.check_mutation(part)
            case Fence(source, target):
                assert not self.fenced
                assert (source, target) in self.caught_up
                assert (source, target) in self.pairs(PairPhase.COPYING)
                assert not self.transition_state.paused
            case Switch(source, target):
                assert (source, target) in self.fenced
                assert self.fences[source, target] == "drained"
            case Unfence(source, target):
                assert (source, target) in self.fenced
                assert (source, target) not in self.fences
            case Slow(source, target, slow_ms):
                assert (source, target) in self.pairs(PairPhase.COPYING)
                # Nobody is slowed for the sake of a move that waits.
                assert slow_ms == 0 if self.transition_state.paused else 0 < slow_ms <= SLOW_MAX_MS
            case Finish(unswept):
                assert not self.waiting
                assert {source for source, _ in self.pairs(PairPhase.SWITCHED)} <= self.swept | unswept
            case _:
                pytest.fail(f"{mutation} is not for Publish")

    def commit(self) -> None:
        """The publication that is under way reaches the store, and is reported."""
        assert self.pending is not None
        mutation, self.pending = self.pending, None
        before = set(self.pairs(PairPhase.SWITCHED))
        finished = isinstance(mutation, Finish)
        self.topology = mutation.apply(self.topology)
        gained: set[Key] = set()
        for part in parts_of(mutation):
            key = (part.source, part.target)
            match part:
                case Fence():
                    self.caught_up.discard(key)
                    if part.source in self.copying:
                        self.fences[key] = "fenced"
                case Unfence() | Switch():
                    self.fences.pop(key, None)
                    if isinstance(part, Switch):
                        gained.add(key)
        self.switches += len(gained)
        if isinstance(mutation, Reverse):
            self.fences.clear()
            self.swept.clear()
        if not finished:
            assert len(self.fenced) <= self.fenced_at_once
            if not isinstance(mutation, Reverse):
                assert set(self.pairs(PairPhase.SWITCHED)) == before | gained
            self.feed(control.Published(self.topology.transition))
        else:
            self.transition_state, effects = step(self.transition_state, control.Published(None))
            assert self.transition_state.finished
            assert effects == ()

    def anything(self, random: Random) -> Event:
        """Any event about the shards of the transition, whether it makes sense now or not."""
        pair = random.choice(self.transition.pairs)
        fenced = random.choice(self.fenced) if self.fenced else (pair.target, pair.source)
        source, target = random.choice([(pair.source, pair.target), fenced])
        shard = random.choice([source, target])
        return random.choice(
            [
                control.CaughtUp(source, target),
                control.CaughtUp(source, target),
                control.Acknowledged(source, target),
                control.Acknowledged(source, target),
                control.Drained(source, target),
                control.Drained(source, target),
                control.Lagging(source, target),
                control.FenceFailed(source, target, "slow"),
                control.CopyBroken(source, "gone", fatal=random.random() < 0.02),
                control.CopyProgressed(source),
                control.Released(source),
                control.Begun(),
                control.Swept(shard, random.random() < 0.7) if shard in self.sweeping else control.Begun(),
                control.SweepFailed(shard, "gone") if shard in self.sweeping else control.Begun(),
                control.PauseRequested(random.random() < 0.3),
                control.CancelRequested() if random.random() < 0.05 else control.Begun(),
            ]
        )

    def wander(self, random: Random, steps: int) -> None:
        """Any events, and commits in between; ends early when the transition does."""
        self.feed(control.Begun())
        for _ in range(steps):
            if self.transition_state.finished:
                return
            if self.pending is not None and random.random() < 0.4:
                self.commit()
            else:
                self.feed(self.anything(random))

    def succeed(self) -> None:
        """From now on all work succeeds at once; returns when the transition has ended."""
        self.feed(control.PauseRequested(False))
        # Each pair takes a few events, each shard a sweep, and a reversal all of that a second time.
        for _ in range(20 * (len(self.transition.pairs) + len(SHARDS)) + 20):
            if self.pending is not None:
                self.commit()
            elif at := [key for key, stage in self.fences.items() if stage == "fenced"]:
                self.feed(control.Acknowledged(*at[0]))
            elif at := [key for key, stage in self.fences.items() if stage == "acknowledged"]:
                self.feed(control.Drained(*at[0]))
            elif self.sweeping:
                self.feed(control.Swept(min(self.sweeping)))
            else:
                over = [source for source in self.copying if not self.copied(source)]
                if over:
                    self.feed(control.Released(over[0]))
                    continue
                copied = {(source, target) for source in self.copying for target in self.copying[source]}
                ready = sorted(copied.intersection(self.pairs(PairPhase.COPYING)) - self.caught_up)
                assert ready, "nothing is under way and nothing will come"
                self.feed(control.CaughtUp(*ready[0]))
            if self.transition_state.finished:
                return
        pytest.fail("it does not come to an end")


@settings(max_examples=max(100, settings().max_examples))
@given(SEEDS)
def test_no_order_of_events_breaks_a_promise_and_success_ends_it(seed: int) -> None:
    random = Random(seed)
    witness = Witness(random_topology(random), random.choice((1, 2, 3, 100)), random.choice((1, 2, 3, 100)))
    began = witness.transition
    first = witness.topology.placement
    witness.wander(random, random.randint(0, 150))
    if not witness.transition_state.finished:
        witness.succeed()
    assert witness.topology.transition is None
    if witness.gave_up is None:
        assert witness.topology.placement == began.next
        assert witness.topology.node(began.leaving) is None
    else:
        assert witness.topology.placement == first
        assert began.leaving in ("", *(node.id for node in witness.topology.nodes))


@given(SEEDS)
def test_a_pause_slows_nobody_and_what_it_stopped_catches_up_anew(seed: int) -> None:
    random = Random(seed)
    witness = Witness(random_topology(random), fenced_at_once=random.choice((1, 2, 3)))
    witness.wander(random, random.randint(0, 60))
    witness.feed(control.PauseRequested(True))
    for _ in range(2 * len(SHARDS) ** 2):
        if witness.pending is None or witness.transition_state.finished:
            break
        witness.commit()
    if witness.transition_state.finished:
        return
    if not witness.fences:
        assert not any(pair.slow_ms for pair in witness.transition.pairs if pair.phase is PairPhase.COPYING)
    witness.feed(control.PauseRequested(False))
    assert not witness.transition_state.caught_up
    witness.succeed()


@given(SEEDS)
def test_a_wish_to_cancel_is_granted_until_the_last_switch(seed: int) -> None:
    random = Random(seed)
    witness = Witness(random_topology(random), random.choice((1, 2, 3, 100)), random.choice((1, 2, 3, 100)))
    witness.wander(random, random.randint(0, 60))
    if witness.transition_state.finished or witness.gave_up or witness.transition.reversing:
        return
    switching = witness.publishing(Switch)
    last_is_committing = bool(switching) and len(witness.waiting) == len(switching)
    switched = {*witness.pairs(PairPhase.SWITCHED), *switching}
    one_way = any(pair.one_way and (pair.source, pair.target) in switched for pair in witness.transition.pairs)
    possible = bool(witness.waiting) and not last_is_committing and not one_way
    witness.feed(control.CancelRequested())
    witness.succeed()
    assert (witness.gave_up is not None) == possible


def begun(*targets: str) -> Witness:
    """A fresh transition that moves keys from `a` to each of the targets."""
    current = with_weights(Placement(8), {"a": 1.0})
    following = with_weights(Placement(8), dict.fromkeys(targets, 1.0))
    witness = Witness(in_transition(current, following, {}))
    witness.feed(control.Begun())
    return witness


def fence(witness: Witness, source: str, target: str) -> None:
    witness.feed(control.CaughtUp(source, target))
    witness.commit()
    assert witness.fenced == [(source, target)]


def test_a_break_behind_the_fence_takes_a_new_copy_and_a_new_fence() -> None:
    witness = begun("b")
    fence(witness, "a", "b")
    witness.feed(control.Acknowledged("a", "b"))
    witness.feed(control.CopyBroken("a", "the stream broke"))
    witness.feed(control.Drained("a", "b"))
    assert witness.pending == Unfence("a", "b")
    witness.commit()
    assert witness.copying == {"a": {"b"}}
    for late in (control.Acknowledged("a", "b"), control.Drained("a", "b")):
        witness.feed(late)
        assert witness.pending is None
    witness.succeed()


def test_a_break_while_the_fence_is_published_lifts_it_again() -> None:
    witness = begun("b")
    witness.feed(control.CaughtUp("a", "b"))
    witness.feed(control.CopyBroken("a", "the stream broke"))
    witness.commit()
    assert witness.pending == Unfence("a", "b")
    witness.succeed()


def test_what_cannot_come_back_goes_on() -> None:
    witness = begun("b", "c")
    witness.topology = one_way(witness.topology, ("a", "b"))
    witness.transition_state = TransitionState(witness.transition)
    witness.copying.clear()
    witness.feed(control.Begun())
    fence(witness, "a", "b")
    for event in (control.Acknowledged("a", "b"), control.Drained("a", "b")):
        witness.feed(event)
    witness.commit()
    assert witness.pairs(PairPhase.SWITCHED) == [("a", "b")]
    for _ in range(2 * COPY_ATTEMPTS_MAX):
        witness.feed(control.CopyBroken("a", "it is away", fatal=True))
    assert witness.copying == {"a": {"c"}}
    witness.succeed()
    assert witness.gave_up is None


def test_a_successor_lifts_a_fence_and_copies_anew() -> None:
    before = begun("b")
    fence(before, "a", "b")
    witness = Witness(before.topology)
    witness.feed(control.Begun())
    assert witness.pending == Unfence("a", "b")
    witness.commit()
    assert witness.copying == {"a": {"b"}}
    witness.succeed()


def test_a_copy_that_never_works_is_given_up_with_its_reason() -> None:
    witness = begun("b")
    delays = []
    for n in range(COPY_ATTEMPTS_MAX):
        assert witness.gave_up is None
        witness.transition_state, effects = step(witness.transition_state, control.CopyBroken("a", f"failure {n}"))
        delays += [effect.delay_s for effect in effects if isinstance(effect, control.Copy)]
    assert effects == (
        control.StopWork(),
        control.GiveUp(Ending(cancelled=False, reason=f"failure {COPY_ATTEMPTS_MAX - 1}")),
    )
    assert delays == sorted(delays)
    assert len(set(delays)) > 1


def test_failures_before_a_copy_that_works_do_not_count() -> None:
    witness = begun("b")
    for _ in range(3 * COPY_ATTEMPTS_MAX):
        witness.feed(control.CopyBroken("a", "gone"))
        witness.feed(control.CopyProgressed("a"))
    assert witness.gave_up is None
    witness.succeed()


def test_a_payload_that_the_target_cannot_read_ends_it_at_once() -> None:
    witness = begun("b")
    witness.feed(control.CopyBroken("a", "an older version", fatal=True))
    assert witness.gave_up == Ending(cancelled=False, reason="an older version")


def test_a_fence_that_never_settles_is_given_up() -> None:
    witness = begun("b")
    for _ in range(FENCE_ATTEMPTS_MAX):
        fence(witness, "a", "b")
        witness.feed(control.FenceFailed("a", "b", "a router is stuck"))
        if witness.gave_up is None:
            witness.commit()
    assert witness.gave_up == Ending(cancelled=False, reason="a router is stuck")


def test_a_fence_now_and_then_that_does_not_settle_is_no_reason_to_give_up() -> None:
    """Only failures since the last pair that switched count, or a change of many pairs could never succeed."""
    targets = [f"t{n:02}" for n in range(2 * FENCE_ATTEMPTS_MAX)]
    witness = begun(*targets)
    for target in targets:
        fence(witness, "a", target)
        witness.feed(control.FenceFailed("a", target, "a router was slow"))
        witness.commit()
        fence(witness, "a", target)
        witness.feed(control.Acknowledged("a", target))
        witness.feed(control.Drained("a", target))
        witness.commit()
    assert witness.gave_up is None
    witness.succeed()
    assert witness.switches == len(targets)


def test_a_source_that_cannot_be_swept_does_not_hold_up_the_end() -> None:
    witness = begun("b")
    fence(witness, "a", "b")
    witness.feed(control.Acknowledged("a", "b"))
    witness.feed(control.Drained("a", "b"))
    witness.commit()
    for _ in range(SWEEP_ATTEMPTS_MAX):
        assert witness.sweeping == {"a"}
        witness.feed(control.SweepFailed("a", "away"))
    assert witness.pending == Finish(frozenset({"a"}))
    witness.commit()
    assert witness.topology.unclean == {"a"}


def test_the_way_back_is_never_given_up() -> None:
    witness = begun("b", "c")
    fence(witness, "a", "b")
    witness.feed(control.Acknowledged("a", "b"))
    witness.feed(control.Drained("a", "b"))
    witness.commit()
    witness.feed(control.CancelRequested())
    assert witness.gave_up == Ending(cancelled=True, reason="cancelled by request")
    witness.commit()
    witness.gave_up = None
    witness.feed(control.CancelRequested())
    for _ in range(2 * COPY_ATTEMPTS_MAX):
        witness.feed(control.CopyBroken("b", "gone", fatal=True))
    assert witness.gave_up is None
    witness.succeed()
    assert witness.topology.placement == cluster("a", placement=with_weights(Placement(8), {"a": 1.0})).placement


def test_no_more_pairs_are_copied_at_a_time_than_are_allowed() -> None:
    current = with_weights(Placement(8), {"a": 1.0})
    targets = ["t1", "t2", "t3", "t4", "t5"]
    topology = in_transition(current, with_weights(Placement(8), dict.fromkeys(targets, 1.0)), {})
    witness = Witness(topology, at_once=2)
    witness.feed(control.Begun())
    assert witness.copying == {"a": {"t1", "t2"}}
    for target in ("t1", "t2"):
        fence(witness, "a", target)
        witness.feed(control.Acknowledged("a", target))
        witness.feed(control.Drained("a", target))
        witness.commit()
    assert witness.copying == {"a": {"t1", "t2"}}, "its copy has not ended yet"
    witness.feed(control.Released("a"))
    assert witness.copying == {"a": {"t3", "t4"}}
    witness.feed(control.Released("a"))
    assert witness.copying == {"a": {"t3", "t4"}}, "a word of the copy before changes nothing"
    witness.succeed()
    assert witness.switches == 5
