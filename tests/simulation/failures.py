"""Trouble in worlds whose shards have several members: leaders die, members are cut off from each other, and worse."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.actors import Actor
from tests.simulation.faults import Faults
from tests.simulation.machines import AgentActor
from tests.simulation.scenario import Danger, Edge
from tests.simulation.servers import SimServer

from helios.model.topology import NodeKind, Shard, Topology

if TYPE_CHECKING:
    from tests.simulation.replicated import ReplicatedWorld

_SOON_S = (0.0, 0.01, 0.1, 0.5)
_OUTSIDE, _ENDS = 0.6, 0.5  # how often trouble is with a leader outside, and ends it
_MAJORITIES = 0.3  # how often a majority is away, in lives in which somebody may accept that


class Failures(Faults):
    """Hurts a world until its time of trouble is over.

    A server loses its power only where the members that are left meet every majority: what a majority has lost at once
    nobody promises to keep. Until it has everything again, no other member of its shard is ended either.
    """

    def __init__(self, world: ReplicatedWorld) -> None:
        super().__init__(world)
        self._nodes = world
        self._majorities = Random(f"{world.seed}/majorities")
        self._lags = Random(f"{world.seed}/lags")
        self._outside = Random(f"{world.seed}/outside")

    def published(self, topology: Topology) -> None:
        super().published(topology)
        world, random = self._nodes, self._random
        if world.scenario.danger is Danger.CALM or not 0 < world.loop.time() < self._ends_s:
            return
        changing = [
            one.id for one in topology.shards if one.outgoing or one.learners or one.id in topology.fenced_shards
        ]
        if changing and random.random() < world.scenario.fault_at_phase / 2:
            world.loop.send_later(random.uniform(0, random.choice(_SOON_S)), self.strike, random.choice(changing))

    def strike(self, near: str | None) -> None:
        random, topology = self._random, self._nodes.invariants.topology
        if not topology.shards:
            return
        shard = (topology.shard(near) if near else None) or random.choice(topology.shards)
        if Edge.OUTSIDE in self._nodes.scenario.edges and self._outside.random() < _OUTSIDE:
            shard = self._led_from_outside() or shard
            if self._outside.random() < _ENDS and (server := self._nodes.member(shard.leader)) is not None:
                self._end_if_spared(server, power=self._outside.random() < 0.5)
                return
        if Edge.ACCEPTED in self._nodes.scenario.edges and self._majorities.random() < _MAJORITIES:
            self._leave_one(shard)
            return
        if Edge.REPLICA_READS in self._nodes.scenario.edges and (found := self._behind(shard)) is not None:
            self._lag(found, self._lags.choice((0.5, 1.0, 2.0)), self._lags.uniform(1.0, 3.0))
        choice = random.random()
        if choice < 0.35:
            self._hurt_member(shard)
        elif choice < 0.55:
            self._part(shard)
        elif choice < 0.8:
            self._hurt_process(self._reigning() or random.choice(self._nodes.coordinators))
        else:
            self._hurt_process(random.choice(self._nodes.actors()))
        if random.random() < 0.15:
            self.strike(shard.id)

    def _led_from_outside(self) -> Shard | None:
        shards = self._nodes.invariants.topology.shards
        return next((shard for shard in shards if shard.leader in self._nodes.outside), None)

    def _behind(self, shard: Shard) -> SimServer | None:
        """A follower that is to be far behind what clients may be shown, now and then."""
        followers = [one for one in shard.members if one.id != shard.leader]
        if not followers or self._lags.random() > 0.5:
            return None
        return self._nodes.member(self._lags.choice(followers).id)

    def _hurt_process(self, actor: Actor) -> None:
        if isinstance(actor, AgentActor) and not all(
            self._spares(server, power=False) for server in actor.machine.servers
        ):
            return  # which might end them
        super()._hurt_process(actor)

    # Members

    def _some(self, shard: Shard) -> SimServer | None:
        """One of the shard's servers, more often its leader."""
        random = self._random
        member = shard.leading if random.random() < 0.6 else random.choice(shard.servers)
        return self._nodes.member(member.id)

    def _hurt_member(self, shard: Shard) -> None:
        random, server = self._random, self._some(shard)
        if server is None or not server.up or server.frozen:
            return
        choice = random.random()
        if choice < 0.5:
            self._end_if_spared(server, power=random.random() < 0.4)
        elif choice < 0.75:
            self._stop(server, random.uniform(0.01, 5))
        else:
            lag_s = random.choice((0.05, 0.3, 1.0))
            self._lag(server, lag_s, random.uniform(0.5, 3))

    def _lag(self, server: SimServer, lag_s: float, for_s: float) -> None:
        """What its leader sends takes so long to come."""
        server.replication.lag_s = lambda: lag_s
        mend = lambda: setattr(server.replication, "lag_s", lambda: 0.0)  # noqa: E731
        self._until(mend, for_s, f"{server.name} lags")

    def _end_if_spared(self, server: SimServer, power: bool = False) -> None:
        """The server ends, with what is not on its disk where its power fails; unless nobody could go on without it."""
        if not server.up or not self._spares(server, power=power):
            return
        self.count += 1
        self._nodes.note(f"fault: {server.name} {'loses its power' if power else 'crashes'}")
        server.crash(lose_unsynced=power)
        if power:
            self._nodes.unsound.add(server)
        if server.kind is NodeKind.EXTERNAL:
            self._begin_again(server, empty=power and self._outside.random() < 0.5)

    def _begin_again(self, server: SimServer, *, empty: bool) -> None:
        """A server that Helios does not start comes back by itself, with nothing where it has no disk."""
        if empty:
            server.lose_everything()
        after_s = self._outside.choice((0.05, 0.5, 4.0)) * self._outside.uniform(0.2, 1.5)
        self._until(lambda: self._nodes.restart(server), after_s, f"{server.name} is away{' and empty' * empty}")

    def _spares(self, server: SimServer, *, power: bool) -> bool:
        """Whether its end leaves somebody who has all that was acknowledged, and can be known to have it."""
        world = self._nodes
        shard = world.invariants.topology.shard(server.shard)
        if shard is None:
            return True
        sound = {member.id for member in shard.servers if world.is_sound(shard, member.id)}
        world.unsound.difference_update([one for member_id in sound if (one := world.member(member_id)) is not None])
        world.unsound.difference_update([one for one in world.unsound if world.is_replaced(one)])
        if not power and not any(other.shard == server.shard for other in world.unsound):
            return True  # all disks have everything
        ending = {placed for agent in world.agents if not agent.alive for placed in agent.machine.servers}
        left = {member_id for member_id in sound if world.member(member_id) not in {server, *ending}}
        return all(len(members & left) >= len(members) - len(members) // 2 for members in shard.memberships)

    def _leave_one(self, shard: Shard) -> None:
        """All members but one that lags stand still, or are cut off from it and the coordinators; routers see them."""
        random, world = self._majorities, self._nodes
        found = [server for one in shard.members if (server := world.member(one.id)) is not None]
        followers = [server for server in found if server.name != shard.leader and server.up and not server.frozen]
        if not followers:
            return
        left = random.choice(followers)
        self._lag(left, random.choice((0.3, 1.0)), random.uniform(1.0, 3.0))
        node = next(one.node for one in shard.members if world.member(one.id) is left)
        world.loop.send_later(random.uniform(0.5, 3.0), world.operator.call, shard.id, node)
        coordinators = [actor.process.name for actor in world.coordinators]
        freezes = random.random() < 0.4
        if not freezes:
            self._lose_store(
                random.choice(world.routers), random.uniform(1.0, 4.0)
            )  # and with it every word of a fence
        for server in found:
            if server is left or not server.up or server.frozen:
                continue
            for_s = random.uniform(2.0, 5.0)
            if freezes:
                world.loop.send_later(random.uniform(0.2, 0.5), self._stop_if_able, server, for_s)
            else:
                self._cut_off(server, [left.name, *coordinators], for_s)

    def _stop_if_able(self, server: SimServer, for_s: float) -> None:
        if server.up and not server.frozen:
            self._stop(server, for_s)

    # The network

    def _part(self, shard: Shard) -> None:
        """A server is cut off from another, from a process, or from all but the routers."""
        random, world, server = self._random, self._nodes, self._some(shard)
        if server is None or not server.up:
            return
        others = [other for other in world.everyone() if other is not server]
        choice = random.random()
        if choice < 0.35:
            names = [random.choice([other.name for other in others if other.shard == server.shard] or [""])]
        elif choice < 0.6:
            names = [random.choice([*world.coordinators, *world.routers]).process.name]
        else:
            names = [other.name for other in others] + [actor.process.name for actor in world.coordinators]
        self._cut_off(server, names, random.uniform(0.1, 5))

    def _cut_off(self, server: SimServer, names: Sequence[str], for_s: float) -> None:
        for name in names:
            server.cut(name)

        def heal() -> None:
            for name in names:
                server.heal(name)

        self._until(heal, for_s, f"{server.name} is cut off from {', '.join(names)}")
