"""A cluster inside the test's own process: real servers, a store, a coordinator and the verbs, but no routers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster_store import open_store
from tests.servers import ADMIN_ONLY, ADMIN_PASSWORD, ADMIN_USER, Server, start_valkey
from tests.waiting import until

from helios.admin.client import Admin
from helios.admin.views import Finding
from helios.coordinator.service import Coordinator
from helios.engines.valkey.connector import ValkeyConnector
from helios.model.ids import Address
from helios.model.migration import Change
from helios.model.sections import CoordinatorSettings, ShardingSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import Member, Node, NodeKind, Topology
from helios.node.heartbeat import Heartbeat
from helios.placement.routing import Routes
from helios.ports.failpoints import OFF, Failpoints, Point
from helios.ports.records import (
    CHANGES,
    MEMBERS,
    RUNNING,
    MemberRecord,
    RunningRecord,
    list_records,
    put_record,
    read_record,
)
from helios.ports.store import Store
from helios.ports.topologies import read_topology
from helios.runtime.clock import SystemClock

FAST = ClusterSettings(
    sharding=ShardingSettings(migration_rate=0, auto_rebalance=True),
    coordinator=CoordinatorSettings(lease_ttl=5.0, fence_ack_timeout=4.0),
)


async def topology_in(store: Store) -> Topology:
    """The topology as it stands in a store."""
    return await read_topology(store)


async def rests(store: Store) -> bool:
    """Whether all that was asked for has ended, and no server is to be swept.

    A rebalance that waits for its turn has no migrations yet, so requests are looked at, and not only what moves.
    """
    changes = await list_records(store, Change, CHANGES)
    topology = await topology_in(store)
    return topology.transition is None and not topology.unclean and all(change.value.status.ended for change in changes)


class Latch:
    """Failpoints in the test's own process: the first that comes by the armed point waits until the latch is open."""

    def __init__(self) -> None:
        self._point: Point | None = None
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    def arm(self, point: Point) -> None:
        """Stop whoever comes by this point next."""
        self._point = point
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        """Let it go on."""
        self._open.set()

    async def reach(self, point: Point) -> None:
        """Wait here, if this is the point."""
        if point is self._point:
            self._point = None
            self.reached.set()
            await self._open.wait()


