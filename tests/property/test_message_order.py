"""Messages of channels that change their shard, read in any interleaving: each once, each channel in its order."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.topologies import cluster

from helios.model.topology import Pair, PairPhase, Placement, Rule, Topology, Transition
from helios.placement.routing import Routes
from helios.router.pubsub.ordering import Handover, InOrder

Message = tuple[bytes, int]
CHANNELS = [b"m:%d" % i for i in range(12)]
SHARDS = ("a", "b", "c")
RULES = (Rule("a", "b", ("m:*",)), Rule("b", "c", ("m:*",)), Rule("c", "a", ("m:*",)))
COPYING, FENCED, SWITCHED = PairPhase


def lives() -> list[Topology]:
    """A move of every channel to the next shard, one pair after the other, and then the same once more."""
    start = cluster(*SHARDS)
    following: Placement = replace(start.placement, rules=RULES)
    phases = [[COPYING] * 3]
    for i in range(3):
        for phase in (FENCED, COPYING, FENCED, SWITCHED):
            phases.append([*phases[-1][:i], phase, *phases[-1][i + 1 :]])
    found = [start]
    for row in phases:
        pairs = tuple(Pair(rule.source, rule.target, "", phase) for rule, phase in zip(RULES, row, strict=True))
        found.append(replace(start, transition=Transition("", following, pairs)))
    found.append(replace(start, placement=following))
    return [replace(topology, epoch=epoch) for epoch, topology in enumerate(found, 1)]


LIFE = [Routes(topology) for topology in lives()]


class World:
    """Servers that publish by one epoch, and a reader that may be behind by one."""

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self.epoch = self.applied = 0
        self.streams: dict[str, deque[Message | Handover]] = {shard: deque() for shard in SHARDS}
        self.order: InOrder[Message] = InOrder(max_bytes)
        self.order.apply(LIFE[0])
        self.sent: list[Message] = []
        self.got: list[Message] = []

    def publish(self, channel: bytes) -> None:
        if not LIFE[self.epoch].fenced(channel):  # else it is held
            self.sent.append((channel, len(self.sent)))
            self.streams[LIFE[self.epoch].owner(channel)].append(self.sent[-1])

    def advance(self) -> None:
        if self.epoch + 1 < len(LIFE) and (not LIFE[self.epoch].has_fence or self.applied == self.epoch):
            self.epoch += 1

    def apply(self) -> None:
        if self.applied < self.epoch:
            self.applied = self.epoch
            for handover in self.order.apply(LIFE[self.applied]):
                self.streams[handover.source].append(handover)
            self.got += self.order.released()

    def read(self, shard: str) -> None:
        if not self.streams[shard]:
            return
        item = self.streams[shard].popleft()
        if isinstance(item, Handover):
            self.order.end(item)
            self.got += self.order.released()
        elif not self.order.waits(shard, item[0], item, 10):
            self.got.append(item)

    def finish(self) -> None:
        while self.applied + 1 < len(LIFE):
            self.advance()
            self.apply()
        for _ in range(2):
            for shard in SHARDS:
                while self.streams[shard]:
                    self.read(shard)


def steps() -> st.SearchStrategy[list[tuple[str, object]]]:
    publish = st.tuples(st.just("publish"), st.sampled_from(CHANNELS))
    read = st.tuples(st.just("read"), st.sampled_from(SHARDS))
    return st.lists(publish | read | st.sampled_from((("advance", None), ("apply", None))), max_size=120)


@given(steps())
def test_each_message_once_and_each_channel_in_order(script: list[tuple[str, object]]) -> None:
    world = World()
    for name, argument in script:
        getattr(world, name)(*(() if argument is None else (argument,)))
    world.finish()
    assert sorted(world.got) == sorted(world.sent)
    for channel in CHANNELS:
        mine = [message for message in world.got if message[0] == channel]
        assert mine == sorted(mine)
    assert len(world.order) == 0
    assert world.order.out_of_turn == 0


def test_what_the_new_owner_publishes_first_waits_for_the_old_one() -> None:
    world = World()
    channel = next(channel for channel in CHANNELS if LIFE[0].owner(channel) == "a")
    world.publish(channel)
    while (world.epoch, world.applied) != (5, 4):  # switched, which the reader does not know
        world.advance()
        if world.epoch < 5:
            world.apply()
    world.publish(channel)
    world.read("b")
    assert not world.got
    world.apply()
    world.read("b")
    assert not world.got
    while world.streams["a"]:
        assert len(world.got) <= 1
        world.read("a")
    assert world.got == world.sent


def test_too_many_that_wait_are_let_through() -> None:
    world = World(max_bytes=25)
    channel = next(channel for channel in CHANNELS if LIFE[0].owner(channel) == "a")
    while world.epoch < 5:
        world.apply()
        world.advance()
    for _ in range(4):
        world.publish(channel)
        world.read("b")
    assert world.got == world.sent[2:]
    assert world.order.out_of_turn == 2
    world.finish()
    assert sorted(world.got) == world.sent
