"""The control of a transition under events in any order, repeated, late and made up."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.topologies import SHARDS, cluster, in_transition, one_way, random_topology
from tests.transition_witness import Witness, begun, fence

from helios.control import transition_state as control
from helios.control.mutations import Finish, Switch, Unfence
from helios.control.transition import COPY_ATTEMPTS_MAX, FENCE_ATTEMPTS_MAX, SWEEP_ATTEMPTS_MAX, step
from helios.control.transition_state import Ending, TransitionState
from helios.model.topology import PairPhase, Placement
from helios.placement.change import with_weights

SEEDS = st.integers(0, 2**32 - 1)


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
