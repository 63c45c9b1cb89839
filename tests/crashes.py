"""Crashes at chosen moments of a move, over real processes: who is hit, how, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import httpx
from tests.cluster import Cluster, ask, running_cluster
from tests.histories import Recorder
from tests.ledger import Ledger
from tests.reckoning import answer, assert_each_key_once, opened, verb
from tests.servers import Server
from tests.shards import rests, topology_in
from tests.waiting import blocking_until, until

from helios.model.migration import Migration
from helios.model.topology import PairPhase
from helios.node.locks import holder_of
from helios.node.process import ProcessId
from helios.placement.routing import Routes
from helios.ports.failpoints import Point
from helios.ports.records import (
    COORDINATOR,
    MIGRATIONS,
    SESSIONS,
    CoordinatorRecord,
    SessionRecord,
    list_records,
    read_record,
)
from helios.ports.store import Store
from helios.runtime.failpoints import VARIABLE, FileFailpoints
from helios.stores.sqlite_location import SqliteLocation

LEASE_S = 1.0
SETTINGS = {
    "HELIOS_SHARDING__MIGRATION_RATE": "0",
    "HELIOS_SHARDING__AUTO_REBALANCE": "false",
    "HELIOS_COORDINATOR__LEASE_TTL": str(LEASE_S),
    "HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT": "0.3",
    "HELIOS_ROUTER__SESSION_TTL": "1.5",
    # A move waits for the disk twice, for a second each time where it is written once a second.
    "HELIOS_ATLAS__AOF_FSYNC": "every",
}
PATTERN = "user:*"
EXTERNAL = "external"
FILL = {f"user:fill:{number}": f"value {number}" for number in range(1500)}
DOOMED = [f"user:doomed:{number}" for number in range(400)]
REST_BOUND_S = 40.0
_REACH_S = 20.0


class Victim(StrEnum):
    """Whom a crash hits."""

    COORDINATOR = "coordinator"  # the agent that coordinates
    AGENT = "agent"  # another agent, if possible that of the source
    ROUTER = "router"
    GATEWAY = "gateway"
    SOURCE = "source"  # the data servers that lead
    TARGET = "target"


@contextmanager
def crash_cluster(
    folder: Path, shards: int = 3, env: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> Iterator[tuple[Cluster, FileFailpoints]]:
    """A cluster whose leases are short and whose coordinators can be stopped at every point."""
    points = FileFailpoints(folder / "points")
    points.folder.mkdir()
    settings = {**SETTINGS, **(env or {}), VARIABLE: str(points.folder)}
    with running_cluster(folder, shards, settings, flags) as cluster:
        yield cluster, points


def process_stopped(pid: int) -> None:
    """Return when the kernel has stopped the process."""
    blocking_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


class RestWriter:
    """Writes through the gateway; only what was answered by a success must be there."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._known: dict[str, tuple[str, set[str]]] = {}

    async def run(self) -> None:
        """Write until cancelled."""
        number = 0
        async with httpx.AsyncClient(base_url=self._base, timeout=10) as client:
            while True:
                number += 1
                key, value = f"user:rest:{number % 10}", str(number)
                last, open_ = self._known.get(key, ("", set()))
                self._known[key] = (last, open_ | {value})
                with suppress(httpx.TransportError):
                    reply = await client.put(f"/api/v1/kv/{key}", content=value)
                    if reply.is_success:
                        self._known[key] = (value, open_)
                await asyncio.sleep(0.01)

    async def check(self, cluster: Cluster) -> None:
        """Compare with what the cluster holds."""
        for key, (last, open_) in self._known.items():
            value = await answer(cluster, "GET", key)
            found = value.decode() if isinstance(value, bytes) else ""
            assert found in {last, *open_}, (key, value, last, open_)


