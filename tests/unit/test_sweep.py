"""A sweep takes what a shard does not own, for good."""

from __future__ import annotations

from tests.topologies import cluster

from helios.coordinator.access import Access
from helios.coordinator.publisher import Publisher
from helios.coordinator.sweep import clear
from helios.engines.memory import MemoryConnector
from helios.engines.memory.server import MemoryServer
from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.records import TERM
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

TOPOLOGY: Topology = cluster("a", "b")
ROUTES = Routes(TOPOLOGY)
KEYS = [b"k:%d" % number for number in range(1200)]


async def test_a_power_cut_brings_nothing_back_that_was_swept() -> None:
    leader = TOPOLOGY.shards[0].leading
    server = MemoryServer("a", wall=SystemClock().wall, aof_fsync="everysec")
    for key in KEYS:
        server.set(key, b"v")
    server.sync()
    store = MemoryStore()
    version = await store.commit([Put(TERM, b"1")])
    publisher = Publisher(store, SystemClock(), TOPOLOGY, 0, 1, version)
    foreign = [key for key in KEYS if ROUTES.owner(key) == "b"]
    assert await clear(Access(MemoryConnector({leader.address: server}), publisher), ROUTES, "a") == len(foreign) > 0
    server.crash(lose_unsynced=True)
    server.restart()
    assert sorted(server.keys()) == sorted(key for key in KEYS if ROUTES.owner(key) == "a")
