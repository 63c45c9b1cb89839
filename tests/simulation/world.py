"""The world of one life: servers, store, processes and clients, and everything that happens in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

from tests.published import Published
from tests.simulation.actors import Actor, CoordinatorActor, RouterActor
from tests.simulation.etcd import SimEtcd, SimEtcdStore
from tests.simulation.faults import Faults
from tests.simulation.invariants import Invariants
from tests.simulation.judges import Judges
from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.losses import Losses
from tests.simulation.network import RespNetwork
from tests.simulation.operator import Operator
from tests.simulation.scenario import ADOPTED, Edge, Scenario, ServerKind, StoreKind
from tests.simulation.servers import ADMIN, SimServer
from tests.simulation.store import SimStore
from tests.simulation.workload import Client

from helios.model.codec import decode
from helios.model.ids import Address, founder_id
from helios.model.migration import Change
from helios.model.topology import Node, NodeKind, Shard, Topology
from helios.ports.records import (
    AGENTS,
    CHANGES,
    COORDINATOR,
    IMPORTS,
    MEMBERS,
    RUNNING,
    AgentRecord,
    CoordinatorRecord,
    MemberRecord,
    RunningRecord,
    put_record,
)
from helios.ports.store import Delete, Put
from helios.stores.memory import MemoryStore

_LATE_S = 3.0


class World:
    """Everything there is; whoever finds something broken calls `fail`."""

    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.seed = seed
        self.scenario = scenario
        self.loop = SimLoop()
        self.clock = SimClock(self.loop)
        self.trace: list[str] = []
        self.failure: str | None = None
        self.cause: BaseException | None = None
        self.serving = True
        self.acknowledged = 0
        self.lost = 0  # of what was acknowledged, where that is allowed
        self.coordinator = ""
        self.max_staleness_s = scenario.settings.replication.max_staleness  # at any time until now
        self.late: dict[str, float] = {}  # by server: how often its answer takes long, where that is not as usual
        self.usually_late = scenario.late
        self.members: dict[str, MemberRecord] = {}
        self.inner = MemoryStore()
        self.etcd: SimEtcd | None = None
        if scenario.store is StoreKind.ETCD:
            self.etcd = SimEtcd(self.inner, self.loop, Random(f"{seed}/etcd"))
        self.published = Published()
        self._delays = Random(f"{seed}/delays")
        self.losses = Losses(self)
        self.judges = Judges(scenario, lambda: [history for client in self.clients for history in client.keys])
        self.clients = [Client(self, number) for number in range(scenario.clients)]
        shards = [f"shard-{number + 1}" for number in range(scenario.nodes + scenario.spare_nodes)]
        keys = [*self.judges.keys(), *(key for shard in shards for key in _brought(shard))]
        self.invariants = Invariants(keys, self.loop.time, self.fail)
        self.servers = {shard: self._server(shard) for shard in shards}
        if Edge.IMPORTS in scenario.edges:
            for number, shard in enumerate(shards[scenario.nodes :]):
                self._fill(shard, self.clients[number % len(self.clients)].expect)
        self.adopted = shards[ADOPTED] if Edge.ADOPTED in scenario.edges else ""
        if self.adopted:
            self._fill(self.adopted, self.clients[0].inherit)
        self.addresses = {self.address(shard): server for shard, server in self.servers.items()}
        self.loop.network = self.network = RespNetwork(self.addresses, scenario.room_bytes)
        self.coordinators = [CoordinatorActor(self, f"coordinator-{n + 1}") for n in range(scenario.coordinators)]
        self.routers = [RouterActor(self, f"router-{n + 1}") for n in range(scenario.routers)]
        self.operator = Operator(self, "operator")
        self.faults = Faults(self)
        self.over: asyncio.Future[None] = self.loop.create_future()

    def actors(self) -> list[Actor]:
        """Its processes, but for the operator's."""
        return [*self.coordinators, *self.routers]

    def now_ms(self) -> float:
        """The time as judges take it down."""
        return self.clock.wall() * 1000

    def note(self, line: str) -> None:
        """Write something down."""
        self.trace.append(f"{self.loop.time():9.4f} {line}")

    def fail(self, message: str, cause: BaseException | None = None) -> None:
        """Something is broken: the life ends here."""
        if self.failure is None:
            self.failure, self.cause = message, cause
            self.note(f"FAILED: {message}")
            if not self.over.done():
                self.over.set_result(None)

    def store(self, random: Random) -> SimStore:
        """A process's handle of the store."""
        late = self.scenario.store_late
        if self.etcd is not None:
            return SimEtcdStore(self.etcd, self.loop, random, late, self.on_commit)
        return SimStore(self.inner.open(), self.loop, random, late, self.on_commit)

    def on_commit(self, operations: Sequence[Put | Delete], revision: int) -> None:
        """A commit has been done."""
        topology = self.published.committed(operations, revision)
        if topology is not None:
            self.note(f"epoch {topology.epoch}: {_summary(topology)}")
            self.invariants.published(topology)
            self.losses.published()
            self.faults.published(topology)
        for operation in operations:
            if not isinstance(operation, Put):
                continue
            if operation.key.startswith(IMPORTS) and operation.key.count("/") == IMPORTS.count("/"):
                self.faults.noted()
            elif operation.key.startswith(CHANGES):
                self.told(decode(Change, operation.value))
            elif operation.key == COORDINATOR:
                self.coordinator = decode(CoordinatorRecord, operation.value).node
                self.note(f"elected: {self.coordinator}")

    def told(self, change: Change) -> None:
        """The store has a change, or what became of it."""
        self.losses.imported(change)

    # Servers

    def address(self, shard: str) -> Address:
        """Where the shard's server listens at first."""
        return Address("server", 7000 + int(shard.rpartition("-")[2]))

    def held(self, key: bytes) -> bytes | None:
        """What the key's owner holds."""
        return self.leading(self.invariants.routes.owner(key)).get(key)

    def everyone(self) -> list[SimServer]:
        """All servers."""
        return list(self.servers.values())

    def leading(self, shard: str) -> SimServer:
        """The server that has the shard's keys."""
        return self.servers[shard]

    def is_replaced(self, server: SimServer) -> bool:
        """Whether the server counts no more, and what it has is nobody's."""
        return False

    async def announce(self, nodes: Sequence[Node]) -> None:
        """Have the store know of the nodes' servers, and of their agents, who are not there otherwise."""
        for node in nodes:
            member = MemberRecord(founder_id(node.id), node.id, node.address, *ADMIN)
            self.members[node.id] = member
            await self.inner.commit([put_record(MEMBERS + member.id, member), *agent_records(node, self.clock.wall())])

    def calm(self) -> None:
        """Let nothing be late any more that waits for the store."""
        for actor in (*self.actors(), self.operator):
            actor.store.late = actor.store.very_late = 0.0

    def look(self) -> None:
        """Called once a second, for what else must hold at any time."""

    def unrest(self) -> Iterator[str]:
        """What else keeps it from being at rest."""
        yield from ()

    def restart(self, server: SimServer) -> None:
        """The server comes back; at another address, where its port was taken meanwhile."""
        server.restart()
        moves = Edge.ELSEWHERE in self.scenario.edges and server.kind is NodeKind.SUPERVISED
        if moves and self._delays.random() < 0.5:
            member = self.members[server.shard]
            self.addresses.pop(member.address)
            self.members[server.shard] = member = replace(member, address=Address("server", member.address.port + 100))
            self.addresses[member.address] = server
            self.note(f"{server.name} listens at {member.address} now")
            self.loop.create_task(self.inner.commit([put_record(MEMBERS + member.id, member)]))

    def _fill(self, shard: str, tell: Callable[[bytes, bytes], None]) -> None:
        """The server has keys before it joins, which a client will ask for."""
        for key in _brought(shard):
            value = b"of %s;" % shard.encode()
            self.servers[shard].write(key, value, None)
            tell(key, value)
        self.servers[shard].sync()

    def _server(
        self, shard: str, name: str = "", skew_s: float | None = None, kind: ServerKind | None = None
    ) -> SimServer:
        number = int(shard.rpartition("-")[2]) - 1
        kind = kind or self.scenario.kinds[number]
        fast_s = self.scenario.skews_s[number] if skew_s is None else skew_s
        server = SimServer(
            shard,
            name=name,
            wall=lambda: self.clock.wall() + fast_s,
            audit=self.invariants,
            aof_fsync="everysec",
            admin=ADMIN if kind is ServerKind.SUPERVISED else None,
            acl=kind is not ServerKind.PLAIN,
        )
        server.on_flush = self.losses.emptied
        server.on_dump = lambda server: self.faults.copying(server)
        server.on_copy = lambda server, keys: self.faults.copied(server, keys)
        server.delay_s = lambda: self._delay_s(server.name)
        return server

    def _delay_s(self, name: str) -> float:
        late = self.late.get(name, self.usually_late)
        if late and self._delays.random() < late:
            return self._delays.uniform(0.05, _LATE_S)
        return self._delays.expovariate(4000)