class Scene:
    """A cluster, a move in it, and the processes around that move."""

    def __init__(self, cluster: Cluster, points: FileFailpoints, store: Store) -> None:
        self.cluster = cluster
        self.points = points
        self.store = store
        self.nodes = [f"shard-{number + 1}" for number in range(cluster.shards)]
        self.source = self.target = self.moving = ""
        self.external: Server | None = None

    @classmethod
    @asynccontextmanager
    async def at(cls, cluster: Cluster, points: FileFailpoints, external: Server | None = None) -> AsyncIterator[Scene]:
        """The running cluster, whole, with nothing in it but the keys that are to move and have been there for long.

        With an external server, which is the node `external`, they are to move there.
        """
        async with opened(cluster) as store:
            scene = cls(cluster, points, store)
            scene.go_on()
            await scene.whole()
            everything = FILL | dict.fromkeys(DOOMED, "soon gone")
            assert await answer(cluster, "FLUSHALL") == b"OK"
            assert await answer(cluster, "MSET", *itertools.chain.from_iterable(everything.items())) == b"OK"
            routes = Routes(await topology_in(store))
            owners = {key: routes.owner(key.encode()) for key in FILL}
            scene.source = Counter(owners.values()).most_common(1)[0][0]
            scene.moving = next(key for key, owner in owners.items() if owner == scene.source)
            scene.target = scene.nodes[(scene.nodes.index(scene.source) + 1) % len(scene.nodes)]
            if external is not None:
                scene.external, scene.target = external, EXTERNAL
            yield scene

    # Processes

    async def coordinator(self) -> CoordinatorRecord | None:
        """Who coordinates now."""
        record = await read_record(self.store, CoordinatorRecord, COORDINATOR)
        return record.value if record else None

    async def process(self, victim: Victim) -> ProcessId:
        """The process that is meant."""
        coordinator = await self.coordinator()
        leading = coordinator.node if coordinator else ""
        found: ProcessId | None
        match victim:
            case Victim.COORDINATOR:
                found = self.cluster.agent(leading)
            case Victim.AGENT:
                found = self.cluster.agent(self.source if self.source != leading else self.target)
            case Victim.ROUTER:
                found = self.cluster.routers(self.source)[0]
            case Victim.GATEWAY:
                holder = holder_of(self.cluster.data.gateway_lock)
                found = holder.process if holder else None
            case Victim.SOURCE:
                found = await self._leader(self.source)
            case Victim.TARGET if self.external is not None:
                found = ProcessId.of(self.external.pid)
            case Victim.TARGET:
                found = await self._leader(self.target)
        assert found is not None, f"{victim} runs"
        return found

    async def _leader(self, shard_id: str) -> ProcessId | None:
        shard = (await topology_in(self.store)).shard(shard_id)
        assert shard is not None, shard_id
        return self.cluster.server(shard.leading)

    async def whole(self) -> None:
        """Wait until every process is there and serves."""

        async def complete() -> bool:
            if holder_of(self.cluster.data.gateway_lock) is None or await self.coordinator() is None:
                return False
            for node, port in zip(self.nodes, self.cluster.resp_ports, strict=True):
                if not (self.cluster.agent(node) and self.cluster.member(node) and self.cluster.routers(node)):
                    return False
                # DBSIZE asks every data server.
                try:
                    if not isinstance(await asyncio.to_thread(ask, port, "DBSIZE"), int):
                        return False
                except OSError:
                    return False
            return True

        await until(complete, "every process serves", limit_s=40)

    def terms_ended(self, node: str) -> int:
        """How often this node's coordinators have noticed that they are coordinators no longer."""
        return self.cluster.data.log(node).read_text().count("term ended")

    async def succeeded(self, term: int) -> None:
        """Wait until a coordinator of a later term is elected."""

        async def elected() -> bool:
            now = await self.coordinator()
            return now is not None and now.term > term

        await until(elected, f"a successor of term {term} is elected")

    async def outlast(self, victim: Victim, term: int, sessions: set[str]) -> None:
        """Wait until the lease of a process that says nothing has run out and the others have noticed."""

        async def noticed() -> bool:
            return not sessions & await self.sessions(victim)

        await asyncio.sleep(LEASE_S)  # How long the process is frozen at the least; nothing depends on it.
        if victim is Victim.COORDINATOR:
            await self.succeeded(term)
        await until(noticed, f"the others notice that {victim} is away")

    async def sessions(self, victim: Victim) -> set[str]:
        """The sessions of a router or of the gateway; none for others."""
        name = {Victim.ROUTER: self.source, Victim.GATEWAY: "gateway"}.get(victim)
        records = await list_records(self.store, SessionRecord, SESSIONS)
        return {record.value.id for record in records if record.value.router == name}

    # The move

    async def migrate(self, *, back: bool = False) -> str:
        """Begin to move the keys from source to target; the migration's id."""
        way = (self.target, self.source) if back else (self.source, self.target)
        reply = await answer(self.cluster, "MIGRATE", *way, PATTERN)
        assert isinstance(reply, list), reply
        fields = dict(zip(reply[::2], reply[1::2], strict=True))
        return str(fields[b"id"].decode())

    async def stopped_at(self, point: Point) -> str:
        """Begin the move and wait until the coordinator stands at the point; the migration's id."""
        self.points.arm(point)
        migration = await self.migrate()
        await self.reached(point)
        return migration

    async def reached(self, point: Point) -> None:
        """Wait until the coordinator stands at the point."""

        async def there() -> bool:
            return self.points.reached(point)

        await until(there, f"the move comes to {point}", limit_s=_REACH_S)

    async def migration(self, migration_id: str) -> Migration:
        """The migration as it stands."""
        record = await read_record(self.store, Migration, MIGRATIONS + migration_id)
        assert record is not None
        return record.value

    async def at_rest(self) -> None:
        """Wait until no keys move and no server is to be swept: it comes to that by itself."""
        await until(lambda: rests(self.store), "the move ends", limit_s=REST_BOUND_S)

    def go_on(self) -> None:
        """Whoever waits at a point, or wakes up there, goes on."""
        for point in Point:
            self.points.release(point)

    async def unfenced(self) -> bool:
        """Whether no keys are held."""
        transition = (await topology_in(self.store)).transition
        return transition is None or all(pair.phase is not PairPhase.FENCED for pair in transition.pairs)

    async def freeze(self, process: ProcessId) -> None:
        """Stop the process, but not while it writes to the store: SQLite's lock would stop all others with it."""

        async def frozen() -> bool:
            process.send(signal.SIGSTOP)
            await asyncio.to_thread(process_stopped, process.pid)
            if process.pid not in SqliteLocation(self.cluster.data.store).writers():
                return True
            process.send(signal.SIGCONT)
            return False

        await until(frozen, "the process can be frozen outside of a commit")

    async def hit(self, victim: Victim, how: signal.Signals) -> None:
        """Kill the process, or freeze it until its lease is over; then whoever waits at a point goes on."""
        process = await self.process(victim)
        coordinator = await self.coordinator()
        sessions = await self.sessions(victim)
        if how is signal.SIGKILL:
            process.send(how)
            self.go_on()
        else:
            await self.freeze(process)
            try:
                self.go_on()
                await self.outlast(victim, coordinator.term if coordinator else 0, sessions)
            finally:
                process.send(signal.SIGCONT)

    async def delete_doomed(self) -> None:
        """Delete keys that may have been copied already; tries until it is told that they are gone."""
        left = list(DOOMED)
        ports = itertools.cycle(self.cluster.resp_ports)

        async def gone() -> bool:
            with suppress(OSError):
                if isinstance(await verb(self.cluster, "DEL", *left[:50], port=next(ports)), int):
                    del left[:50]
            return not left

        await until(gone, "keys can be deleted", limit_s=REST_BOUND_S)

    async def check(self, load: Load) -> None:
        """Nothing acknowledged is missing, nothing is back, or anywhere twice, or where it does not belong."""
        await self.whole()
        assert await answer(self.cluster, "EXISTS", *DOOMED) == 0
        await load.check(self.cluster)
        values = await answer(self.cluster, "MGET", *FILL)
        assert values == [value.encode() for value in FILL.values()]
        await assert_each_key_once(self.cluster)


class Load:
    """Clients of every router and of the gateway, with what they were told."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._ledger = Ledger(cluster.resp_ports, seed=seed, keys=8, pause_s=0.01)
        self._recorder = Recorder(cluster.resp_ports, [f"user:history:{n}" for n in range(4)], seed=seed, pause_s=0.01)
        self._rest = RestWriter(cluster.api)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """The clients at work."""
        self._ledger.start(writers=6)
        self._recorder.start(clients=6)
        writing = asyncio.create_task(self._rest.run())
        try:
            yield self
        finally:
            writing.cancel()
            await asyncio.wait([writing])
            await asyncio.gather(self._ledger.stop(), self._recorder.stop())

    async def served(self) -> None:
        """Return when clients have been served anew."""
        before = self._ledger.acknowledged

        async def more() -> bool:
            return self._ledger.acknowledged > before + 20

        await until(more, "clients are served again")

    async def check(self, cluster: Cluster) -> None:
        """Compare what the clients were told with what the cluster holds."""
        self._recorder.check()
        assert await self._ledger.check() > 0
        await self._rest.check(cluster)