@dataclass
class Shards:
    """Servers by node id, and what steers them."""

    folder: Path
    store: Store
    connector: ValkeyConnector
    clock: SystemClock
    admin: Admin
    stack: AsyncExitStack
    failpoints: Failpoints = OFF
    fsync: str = "everysec"
    servers: dict[str, Server] = field(default_factory=dict)
    coordinators: list[asyncio.Task[None]] = field(default_factory=list)

    async def server(self, node_id: str, *, supervised: bool = True) -> Node:
        """Start a server for a node and make it known, as its agent would."""
        users = ADMIN_ONLY if supervised else ()
        server = self.stack.enter_context(
            start_valkey(self.folder / node_id, config={"appendfsync": self.fsync}, users=users)
        )
        self.servers[node_id] = server
        address = Address("127.0.0.1", server.port)
        kind = NodeKind.SUPERVISED if supervised else NodeKind.EXTERNAL
        if supervised:
            member = MemberRecord(f"{node_id}.0", node_id, address, ADMIN_USER, ADMIN_PASSWORD)
            runs = RunningRecord(node_id, address, "here", "", 0, "", "")
            operations = [(MEMBERS + member.id, member), (RUNNING + node_id, runs)]
            await self.store.commit([put_record(key, record) for key, record in operations])
            heartbeat = Heartbeat(node_id, address, "", self.store, self.clock, ready=lambda: True)
            await heartbeat.beat()
            beating = asyncio.create_task(heartbeat.run())
            self.stack.callback(beating.cancel)
        return Node(node_id, address, kind)

    def coordinate(self, name: str = "test", settings: ClusterSettings = FAST) -> asyncio.Task[None]:
        """Start a coordinator."""
        coordinator = Coordinator(
            self.store, self.connector, self.clock, node_id=name, settings=settings, failpoints=self.failpoints
        )
        task = asyncio.create_task(coordinator.run())
        self.coordinators.append(task)
        return task

    async def topology(self) -> Topology:
        """The topology now."""
        return await topology_in(self.store)

    async def execute(self, node_id: str, *command: bytes | str | int) -> object:
        """A command to one server, as its administrator."""
        server = self.servers[node_id]
        engine = await self.connector.open(Member(f"{node_id}.0", node_id, Address("127.0.0.1", server.port)))
        try:
            return await engine.connection.execute(*command, timeout_s=10)
        finally:
            await engine.close()

    async def fill(self, pairs: dict[bytes, bytes]) -> None:
        """Write each pair at its owner."""
        routes = Routes(await self.topology())
        by_owner: dict[str, list[bytes]] = {}
        for key, value in pairs.items():
            by_owner.setdefault(routes.owner(key), []).extend((key, value))
        for owner, arguments in by_owner.items():
            for start in range(0, len(arguments), 1000):
                await self.execute(owner, "MSET", *arguments[start : start + 1000])

    async def contents(self) -> dict[str, dict[bytes, bytes]]:
        """For each server all its string keys and values."""
        found: dict[str, dict[bytes, bytes]] = {}
        for node_id in self.servers:
            keys = await self.execute(node_id, "KEYS", "*")
            assert isinstance(keys, list)
            values = await self.execute(node_id, "MGET", *keys) if keys else []
            assert isinstance(values, list)
            found[node_id] = dict(zip(keys, values, strict=True))
        return found

    async def settled(self) -> None:
        """Wait until no change is on its way and every server is clean."""

        async def quiet() -> bool:
            return await rests(self.store) and not await self.admin.active_migrations()

        await until(quiet, "the cluster comes to rest")

    async def assert_checked(self) -> None:
        """At rest, the cluster's own check finds nothing."""
        await self.settled()
        found: tuple[Finding, ...] = ()

        async def clean() -> bool:
            nonlocal found
            found = (await self.admin.check()).findings
            return not found

        try:
            # Where load has cost the coordinator its lease, its next term has still to clean up behind the last.
            await until(clean, "the check finds nothing")
        except AssertionError:
            raise AssertionError(found) from None

    async def assert_whole(self, expected: dict[bytes, bytes]) -> None:
        """Every pair is there once, on its owner and nowhere else."""
        routes = Routes(await self.topology())
        contents = await self.contents()
        everything = [key for keys in contents.values() for key in keys]
        assert sorted(everything) == sorted(expected)
        for node_id, pairs in contents.items():
            for key, value in pairs.items():
                assert value == expected[key], key
                assert routes.owner(key) == node_id, key


@asynccontextmanager
async def running_shards(
    folder: Path, nodes: int, failpoints: Failpoints = OFF, fsync: str = "everysec", *, checked: bool = True
) -> AsyncIterator[Shards]:
    """A founded cluster of supervised nodes shard-1, shard-2 … with a coordinator.

    At the end the cluster's own check must find nothing, unless a test that leaves it broken says so.
    With `everysec` a move waits for the disk for a second, twice; with `always` hardly at all.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store = await open_store(folder)
        stack.push_async_callback(store.close)

        async def credentials(member: Member) -> tuple[str, str] | None:
            record = await read_record(store, MemberRecord, MEMBERS + member.id)
            return None if record is None else (record.value.user, record.value.password)

        connector = ValkeyConnector(credentials)
        shards = Shards(folder, store, connector, clock, Admin(store, connector, clock), stack, failpoints, fsync)
        shards.coordinate()
        try:
            founders = [await shards.server(f"shard-{number}") for number in range(1, nodes + 1)]
            await shards.admin.found(founders)
            yield shards
            if checked:
                await shards.assert_checked()
        finally:
            for task in shards.coordinators:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
