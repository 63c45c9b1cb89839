"""Single keys are linearizable through several routers while they move from server to server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster import FAST_MOVES, PATIENT, running_cluster
from tests.histories import Recorder
from tests.reckoning import at_rest, verb
from tests.waiting import until

KEYS = ("hot:a", "hot:b", "hot:c", "hot:d")
ROUNDS = 6


@pytest.mark.processes
@pytest.mark.timeout(180)
async def test_histories_of_moving_keys_have_an_order(tmp_path: Path) -> None:
    with running_cluster(tmp_path, shards=3, env=PATIENT | FAST_MOVES) as cluster:
        nodes = ["shard-1", "shard-2", "shard-3"]
        # All keys travel together from here on.
        for node in nodes[1:]:
            await verb(cluster, "MIGRATE", node, "shard-1", "hot:*")
            await at_rest(cluster)
        recorder = Recorder(cluster.resp_ports, KEYS, seed=1, pause_s=0)
        recorder.start(clients=9)
        for number in range(ROUNDS):
            before = recorder.operations
            assert not isinstance(await verb(cluster, "MIGRATE", nodes[number % 3], nodes[(number + 1) % 3]), Exception)
            await at_rest(cluster)

            async def went_on(before: int = before) -> bool:
                return recorder.operations > before

            await until(went_on, "clients go on")
        await recorder.stop()
        assert recorder.refused == {}
        assert recorder.open == 0
        recorder.check()
