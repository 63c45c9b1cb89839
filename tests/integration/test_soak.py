"""A short soak: `make soak MINUTES=10` runs a long one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.soak import soak


@pytest.mark.processes
@pytest.mark.timeout(240)
async def test_everything_at_once(tmp_path: Path) -> None:
    run = await asyncio.to_thread(soak, tmp_path, 25.0, 1)
    assert run.ledger.acknowledged > 1000
    assert run.histories > 1000
    assert run.done["MIGRATE"] > 0
    assert run.done["killed"] > 0
