"""The main promise, over real processes: nodes come and go and keys move while clients write, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.cluster import FAST_MOVES, PATIENT, running_cluster
from tests.ledger import Ledger
from tests.ports import free_ports
from tests.reckoning import assert_each_key_once, at_rest, verb


@pytest.mark.processes
@pytest.mark.timeout(240)
async def test_nothing_acknowledged_is_lost_while_the_cluster_changes(tmp_path: Path) -> None:
    with running_cluster(tmp_path, shards=3, env=PATIENT | FAST_MOVES) as cluster:
        ledger = Ledger(cluster.resp_ports, seed=1)
        ledger.start(writers=8)
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
