"""Troubles that come together: each shows what a wrong rule for leaders, or for what they acknowledge, would lose."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.failures import Failures
from tests.simulation.faults import Trouble
from tests.simulation.scenario import Edge
from tests.simulation.servers import SimServer

from helios.model.topology import Shard, Topology

if TYPE_CHECKING:
    from tests.simulation.replicated import ReplicatedWorld

_LASTS_S = 8.0  # at most
_SUCCESSOR_S = 2.0
_SLEEPS_S = 2.0  # more than a lease lasts
_AHEAD = 4
_LOOK_AGAIN_S = 0.01


class Traps(Failures):
    """Failures, and traps among them, from a source of their own. Some take their time, in which nothing else fails."""

    def __init__(self, world: ReplicatedWorld) -> None:
        super().__init__(world)
        self._traps = Random(f"{world.seed}/traps")
        self._set: Trouble | None = None  # a trap that takes its time
        self._springs: Callable[[Topology], bool] = lambda _: False  # whether that is over with this topology

    def strike(self, near: str | None) -> None:
        if self._set is not None:
            return
        choice = self._traps.random()
        if Edge.TRAPS not in self._nodes.scenario.edges:
            super().strike(near)
            choice *= 5
        if choice < 0.25 and (found := self._led(2)):
            self._end_ahead(*found)
        elif choice < 0.5 and (found := self._led(2)):
            self._end_if_spared(found[1], power=True)
        elif choice < 0.75 and (found := self._led(3)):
            self._strand(*found)
        elif choice < 1 and (found := self._led(3)):
            self._outpace(*found)

    def published(self, topology: Topology) -> None:
        super().published(topology)
        if self._set is not None and self._springs(topology):
            self._springs = lambda _: False

    def _led(self, least: int) -> tuple[Shard, SimServer] | None:
        """Some shard of so many members, and its leader, which runs."""
        shards = [shard for shard in self._nodes.invariants.topology.shards if len(shard.members) >= least]
        pairs = [(shard, leader) for shard in shards if (leader := self._nodes.member(shard.leader)) is not None]
        able = [(shard, leader) for shard, leader in pairs if leader.up and not leader.frozen]
        return self._traps.choice(able) if able else None

    def _end_ahead(self, shard: Shard, leader: SimServer) -> None:
        """The leader ends with what no other member has yet, or one of several; learners have it."""
        lag_s = self._traps.choice((0.5, 1.0))
        followers = self._followers(shard, leader)
        if len(followers) > 1:
            followers.remove(self._traps.choice(followers))
        for server in followers:
            self._lag(server, lag_s, 2 * lag_s)
        self._nodes.loop.send_later(self._traps.uniform(0.3, 1.0) * lag_s, self._end_if_spared, leader)

    def _followers(self, shard: Shard, leader: SimServer) -> list[SimServer]:
        found = (self._nodes.member(member.id) for member in shard.members)
        return [server for server in found if server is not None and server is not leader]

    def _wait(self, what: str, mend: Callable[[], object], springs: Callable[[Topology], bool]) -> None:
        """Set a trap, which is over in time."""

        def over() -> None:
            self._set = None
            mend()

        self._springs = springs
        self._set = self._until(over, _LASTS_S, what)

    # A learner that has more than members have

    def _outpace(self, shard: Shard, leader: SimServer) -> None:
        """A member sleeps until it is a learner. Then it gets what the leader ends with, and no member has."""
        sleeper = self._traps.choice(self._followers(shard, leader) or [leader])
        if sleeper is leader or not sleeper.up or sleeper.frozen:
            return
        sleeper.freeze()
        starts = sleeper.starts

        def wake() -> None:
            if sleeper.up and sleeper.starts == starts:
                sleeper.thaw()

        def springs(topology: Topology) -> bool:
            now = topology.shard(shard.id)
            if now is None or now.outgoing or self._nodes.member(now.leader) is not leader:
                return False
            if all(self._nodes.member(learner.id) is not sleeper for learner in now.learners):
                return False
            coordinator = self._reigning()
            if coordinator is not None and not coordinator.process.frozen:
                self._freeze(coordinator, _SLEEPS_S)  # and does not make it a member again
            self._nodes.loop.send_later(0, self._spring)
            self._end_ahead(now, leader)
            return True

        self._wait(f"{sleeper.name} freezes until it is a learner", wake, springs)

    def _spring(self) -> None:
        if self._set is not None:
            self._mend(self._set)

    # A leader that does not hear of its successor

    def _strand(self, shard: Shard, leader: SimServer) -> None:
        """The leader writes for routers what no follower gets, and its successor ends before it has followed that one.

        Coordinators find it as it was: ahead of everybody, in a term that is over.
        """
        loop = self._nodes.loop
        coordinators = [actor.process.name for actor in self._nodes.coordinators]
        followers = [one.name for one in self._nodes.everyone() if one.shard == shard.id and one is not leader]
        for name in (*coordinators, *followers):
            leader.cut(name)

        def heal(names: list[str]) -> None:
            for name in names:
                leader.heal(name)

        def springs(topology: Topology) -> bool:
            now = topology.shard(shard.id)
            successor = None if now is None else self._nodes.member(now.leader)
            if successor is None or successor is leader:
                return False
            loop.send_later(self._traps.uniform(0.0, 0.3), heal, coordinators)
            self._end_in_time(successor, leader, loop.time() + _SUCCESSOR_S)
            return True

        self._wait(f"{leader.name} is left alone with the routers", lambda: heal([*coordinators, *followers]), springs)

    def _end_in_time(self, successor: SimServer, leader: SimServer, until_s: float) -> None:
        """The successor ends before it has come as far as the one that it has replaced, and has done much by then."""
        loop = self._nodes.loop
        ahead = leader.replication.state().offset - successor.replication.state().offset
        if ahead > _AHEAD and loop.time() < until_s:
            loop.send_later(_LOOK_AGAIN_S, self._end_in_time, successor, leader, until_s)
            return
        self._end_if_spared(successor)
        loop.send_later(self._traps.uniform(0.5, 2.0), self._spring)
