"""redis-benchmark at a router: every test that it has runs to its end, and no reply is an error."""

from __future__ import annotations

import asyncio
import csv
from asyncio.subprocess import PIPE

import pytest
from tests.programs import find_program
from tests.routers import RouterLab

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")
WAIT_S = 120


async def measured(lab: RouterLab, *words: str) -> dict[str, float]:
    """Requests a second by test, of a run in which nothing was reported but that."""
    program = find_program("redis-benchmark")
    assert program is not None
    command = [program, "-p", str(lab.port), "--csv", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(WAIT_S):
        out, error = await process.communicate()
    assert (process.returncode, error.decode()) == (0, "")
    rows = list(csv.DictReader(out.decode().splitlines()))
    assert not lab.router.totals.errors
    return {row["test"]: float(row["rps"]) for row in rows}


async def test_all_its_tests(lab: RouterLab) -> None:
    found = await measured(lab, "-n", "300", "-c", "10", "-r", "100")
    assert {"PING_INLINE", "SET", "GET", "LPUSH", "HSET", "ZPOPMIN", "MSET (10 keys)"} <= found.keys()
    assert all(found.values())


async def test_pipelines_threads_and_commands_of_ones_own(lab: RouterLab) -> None:
    assert (await measured(lab, "-n", "20000", "-P", "64", "-r", "1000", "--threads", "2", "-t", "set,get"))["SET"]
    assert await measured(lab, "-n", "200", "-P", "4", "-r", "100", "eval", "return KEYS[1]", "1", "key:__rand_int__")
    assert await measured(lab, "-n", "200", "-3", "hset", "hash:__rand_int__", "field", "value")
