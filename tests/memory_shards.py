"""A cluster inside the test's own process whose servers and store are in memory: quick, and each of any version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from tests.shards import FAST, topology_in
from tests.waiting import until

from helios.admin.client import Admin
from helios.coordinator.service import Coordinator
from helios.engines.memory import MemoryConnector, MemoryServer
from helios.model.ids import Address
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, NodeKind, Topology
from helios.placement.routing import Routes
from helios.ports.failpoints import OFF, Failpoints
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

BY_HAND = ClusterSettings(sharding=FAST.sharding.altered(auto_rebalance=False), coordinator=FAST.coordinator)


class MemoryShards:
    """A cluster of plain servers in memory, each of some version."""

    def __init__(self, versions: dict[str, int], failpoints: Failpoints) -> None:
        self.clock = SystemClock()
        self.skews_s = dict.fromkeys(versions, 0.0)  # by so much the servers' clocks are ahead
        self.servers = {name: MemoryServer(name, wall=self._wall_of(name), version=v) for name, v in versions.items()}
        self.addresses = {name: Address("memory", port) for port, name in enumerate(versions, 1)}
        self.by_address = {self.addresses[name]: server for name, server in self.servers.items()}
        self.connector = MemoryConnector(self.by_address)
        self._failpoints = failpoints
        self.store = MemoryStore()
        self.admin = Admin(self.store, self.connector, self.clock)
        self._coordinating: asyncio.Task[None] | None = None

    def coordinate(self) -> None:
        """Start a coordinator."""
        coordinator = Coordinator(
            self.store, self.connector, self.clock, node_id="test", settings=BY_HAND, failpoints=self._failpoints
        )
        self._coordinating = asyncio.create_task(coordinator.run())

    async def stop_coordinator(self) -> None:
        """End it wherever it stands."""
        assert self._coordinating is not None, "a coordinator was started"
        self._coordinating.cancel()
        with suppress(asyncio.CancelledError):
            await self._coordinating

    def _wall_of(self, name: str) -> Callable[[], float]:
        return lambda: self.clock.wall() + self.skews_s[name]

    def node(self, name: str) -> Node:
        """The server as a node."""
        return Node(name, self.addresses[name], NodeKind.EXTERNAL)

    async def topology(self) -> Topology:
        """The topology now."""
        return await topology_in(self.store)

    async def fill(self) -> None:
        """Some keys where they belong."""
        routes = Routes(await self.topology())
        for n in range(100):
            self.servers[routes.owner(b"%d" % n)].set(b"%d" % n, b"value")

    async def ended(self, migration: str) -> str | None:
        """The error of a migration, when it has ended."""

        async def over() -> bool:
            return (await self.admin.migration(migration)).end_time is not None

        await until(over, "the migration ends")
        return (await self.admin.migration(migration)).error


@asynccontextmanager
async def memory_shards(
    founders: list[str], failpoints: Failpoints = OFF, **versions: int
) -> AsyncIterator[MemoryShards]:
    """A cluster of `founders` with a coordinator; the other servers are there and not in it."""
    cluster = MemoryShards(versions, failpoints)
    cluster.coordinate()
    try:
        await cluster.admin.found([cluster.node(name) for name in founders])
        await cluster.fill()
        yield cluster
    finally:
        await cluster.stop_coordinator()
        await cluster.store.close()
