"""One life of a cluster, from its founding to its rest, decided by a seed."""

from __future__ import annotations

import asyncio
import gc
import sys
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from random import Random
from unittest.mock import patch

from tests.published import Published
from tests.simulation.actors import CoordinatorActor, RouterActor
from tests.simulation.data import Value, perform
from tests.simulation.faults import Faults
from tests.simulation.history import Command, CounterHistory, Impossible, KeyHistory
from tests.simulation.invariants import Invariants
from tests.simulation.loop import SimLoop, Stuck
from tests.simulation.network import RespNetwork
from tests.simulation.operator import Operator
from tests.simulation.scenario import ADOPTED, Edge, ServerKind, choose
from tests.simulation.servers import ADMIN, SimServer
from tests.simulation.shared import Pair, Queue, Register
from tests.simulation.workload import Client

from helios.admin.client import Admin
from helios.coordinator.copying import CopyLimits
from helios.engines.memory import MemoryConnector
from helios.errors import Unavailable
from helios.model.codec import decode
from helios.model.ids import Address
from helios.model.migration import Change, Migration
from helios.model.topology import Node, NodeKind, Topology
from helios.ports.records import (
    AGENTS,
    CHANGES,
    COORDINATOR,
    IMPORTS,
    MEMBERS,
    MIGRATIONS,
    PAUSES,
    SESSIONS,
    SETTINGS,
    AgentRecord,
    CoordinatorRecord,
    MemberRecord,
    list_records,
    put_record,
)
from helios.ports.store import Delete, Put
from helios.stores.memory import MemoryStore

_BIRTH_S = 1_700_000_000.0
_SETTLE_S = 2.0
_REST_WITHIN_S = 120.0
_FENCE_MAX_S = 40.0
_COPY_LAG_S = 2.0
_LATE_S = 3.0


class SimClock:
    """The virtual time, for people and for measuring."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def wall(self) -> float:
        return _BIRTH_S + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a life went. Equal digests mean equal lives."""

    seed: int
    failure: str | None
    digest: str
    virtual_s: float
    steps: int
    acknowledged: int
    faults: int
    switches: int
    fences: int
    longest_fence_s: float
    trace: Sequence[str] = field(repr=False, default=())


