"""Whole transitions over a world of dictionaries: servers, writers, copies in the making, crashes.

Work is done in steps that interleave at random, failures included, as `coordinator` does it over real servers;
only the decisions are the real ones. After every step each key has its last written value on its owner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.topologies import KEYS, random_topology

from helios.control import transition_state as control
from helios.control.mutations import Fence, Mutation, Reverse, Switch, parts_of
from helios.control.transition import step
from helios.control.transition_state import Event, TransitionState
from helios.coordinator.sweep import not_owned
from helios.model.topology import PairPhase
from helios.placement.routing import Routes

SOME_KEYS = KEYS[::10]
GARBAGE = -1


@dataclass
class Mover:
    """One copy of one source for its targets."""

    targets: set[str]
    begun: bool = False
    progressed: bool = False
    to_copy: set[bytes] = field(default_factory=set)
    # What has been read on the source and is on its way: key, target, value.
    in_hand: tuple[bytes, str, int | None] | None = None
    announced: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    # From its last copies until its fence is lifted, a pair is not touched, as its target may own the keys by
    # then; what changes on the source meanwhile is kept for later.
    sealed: set[str] = field(default_factory=set)


class World:
    """Servers and clients, and one coordinator after the other."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.at_once = random.choice((1, 2, 3, 100))
        self.fenced_at_once = random.choice((1, 2, 3, 100))
        self.topology = random_topology(random, fresh=True)
        assert self.topology.transition is not None
        self.shards = [shard.id for shard in self.topology.shards]
        self.servers: dict[str, dict[bytes, int]] = {shard: {} for shard in self.shards}
        self.truth: dict[bytes, int] = {}
        self.written = 0
        self.failing = True
        for key in random.sample(SOME_KEYS, len(SOME_KEYS) // 2):
            self.write(key)
        # What an earlier transition could not sweep, and copies that a coordinator before had made.
        self.topology = replace(
            self.topology, unclean=self.topology.unclean | set(random.sample(self.shards, k=random.randint(0, 2)))
        )
        for shard in self.topology.unclean:
            for key in random.sample(SOME_KEYS, 4):
                if self.routes.owner(key) != shard:
                    self.servers[shard][key] = GARBAGE
        self.take_over()

    @property
    def routes(self) -> Routes:
        return Routes(self.topology)

    def take_over(self) -> None:
        """A coordinator knows the topology and nothing else; what its predecessor had begun has ended."""
        self.events: list[Event] = [control.Begun()]
        self.movers: dict[str, Mover] = {}
        self.sweeps: set[str] = set()
        self.resuming: list[tuple[str, str]] = []
        self.pending: Mutation | None = None
        self.acknowledging: set[tuple[str, str]] = set()
        # Until all have acknowledged a fence, some router may still send what it should hold.
        self.in_flight = set(self.fenced())
        if self.topology.transition is not None:
            self.transition_state = TransitionState(self.topology.transition, self.at_once, self.fenced_at_once)

    def fenced(self) -> list[tuple[str, str]]:
        transition = self.topology.transition
        pairs = () if transition is None else transition.pairs
        return [(p.source, p.target) for p in pairs if p.phase is PairPhase.FENCED]

    # What clients do

    def write(self, key: bytes) -> None:
        """Set, delete or let expire; held commands of a fence do nothing here."""
        expiring = self.random.random() < 0.3
        if self.routes.fenced(key) and self.routes.pair(key) not in self.in_flight and not expiring:
            return
        owner = self.routes.owner(key)
        if expiring or self.random.random() < 0.2:
            self.truth.pop(key, None)
            self.servers[owner].pop(key, None)
            if self.routes.fenced(key):  # A copy has the same time to live.
                self.servers[(self.routes.pair(key) or ("", owner))[1]].pop(key, None)
        else:
            self.written += 1
            self.truth[key] = self.servers[owner][key] = self.written
        self.changed(owner, key)

    def changed(self, shard: str, key: bytes) -> None:
        """The change stream of a shard names a key."""
        mover = self.movers.get(shard) if self.started else None
        pair = self.routes.pair(key)
        if mover is not None and mover.begun and pair is not None and pair[0] == shard and pair[1] in mover.targets:
            mover.to_copy.add(key)

    @property
    def started(self) -> bool:
        return hasattr(self, "movers")

    # What the coordinator's work does

    def act(self) -> bool:
        """One step of any work that is under way; False where there is none."""
        choices: list[Callable[[], None]] = []
        if self.events:
            choices += [self.next_event] * 3
        if self.pending is not None:
            choices += [self.commit]
        for source, mover in self.movers.items():
            choices += [lambda source=source, mover=mover: self.move(source, mover)]  # type: ignore[misc]
        choices += [lambda shard=shard: self.sweep(shard) for shard in self.sweeps]  # type: ignore[misc]
        if self.acknowledging:
            choices += [self.acknowledge]
        if self.resuming:
            choices += [self.resume]
        if not choices:
            return False
        self.random.choice(choices)()
        return True

    def fails(self, chance: float) -> bool:
        return self.failing and self.random.random() < chance

    def next_event(self) -> None:
        event = self.events.pop(0)
        if isinstance(event, control.CopyBroken):
            self.movers.pop(event.source, None)
        self.transition_state, effects = step(self.transition_state, event)
        for effect in effects:
            self.perform(effect)

    def perform(self, effect: control.Effect) -> None:
        match effect:
            case control.Publish(mutation):
                self.pending = mutation
                ending = (part for part in parts_of(mutation) if not isinstance(part, Fence))
                self.acknowledging -= {(part.source, part.target) for part in ending}
            case control.GiveUp():
                pairs = self.topology.transition.pairs if self.topology.transition else ()
                self.pending = Reverse({(p.source, p.target): "back" for p in pairs})
            case control.Copy(source, targets):
                assert source not in self.movers
                self.movers[source] = Mover(set(targets))
            case control.StopWork():
                self.movers.clear()
                self.sweeps.clear()
                self.resuming.clear()
                self.acknowledging.clear()
            case control.Resume(source, target):
                self.resuming.append((source, target))
            case control.AwaitAcknowledgements(source, target):
                self.acknowledging.add((source, target))
            case control.Drain(source, target):
                if source in self.movers:
                    self.movers[source].requests.append(("drain", target))
            case control.Sweep(shard):
                self.sweeps.add(shard)

    def commit(self) -> None:
        mutation, self.pending = self.pending, None
        assert mutation is not None
        self.topology = mutation.apply(self.topology)
        fresh = {(part.source, part.target) for part in parts_of(mutation) if isinstance(part, Fence)}
        self.in_flight = (self.in_flight | fresh) & set(self.fenced())
        for part in parts_of(mutation):
            if isinstance(part, Switch) and part.source in self.movers:
                # The mover hears of it later than the routers.
                self.movers[part.source].requests.append(("release", part.target))
        self.events.append(control.Published(self.topology.transition))

    def acknowledge(self) -> None:
        source, target = pair = self.random.choice(sorted(self.acknowledging))
        if self.fails(0.3):
            self.events.append(control.FenceFailed(source, target, "not settled"))
        elif pair in self.in_flight:
            self.in_flight.discard(pair)
            self.events.append(control.Acknowledged(source, target))

    def resume(self) -> None:
        source, target = self.resuming.pop()
        if source in self.movers:
            self.movers[source].requests.append(("resume", target))

    def move(self, source: str, mover: Mover) -> None:
        if self.fails(0.03):
            self.movers[source] = Mover(set())  # It has ended; the coordinator hears of it later.
            self.events.append(control.CopyBroken(source, "gone"))
        elif not mover.targets:
            return
        elif not mover.begun:
            mover.begun = True
            self.clear_leftovers(source, mover)
            mover.to_copy = {key for key in self.servers[source] if self.target_of(source, mover, key)}
        elif mover.in_hand is not None:
            self.put(mover, mover.in_hand)
        elif mover.requests:
            self.serve(source, mover, *mover.requests.pop(0))
        elif unsealed := sorted(k for k in mover.to_copy if self.target_of(source, mover, k) not in mover.sealed):
            self.read(source, mover, self.random.choice(unsealed))
        else:
            if not mover.progressed:
                mover.progressed = True
                self.events.append(control.CopyProgressed(source))
            for target in sorted(mover.targets - mover.announced - mover.sealed):
                mover.announced.add(target)
                self.events.append(control.CaughtUp(source, target))

    def serve(self, source: str, mover: Mover, request: str, target: str) -> None:
        if request == "release":
            mover.targets.discard(target)
            if not mover.targets:
                del self.movers[source]
                self.events.append(control.Released(source))
            return
        if request == "resume":
            mover.announced.discard(target)
            mover.sealed.discard(target)
            return
        for key in [key for key in mover.to_copy if self.target_of(source, mover, key) == target]:
            self.read(source, mover, key)
            self.put(mover, mover.in_hand)
        mover.sealed.add(target)
        self.events.append(control.Drained(source, target))

    def target_of(self, source: str, mover: Mover, key: bytes) -> str:
        pair = self.routes.pair(key)
        return pair[1] if pair is not None and pair[0] == source and pair[1] in mover.targets else ""

    def read(self, source: str, mover: Mover, key: bytes) -> None:
        mover.to_copy.discard(key)
        target = self.target_of(source, mover, key)
        mover.in_hand = (key, target, self.servers[source].get(key)) if target else None

    def put(self, mover: Mover, copy: tuple[bytes, str, int | None] | None) -> None:
        mover.in_hand = None
        if copy is not None:
            key, target, value = copy
            self.servers[target].pop(key, None)
            if value is not None:
                self.servers[target][key] = value

    def clear_leftovers(self, source: str, mover: Mover) -> None:
        transition = self.topology.transition
        for target in mover.targets:
            arriving = frozenset(
                p.source
                for p in (transition.pairs if transition else ())
                if p.target == target and p.source != source and p.phase is not PairPhase.SWITCHED
            )
            self.drop(target, not_owned(self.routes, target, arriving=arriving))

    def sweep(self, shard: str) -> None:
        self.sweeps.discard(shard)
        if self.fails(0.3):
            self.events.append(control.SweepFailed(shard, "away"))
        else:
            self.drop(shard, not_owned(self.routes, shard))
            self.events.append(control.Swept(shard))

    def drop(self, shard: str, condemned: Callable[[bytes], bool]) -> None:
        for key in [key for key in self.servers[shard] if condemned(key)]:
            del self.servers[shard][key]
            self.changed(shard, key)

    # What must be true

    def check(self) -> None:
        """Each key has its last written value on its owner; whoever holds other keys is known as unclean."""
        routes = self.routes
        for key in SOME_KEYS:
            assert self.servers[routes.owner(key)].get(key) == self.truth.get(key)
        for shard, held in self.servers.items():
            if shard not in self.topology.unclean and routes.topology.shard(shard) is not None:
                assert all(routes.owner(key) == shard for key in held), f"{shard} is not as clean as it is said to be"

    def live(self, steps: int) -> None:
        """Clients, work, failures, cancels and crashes in any order; ends early when the transition does."""
        for _ in range(steps):
            if self.topology.transition is None:
                return
            for key in self.random.choices(SOME_KEYS, k=self.random.randint(0, 3)):
                self.write(key)
            self.act()
            chance = self.random.random()
            if chance < 0.01:
                self.events.append(control.CancelRequested())
            elif chance < 0.02:
                if self.pending is not None and self.random.random() < 0.5:
                    self.commit()  # Its last words reach the store.
                self.take_over()
            self.check()

    def settle(self) -> None:
        """No failures any more: returns when the transition has ended."""
        self.failing = False
        for n in range(20_000):
            if self.topology.transition is None:
                return
            if n % 10 == 0:
                self.write(self.random.choice(SOME_KEYS))
            assert self.act(), "nothing is under way and nothing will come"
            self.check()
        pytest.fail("it does not come to an end")


@settings(max_examples=max(100, settings().max_examples))
@given(st.integers(0, 2**32 - 1))
def test_no_write_is_lost_and_nothing_is_left_behind(seed: int) -> None:
    random = Random(seed)
    world = World(random)
    world.live(random.randint(0, 300))
    world.settle()
    world.check()
    assert not world.fenced()
