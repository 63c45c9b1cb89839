"""Worlds whose shards have several members: every node has an agent, which runs the servers that it is to carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from tests.simulation.accepted import Accepted
from tests.simulation.actors import Actor
from tests.simulation.asynchronous import Asynchronous
from tests.simulation.machines import AgentActor, Machine, Placed
from tests.simulation.on_call import OnCall
from tests.simulation.scenario import WAITING, Danger, Edge, Scenario, ServerKind, choose
from tests.simulation.servers import SimServer
from tests.simulation.terms import Terms
from tests.simulation.traps import Traps
from tests.simulation.wanted import Wanted, members_wanted
from tests.simulation.world import World, agent_records, members_of

from helios.control.wishes import wishes_of
from helios.model.codec import decode
from helios.model.durability import Durability
from helios.model.ids import Address, founder_id, replica_id, shard_of_replica
from helios.model.migration import Change
from helios.model.sections import Reads, ReplicationSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, NodeKind, Shard
from helios.ports.following import next_change
from helios.ports.records import MEMBERS, SETTINGS
from helios.ports.store import Delete, Put

_NODES = 3
_FIRST_PORT = 8000
_TRAPS = 0.3  # of all lives
# What not every life has, and none with traps. Each has a source of its own, so that others stay what they were.
_OFTEN = {
    Edge.ACCEPTED: 0.25,
    Edge.COPIES: 0.25,
    Edge.ASYNC: 0.2,
    Edge.LEADER_READS: 0.2,
    Edge.REPLICA_READS: 0.3,
    Edge.FLUSHES: 0.15,
    Edge.OUTSIDE: 0.25,
    Edge.SETTINGS: 0.25,
    Edge.PROMISES: 0.1,
}
# A server that loses keys by itself makes every copy lose them; and which are external is chosen here.
_WITHOUT = (Edge.EXTERNAL, Edge.PLAIN, Edge.LOSING, Edge.IMPORTS, Edge.ADOPTED, Edge.FLUSHES)


def choose_replicated(seed: int) -> Scenario:
    """The scenario of a seed whose life has copies."""
    base, random = choose(seed), Random(f"{seed}/copies")
    danger = base.danger if base.danger in (Danger.CALM, Danger.SLOW, Danger.ZOMBIES) else Danger.MIXED
    factor = random.choice((2, 3, 3))
    traps = Random(f"{seed}/has traps").random() < _TRAPS
    drawn = {edge for edge, often in _OFTEN.items() if Random(f"{seed}/has {edge}").random() < often} - WAITING
    if traps:
        drawn.clear()
    if Edge.PROMISES in drawn:
        drawn |= {Edge.ASYNC, Edge.LEADER_READS}  # some time
    elif Edge.ASYNC in drawn and Random(f"{seed}/async reads").random() < 0.7:
        drawn.add(Edge.LEADER_READS)
    replication = ReplicationSettings(
        **_promises(seed, drawn),
        max_staleness=Random(f"{seed}/staleness").choice((0.2, 0.5, 1.0)),
        ack_timeout=random.choice((0.2, 0.5, 1.0)),
        failover_timeout=random.choice((0.5, 1.0, 2.0)),
    )
    sharding = base.settings.sharding.altered(replication_factor=3 if traps or Edge.ACCEPTED in drawn else factor)
    spare_nodes = random.randint(0, 1)
    kinds = [ServerKind.SUPERVISED] * len(base.kinds)
    if Edge.OUTSIDE in drawn:
        kinds[Random(f"{seed}/outside").randrange(1, _NODES + spare_nodes)] = ServerKind.EXTERNAL
    return replace(
        base,
        settings=base.settings.altered(sharding=sharding, replication=replication),
        nodes=_NODES,
        spare_nodes=spare_nodes,
        danger=Danger.MIXED if traps else danger,
        late=0.0 if traps else base.late,
        store_late=0.0 if traps else base.store_late,
        peace_s=2.0 if traps else random.choice((0.0, 1.0, 3.0)),
        trouble_s=random.uniform(2.0, 6.0),
        registers=1,
        register_weight=60,  # what is read from who does not lead any more shows there
        flush_weight=4,  # what failovers take back of them shows there
        lists=False,
        room_bytes=1 << 20,
        edges=base.edges.difference(_WITHOUT) | ({Edge.TRAPS} if traps else drawn),
        kinds=tuple(kinds),
    )


def _promises(seed: int, edges: set[Edge]) -> dict[str, Any]:
    """What writes wait for, and what reads show."""
    random = Random(f"{seed}/promises")
    by_key = random.choice(("cart:*=async", "user:*=async", "n:*=async,session:*=async"))
    if Edge.ASYNC not in edges:
        durability = {}
    elif random.random() < 0.6:
        durability = {"durability_by_key": by_key}
    else:
        durability = {"durability": Durability.ASYNC, "durability_by_key": random.choice(("", "user:*=quorum"))}
    return {"reads": Reads.LEADER if Edge.LEADER_READS in edges else Reads.LINEARIZABLE, **durability}


class ReplicatedWorld(World):
    """A world with agents. `servers` are those with which nodes found their shards."""

    def __init__(self, seed: int, scenario: Scenario) -> None:
        super().__init__(seed, scenario)
        self._ports = _FIRST_PORT
        self._made: Counter[str] = Counter()  # servers by name
        inside = [node for node, server in self.servers.items() if server.kind is NodeKind.SUPERVISED]
        self.outside = {founder_id(node): server for node, server in self.servers.items() if node not in inside}
        self.machines = {node: self._machine(node) for node in inside}
        self.agents = [AgentActor(self, machine) for machine in self.machines.values()]
        for coordinator, node in zip(self.coordinators, self.machines, strict=False):
            coordinator.node = node
        self._led = dict(self.servers)  # by shard, also those that have left: who leads, or was the last to
        self.invariants.leads = lambda server: self._led[server.shard] is server
        self.faults = Traps(self)
        self.terms = Terms(self)
        self.accepted = Accepted(self)
        self.asynchronous = Asynchronous(self)
        self.wanted = Wanted(scenario.settings, self.loop.time, self.fail)
        self.operator: OnCall = OnCall(self, "operator")
        self.unsound: set[SimServer] = set()  # those that have lost their power, and have not got everything again

    def actors(self) -> list[Actor]:
        return [*self.agents, *super().actors()]

    def everyone(self) -> list[SimServer]:
        return [*(server for machine in self.machines.values() for server in machine.servers), *self.outside.values()]

    def leading(self, shard: str) -> SimServer:
        found = self.invariants.topology.shard(shard)
        if found is None:
            return self.servers[shard]
        leader = self.member(found.leader)
        assert leader is not None
        return leader

    def is_replaced(self, server: SimServer) -> bool:
        found = self.invariants.topology.shard(server.shard)
        return server in self.outside.values() and found is not None and self.leading(server.shard) is not server

    def member(self, member_id: str) -> SimServer | None:
        """The server of that member, if its node has one."""
        if member_id in self.outside:
            return self.outside[member_id]
        found = (machine.placed.get(member_id) for machine in self.machines.values())
        return next((placed.server for placed in found if placed is not None), None)

    def is_sound(self, shard: Shard, member_id: str) -> bool:
        """Whether a member goes by its shard's term, as leader or as one who has followed it."""
        server = self.member(member_id)
        if server is None or not server.up:
            return False
        said = server.replication.state()
        return said.in_sync and bool(shard.lineage) and said.history == shard.lineage[0].history

    def on_commit(self, operations: Sequence[Put | Delete], revision: int) -> None:
        before = self.invariants.topology
        super().on_commit(operations, revision)
        for operation in operations:
            if isinstance(operation, Put) and operation.key == SETTINGS:
                settings = decode(ClusterSettings, operation.value)
                self.wanted.changed(settings)
                self.asynchronous.changed(settings.replication)
                self.max_staleness_s = max(self.max_staleness_s, settings.replication.max_staleness)
        if self.invariants.topology is not before:
            self._led |= {shard.id: self.leading(shard.id) for shard in self.invariants.topology.shards}
            self.asynchronous.published(before, self.invariants.topology)
            self.accepted.published(before, self.invariants.topology)
            self.wanted.published(before, self.invariants.topology)
            self.terms.published(before, self.invariants.topology)

    def told(self, change: Change) -> None:
        super().told(change)
        self.accepted.told(change)

    async def announce(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            await self.inner.commit(agent_records(node, self.clock.wall()))
        for agent in self.agents:
            agent.start()
        while len((members := await self.inner.list(MEMBERS)).entries) < len(nodes):
            await next_change(self.inner, MEMBERS, members.revision, 1.0)

    def calm(self) -> None:
        # A server whose answer is late is replaced: that would never come to an end.
        super().calm()
        self.late.clear()
        self.usually_late = 0.0

    def look(self) -> None:
        self.terms.look()

    # Servers of nodes

    def _machine(self, node: str) -> Machine:
        machine = Machine(
            node, Random(f"{self.seed}/machine of {node}"), lambda member_id: self._placed(node, member_id)
        )
        founder = self.servers[node]
        founder.crash()
        machine.placed[founder_id(node)] = Placed(founder, self.address(node))
        return machine

    def _placed(self, node: str, member_id: str) -> Placed:
        shard, number = shard_of_replica(member_id), int(node.rpartition("-")[2]) - 1
        assert member_id == replica_id(shard, node)
        # It travels and waits as part of the world, whoever has it made.
        skew_s = self.scenario.skews_s[number]
        server = self.loop.outside.run(self._server, shard, member_id, skew_s, ServerKind.SUPERVISED)
        server.up = False
        self._made[member_id] += 1
        server.replication.made = self._made[member_id]
        server.replication.kept = Random(f"{self.seed}/kept by {member_id}").choice((3, 1000))
        self._ports += 1
        return Placed(server, Address("server", self._ports))

    def run_server(self, member_id: str, placed: Placed) -> None:
        """The server begins to run, on the files that it has."""
        if Edge.ELSEWHERE in self.scenario.edges and self._delays.random() < 0.3:
            self.addresses.pop(placed.address, None)
            self._ports += 1
            placed.address = Address("server", self._ports)
        self.addresses[placed.address] = placed.server
        placed.server.restart()
        leads = "leads" if placed.server.replication.leads else "follows nobody"
        self.note(f"{member_id} runs at {placed.address} and {leads}")

    def discard(self, machine: Machine, member_id: str) -> None:
        """The member's files go."""
        placed = machine.placed.pop(member_id)
        self.addresses.pop(placed.address, None)
        self.note(f"{member_id} is gone")
        if member_id == founder_id(machine.node):
            self.fail(f"the files of {member_id} are deleted")

    # Rest

    def unrest(self) -> Iterator[str]:
        topology = self.invariants.topology
        wishes = wishes_of(topology, self.wanted.factor)
        for shard in topology.shards:
            wanted = members_wanted(topology, shard, wishes)
            if shard.id in topology.fenced_shards:
                yield f"{shard.id} is being failed over"
            if shard.learners or shard.outgoing or {member.id for member in shard.members} != wanted:
                yield f"the members of {shard.id} are {members_of(shard)}, where {sorted(wanted)} are wanted"
            yield from self._unlike(shard)

    def _unlike(self, shard: Shard) -> Iterator[str]:
        """Members that do not have what the leader has."""
        leader = self.leading(shard.id)
        if not leader.replication.leads:
            yield f"{leader.name} does not lead"
        held = leader.contents()
        for member in shard.members:
            server = self.member(member.id)
            if server is None or not server.up:
                yield f"{member.id} does not run"
            elif server.contents() != held:
                yield f"{member.id} has {server.contents()}, where its leader has {held}"