def agent_records(node: Node, now_s: float) -> list[Put]:
    """What an agent writes that is well for as long as a life lasts."""
    agent = AgentRecord(node.id, node.address, node.kind, now_s + 1e6)
    runs = RunningRecord(node.id, node.address, "here", "", 0, "", "")
    return [put_record(AGENTS + node.id, agent), put_record(RUNNING + node.id, runs)]


def _brought(shard: str) -> list[bytes]:
    """The keys that a server has before it joins."""
    return [b"%s:%s:%d" % (kind, shard.encode(), number) for number, kind in enumerate((b"user", b"cart", b"user"))]


def _summary(topology: Topology) -> str:
    transition = topology.transition
    parts = [f"nodes {','.join(node.id for node in topology.nodes)}"]
    if transition is not None:
        pairs = " ".join(f"{pair.source}>{pair.target}:{pair.phase}" for pair in transition.pairs)
        parts.append(f"{'reversing' if transition.reversing else 'transition'} {pairs}")
    if topology.unclean:
        parts.append(f"unclean {','.join(sorted(topology.unclean))}")
    parts += [members_of(shard) for shard in topology.shards if len(shard.servers) > 1]
    if topology.fenced_shards:
        parts.append(f"fenced {','.join(sorted(topology.fenced_shards))}")
    return "; ".join(parts)


def members_of(shard: Shard) -> str:
    """Who has its keys, and who leads."""
    kinds = {"": shard.members, "learners ": shard.learners, "outgoing ": shard.outgoing}
    parts = [word + ",".join(one.id for one in members) for word, members in kinds.items() if members]
    return f"{shard.leader} leads {' '.join(parts)}"
