"""A hundred nodes: one takes keys of all others, which is more records than a commit takes."""

from __future__ import annotations

from tests.memory_shards import memory_shards
from tests.waiting import until

from helios.model.migration import Migration, MigrationStatus
from helios.ports.failpoints import OFF
from helios.ports.records import MIGRATIONS, list_records
from helios.ports.topologies import read_topology

NODES = [f"shard-{number:03}" for number in range(100)]


async def test_a_node_takes_keys_of_ninety_nine_others() -> None:
    async with memory_shards(NODES, OFF, **dict.fromkeys(NODES, 9)) as cluster:
        before = len(cluster.servers[NODES[0]].keys())
        growing = await cluster.admin.reweight(NODES[0], 8.0)
        assert len(growing.migrations) == 99

        async def over() -> bool:
            return (await cluster.admin.change(growing.change)).status == "done"

        await until(over, "the node has its keys", 240.0)
        migrations = [record.value for record in await list_records(cluster.store, Migration, MIGRATIONS)]
        assert [migration.status for migration in migrations] == [MigrationStatus.COMPLETED] * 99
        assert sum(migration.keys_moved for migration in migrations) == len(cluster.servers[NODES[0]].keys()) - before
        assert (await read_topology(cluster.store)).transition is None
