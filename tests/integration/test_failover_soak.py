"""Short runs of failovers without end: `make failover-soak` runs long ones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.failover_soak import failover_soak

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


async def test_what_a_majority_has_survives_and_stays_linearizable(tmp_path: Path) -> None:
    run = await asyncio.to_thread(failover_soak, tmp_path, seed=1, faults=12, limit_s=300.0)
    assert run.done["leader killed"] > 0
    assert run.operations > 500
    assert run.lost == 0


async def test_a_cluster_that_acknowledges_at_once_comes_back_and_says_what_it_lost(tmp_path: Path) -> None:
    run = await asyncio.to_thread(failover_soak, tmp_path, seed=2, faults=6, limit_s=300.0, safe=False)
    assert run.faults == 6
    assert run.operations > 200