class World:
    """Servers, store, processes and clients of one life, and everything that happened in it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scenario = choose(seed)
        self.loop = SimLoop()
        self.clock = SimClock(self.loop)
        self.trace: list[str] = []
        self.failure: str | None = None
        self.cause: BaseException | None = None
        self.serving = True
        self.acknowledged = 0
        self.coordinator = ""
        self.late: dict[str, float] = {}
        self.members: dict[str, MemberRecord] = {}
        self.inner = MemoryStore()
        self.published = Published()
        self._imports: set[str] = set()  # the requests by which servers were asked to join with their keys
        self._emptied: set[str] = set()  # shards whose server was emptied, which a power cut may undo
        self._delays = Random(f"{seed}/delays")
        scenario = self.scenario
        self.counters = [CounterHistory(f"n:{number}".encode()) for number in range(scenario.counters)]
        self.registers = [Register(f"r:{number}".encode()) for number in range(scenario.registers)]
        self.queues = [Queue(f"q:{number}".encode()) for number in range(scenario.queues)]
        self.pairs = [Pair(b"p:{%d}:one" % number, b"p:{%d}:other" % number) for number in range(scenario.pairs)]
        self.clients = [Client(self, number) for number in range(scenario.clients)]
        keys = [history.key for history in self.histories]
        shards = [f"shard-{number + 1}" for number in range(scenario.nodes + scenario.spare_nodes)]
        keys += [key for shard in shards for key in _brought(shard)]
        keys += [counter.key for counter in self.counters]
        keys += [register.key for register in self.registers]
        keys += [queue.key for queue in self.queues]
        keys += [key for pair in self.pairs for key in (pair.one, pair.other)]
        self.invariants = Invariants(keys, self.loop.time, self.fail)
        self.servers = {shard: self._server(shard) for shard in shards}
        if Edge.IMPORTS in scenario.edges:
            for number, shard in enumerate(shards[scenario.nodes :]):
                self._fill(shard, self.clients[number % len(self.clients)].expect)
        self._adopted = shards[ADOPTED] if Edge.ADOPTED in scenario.edges else ""
        if self._adopted:
            self._fill(self._adopted, self.clients[0].inherit)
        self.addresses = {self.address(shard): server for shard, server in self.servers.items()}
        self.loop.network = self.network = RespNetwork(self.addresses, scenario.room_bytes)
        self.coordinators = [CoordinatorActor(self, f"coordinator-{n + 1}") for n in range(scenario.coordinators)]
        self.routers = [RouterActor(self, f"router-{n + 1}") for n in range(scenario.routers)]
        self.operator = Operator(self, "operator")
        self.faults = Faults(self)
        self._over: asyncio.Future[None] = self.loop.create_future()

    @property
    def histories(self) -> list[KeyHistory]:
        """Of all keys that have one client."""
        return [history for client in self.clients for history in client.keys]

    def address(self, shard: str) -> Address:
        """Where the shard's server listens."""
        return Address("server", 7000 + int(shard.rpartition("-")[2]))

    def note(self, line: str) -> None:
        """Write something down."""
        self.trace.append(f"{self.loop.time():9.4f} {line}")

    def fail(self, message: str, cause: BaseException | None = None) -> None:
        """Something is broken: the life ends here."""
        if self.failure is None:
            self.failure, self.cause = message, cause
            self.note(f"FAILED: {message}")
            if not self._over.done():
                self._over.set_result(None)

    def on_commit(self, operations: Sequence[Put | Delete], revision: int) -> None:
        """A commit has been done."""
        topology = self.published.committed(operations, revision)
        if topology is not None:
            self.note(f"epoch {topology.epoch}: {_summary(topology)}")
            self.invariants.published(topology)
            self.faults.published(topology)
        for operation in operations:
            if not isinstance(operation, Put):
                continue
            if operation.key.startswith(IMPORTS):
                self.faults.noted()
            elif operation.key.startswith(CHANGES):
                self._imported(decode(Change, operation.value))
            elif operation.key == COORDINATOR:
                self.coordinator = decode(CoordinatorRecord, operation.value).node
                self.note(f"elected: {self.coordinator}")

    def lose(self, server: SimServer, keys: Sequence[bytes]) -> None:
        """The server loses keys in this moment, by eviction say; whoever listens to it is told."""
        now_ms = self.clock.wall() * 1000
        gone = set(keys)
        for history in self.histories:
            if history.key in gone:
                self._gone(history, server.shard, now_ms)
        if any(self.invariants.owns(server.shard, key) for key in gone):
            self.doubt(server.shard)
        for key in keys:
            server.write(key, None, None)

    def emptied(self, server: SimServer) -> None:
        """A server is being emptied by somebody, past the routers or through one of them."""
        now_ms = self.clock.wall() * 1000
        self._emptied.add(server.shard)
        for history in self.histories:
            self._gone(history, server.shard, now_ms)
        self.doubt(server.shard)

    def _imported(self, change: Change) -> None:
        """A server is asked to join with its keys: each that it has may come, also one that had come before.

        It has that one still where an import of before was not ended: whoever asks again wants it.
        """
        if change.id in self._imports or not change.import_keys:
            return
        self._imports.add(change.id)
        server = self.servers[change.nodes[0].id]
        for client in self.clients:
            for history, command in client.arriving.items():
                if server.get(history.key) is not None:
                    history.may_come(command, self.clock.wall() * 1000)
        if server.shard in self._emptied:
            self._revived(server)

    def _revived(self, server: SimServer) -> None:
        """A power cut may have undone, once the server had left, what emptied it: those keys come with it, too."""
        for history in self.histories:
            value = server.get(history.key)
            if value is not None and self.invariants.routes.owner(history.key) != server.shard:
                history.may_come(Command("IMPORT", value), self.clock.wall() * 1000)

    def _gone(self, history: KeyHistory, shard: str, now_ms: float) -> None:
        """A key is lost on a shard. Where it is about to own the key, nobody can tell that from a loss behind that."""
        routes = self.invariants.routes
        if routes.owner(history.key) == shard:
            history.flushed(now_ms)
        elif routes.fenced(history.key) and routes.pair(history.key) == (routes.owner(history.key), shard):
            history.asked(Command("FLUSH"), now_ms)

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

    def power_cut(self, server: SimServer) -> None:
        """The server loses what was not on its disk; what clients may have lost by it becomes uncertain."""
        now_ms = self.clock.wall() * 1000
        since_ms = server.synced_at * 1000 - _COPY_LAG_S * 1000
        server.crash(lose_unsynced=True)
        routes = self.invariants.routes
        for history in self.histories:
            if routes.owner(history.key) == server.shard:
                history.power_lost(since_ms, now_ms)
        self.doubt(server.shard)

    def doubt(self, shard: str) -> None:
        """What this shard owns may have become another thing by itself."""
        owner = self.invariants.routes.owner
        for register in self.registers:
            register.uncertain |= owner(register.key) == shard
        for queue in self.queues:
            queue.uncertain |= owner(queue.key) == shard
        for pair in self.pairs:
            pair.uncertain |= shard in (owner(pair.one), owner(pair.other))
        for counter in self.counters:
            counter.uncertain = True

    def doubt_order(self) -> None:
        """Counters and queues may begin anew at any time."""
        for counter in self.counters:
            counter.uncertain = True
        for queue in self.queues:
            queue.uncertain = True
        for pair in self.pairs:
            pair.uncertain = True

    def run(self) -> Outcome:
        """Live."""
        ids = Random(f"{self.seed}/ids")
        self.loop.set_exception_handler(lambda *_: None)
        limits = partial(CopyLimits, big_bytes=self.scenario.big_bytes, step_bytes=4)
        with (
            patch("helios.coordinator.transition_work.CopyLimits", limits),
            patch.object(uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
            patch("secrets.token_hex", lambda size=32: ids.randbytes(size or 32).hex()),
            patch("secrets.token_urlsafe", lambda size=32: ids.randbytes(size or 32).hex()),
        ):
            life = self.loop.create_task(self._live())
            life.add_done_callback(self._on_end)
            try:
                self.loop.run_until_complete(self._over)
            except Stuck as stuck:
                self.fail(str(stuck), stuck)
        return self._outcome()

    def _on_end(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            self.fail(f"the world broke: {error!r}", error)
        elif not self._over.done():
            self._over.set_result(None)

    def _outcome(self) -> Outcome:
        digest = blake2b("\n".join(self.trace).encode(), digest_size=8).hexdigest()
        seen = self.invariants
        return Outcome(
            self.seed,
            self.failure,
            digest,
            self.loop.time(),
            self.loop.steps,
            self.acknowledged,
            self.faults.count,
            seen.switches,
            seen.fences,
            seen.longest_fence_s,
            self.trace,
        )

    # Life

    async def _live(self) -> None:
        await self._found()
        self.operator.start()
        clients = [self.loop.create_task(client.run()) for client in self.clients]
        watching = [self.loop.create_task(self._sync_disks()), self.loop.create_task(self._watch_fences())]
        await self.faults.run()
        await self.faults.mended.wait()
        self.note("the trouble is over")
        for actor in (*self.coordinators, *self.routers, self.operator):
            actor.store.late = actor.store.very_late = 0.0
        await asyncio.sleep(_SETTLE_S / 4 if self.scenario.brief else _SETTLE_S)
        self.serving = False
        await asyncio.gather(*clients)
        self.note("the clients are done")
        await self._come_to_rest()
        self._check_contents()
        for task in watching:
            task.cancel()

    async def _found(self) -> None:
        nodes = [Node(shard, self.address(shard), server.kind) for shard, server in self.servers.items()]
        await self.inner.commit([put_record(SETTINGS, self.scenario.settings)])
        for node in nodes:
            if node.kind is NodeKind.EXTERNAL:
                continue
            member = MemberRecord(f"{node.id}.0", node.id, node.address, *ADMIN)
            agent = AgentRecord(node.id, node.address, node.kind, self.clock.wall() + 1e6)
            self.members[node.id] = member
            await self.inner.commit([put_record(MEMBERS + member.id, member), put_record(AGENTS + node.id, agent)])
        for actor in (*self.coordinators, *self.routers):
            actor.start()
        admin = Admin(self.inner, MemoryConnector(self.addresses), self.clock)
        while True:
            try:
                founders = nodes[: self.scenario.nodes]
                if self._adopted:
                    beside = [node for node in founders if node.kind is NodeKind.SUPERVISED]
                    await admin.adopt(self._adopted, self.address(self._adopted), beside)
                else:
                    await admin.found(founders)
            except Unavailable as error:
                self.note(f"founding: {error}")  # nothing was changed: the coordinators' store is slow in some worlds
            else:
                return

    async def _sync_disks(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for server in self.servers.values():
                if server.up and not server.frozen:
                    server.sync()

    async def _watch_fences(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self.invariants.fence_age_s() > _FENCE_MAX_S:
                self.fail(f"a fence has been standing for {self.invariants.fence_age_s():.0f} s")

    async def _resume_all(self) -> None:
        """Nothing waits for the operator any more."""
        for entry in (await self.inner.list(PAUSES)).entries:
            await self.inner.commit([Delete(entry.key)])

    async def _come_to_rest(self) -> None:
        deadline = self.loop.time() + _REST_WITHIN_S
        while unrest := await self._unrest():
            if self.loop.time() > deadline:
                self.fail(f"not at rest {_REST_WITHIN_S:.0f} s after the trouble: {'; '.join(unrest)}")
                return
            await self._resume_all()
            await asyncio.sleep(0.5)
        self.note("at rest")

    async def _unrest(self) -> list[str]:
        sessions = {entry.key.removeprefix(SESSIONS) for entry in (await self.inner.list(SESSIONS)).entries}
        unrest = list(self.invariants.unrest(list(self.servers.values()), sessions))
        changes = [record.value for record in await list_records(self.inner, Change, CHANGES)]
        unrest += [
            f"the change {change.id} ({change.kind}) is {change.status}"
            for change in changes
            if not change.status.ended
        ]
        migrations = [record.value for record in await list_records(self.inner, Migration, MIGRATIONS)]
        unrest += [f"the migration {one.id} is {one.status}" for one in migrations if not one.status.ended]
        return unrest

    def _check_contents(self) -> None:
        now_ms = self.clock.wall() * 1000
        try:
            for history in self.histories:
                history.check(self._get(history.key), now_ms)
            for counter in self.counters:
                counter.check(self._get(counter.key))
            for register in self.registers:
                register.check(self._get(register.key), self.loop.time())
            for queue in self.queues:
                _, elements = perform("LRANGE", Value(self._get(queue.key)), ())
                assert isinstance(elements, list)
                queue.check(elements)
            for pair in self.pairs:
                pair.check(self._get)
        except Impossible as impossible:
            self.fail(str(impossible), impossible)

    def _get(self, key: bytes) -> bytes | None:
        """What its owner holds."""
        return self.servers[self.invariants.routes.owner(key)].get(key)

    # Servers

    def _fill(self, shard: str, tell: Callable[[bytes, bytes], None]) -> None:
        """The server has keys before it joins, which a client will ask for."""
        for key in _brought(shard):
            value = b"of %s;" % shard.encode()
            self.servers[shard].write(key, value, None)
            tell(key, value)
        self.servers[shard].sync()

    def _server(self, shard: str) -> SimServer:
        number = int(shard.rpartition("-")[2]) - 1
        kind = self.scenario.kinds[number]
        server = SimServer(
            shard,
            wall=lambda: self.clock.wall() + self.scenario.skews_s[number],
            audit=self.invariants,
            aof_fsync="everysec",
            admin=ADMIN if kind is ServerKind.SUPERVISED else None,
            acl=kind is not ServerKind.PLAIN,
        )
        server.on_flush = self.emptied
        server.on_dump = lambda server: self.faults.copying(server)
        server.delay_s = lambda: self._delay_s(shard)
        return server

    def _delay_s(self, shard: str) -> float:
        late = self.late.get(shard, self.scenario.late)
        if late and self._delays.random() < late:
            return self._delays.uniform(0.05, _LATE_S)
        return self._delays.expovariate(4000)


def _brought(shard: str) -> list[bytes]:
    """The keys that a server has before it joins."""
    return [b"%s:%s:%d" % (kind, shard.encode(), number) for number, kind in enumerate((b"user", b"cart", b"user"))]


def live(seed: int) -> Outcome:
    """The life of a seed. Collecting garbage waits until it is over, as finalizers would run at odd times."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None  # tasks of killed processes end here, and may complain
    try:
        world = World(seed)
        outcome = world.run()
        world.loop.close()
        del world
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that never began
            gc.collect()
        return outcome
    finally:
        sys.unraisablehook = hook
        if was_enabled:
            gc.enable()


def _summary(topology: Topology) -> str:
    transition = topology.transition
    parts = [f"nodes {','.join(node.id for node in topology.nodes)}"]
    if transition is not None:
        pairs = " ".join(f"{pair.source}>{pair.target}:{pair.phase}" for pair in transition.pairs)
        parts.append(f"{'reversing' if transition.reversing else 'transition'} {pairs}")
    if topology.unclean:
        parts.append(f"unclean {','.join(sorted(topology.unclean))}")
    return "; ".join(parts)
