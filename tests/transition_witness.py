"""One who performs what the control of a transition wants, and holds it to its promises."""

from __future__ import annotations

from random import Random

import pytest
from tests.topologies import SHARDS, in_transition

from helios.control import transition_state as control
from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Together, Unfence, parts_of
from helios.control.transition import BACKOFF_MAX_S, SLOW_MAX_MS, step
from helios.control.transition_state import Ending, Event, TransitionState
from helios.model.topology import PairPhase, Placement, Topology, Transition
from helios.placement.change import with_weights

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
