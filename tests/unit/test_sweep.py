"""A sweep takes what a shard does not own, for good."""

from __future__ import annotations

from tests.topologies import cluster

from helios.coordinator.access import Access
from helios.coordinator.changes import MANY_KEYS, MetKeys
from helios.coordinator.publisher import Publisher
from helios.coordinator.sweep import REGISTER, clear
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


FOREIGN = [key for key in KEYS if ROUTES.owner(key) == "b"]


def filled_server() -> MemoryServer:
    server = MemoryServer("a", wall=SystemClock().wall, aof_fsync="everysec")
    for key in KEYS:
        server.set(key, b"v")
    server.sync()
    return server


async def access_to(server: MemoryServer) -> Access:
    store = MemoryStore()
    version = await store.commit([Put(TERM, b"1")])
    publisher = Publisher(store, SystemClock(), TOPOLOGY, 0, 1, version)
    return Access(MemoryConnector({TOPOLOGY.shards[0].leading.address: server}), publisher)


async def test_a_power_cut_brings_nothing_back_that_was_swept() -> None:
    server = filled_server()
    assert await clear(await access_to(server), ROUTES, "a") == len(FOREIGN) > 0
    server.crash(lose_unsynced=True)
    server.restart()
    assert sorted(server.keys()) == sorted(key for key in KEYS if ROUTES.owner(key) == "a")


async def test_keys_that_are_all_known_are_swept_without_a_walk() -> None:
    server = filled_server()
    server.set(REGISTER, b"v")
    met = MetKeys()
    met.run_id = server.info().run_id
    staying = [key for key in KEYS if key not in FOREIGN]
    met.add([*staying[:10], *FOREIGN[:20], b"gone"])
    assert await clear(await access_to(server), ROUTES, "a", met=met) == len([*FOREIGN[:20], REGISTER])
    assert sorted(server.keys()) == sorted([*staying, *FOREIGN[20:]])


async def test_a_server_that_was_started_anew_is_walked_through() -> None:
    server = filled_server()
    met = MetKeys()
    met.run_id = server.info().run_id
    met.add(FOREIGN[:20])
    server.crash(lose_unsynced=True)
    server.restart()
    assert await clear(await access_to(server), ROUTES, "a", met=met) == len(FOREIGN)


async def test_more_keys_than_are_remembered_are_looked_for() -> None:
    server = filled_server()
    met = MetKeys()
    met.run_id = server.info().run_id
    met.add([b"%d" % number for number in range(MANY_KEYS + 1)])
    assert await clear(await access_to(server), ROUTES, "a", met=met) == len(FOREIGN)
