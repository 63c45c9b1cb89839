"""The main promise, over real processes: nodes come and go and keys move while clients write, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cluster import Cluster, free_ports, running_cluster
from tests.ledger import Ledger
from tests.shards import eventually

from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.stores.records import TOPOLOGY, read_record
from helios.stores.sqlite import SqliteStore

FAST = {"HELIOS_SHARDING__MIGRATION_RATE": "0"}


async def verb(cluster: Cluster, *words: str) -> object:
    """A command at the first node, without holding up the writers."""
    return await asyncio.to_thread(cluster.command, *words, timeout_s=30.0)


async def at_rest(cluster: Cluster) -> None:
    """Wait until nothing moves any more."""

    async def quiet() -> bool:
        return await verb(cluster, "ACTIVEMIGRATIONS") == []

    await eventually(quiet, "migrations end", timeout_s=60)


async def topology_of(cluster: Cluster) -> Topology:
    """The topology as it stands in the cluster's store."""
    store = await SqliteStore.open(cluster.data.store)
    try:
        record = await read_record(store, Topology, TOPOLOGY)
    finally:
        await store.close()
    assert record is not None
    return record.value


async def assert_each_key_once(cluster: Cluster) -> int:
    """Every server holds only what it owns, so no key is anywhere twice; how many keys there are."""
    topology = await topology_of(cluster)
    assert topology.transition is None
    assert not topology.unclean
    routes = Routes(topology)
    count = 0
    for shard in topology.shards:
        keys = await asyncio.to_thread(cluster.member_command, shard.id, "KEYS", "*")
        assert isinstance(keys, list)
        count += len(keys)
        strays = [key for key in keys if routes.owner(key) != shard.id]
        assert strays == [], f"{len(strays)} keys lie on {shard.id} and are owned elsewhere"
    return count


@pytest.mark.processes
@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_while_the_cluster_changes(tmp_path: Path) -> None:
    with running_cluster(tmp_path, shards=3, env=FAST) as cluster:
        ledger = Ledger(cluster.resp_ports, seed=1)
        ledger.start(writers=12)
        port = free_ports(1)
        node = await asyncio.to_thread(cluster.helios, "node", "--id", "shard-4", "--listen", f"localhost:{port}")
        await asyncio.to_thread(node.wait_ready)
        for _ in range(2):
            await verb(cluster, "ADDNODE", "shard-4", f"localhost:{port}")
            await at_rest(cluster)
            await verb(cluster, "MIGRATE", "shard-1", "shard-2", "user:*")
            await verb(cluster, "MIGRATE", "shard-3", "shard-4", "*:list:*")
            await at_rest(cluster)
            await verb(cluster, "MIGRATE", "shard-2", "shard-1", "user:*")
            await verb(cluster, "REMOVENODE", "shard-4")
            await at_rest(cluster)
        await ledger.stop()

        # Nothing failed, so nobody may have noticed more than a pause.
        assert ledger.refused == {}
        assert ledger.uncertain == {}
        assert ledger.operations > 2000
        assert await ledger.check() > 1500
        assert await assert_each_key_once(cluster) <= len(ledger.names())
        await asyncio.to_thread(node.terminate)
