"""Failpoints: off unless asked for, armed by files, taken once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import until

from helios.ports.failpoints import OFF, Point
from helios.runtime.failpoints import KILL, VARIABLE, FileFailpoints, failpoints


async def test_without_the_variable_nothing_happens_anywhere() -> None:
    assert failpoints({}) is OFF
    for point in Point:
        await OFF.reach(point)


async def test_who_comes_by_first_waits_until_the_test_lets_it_go(tmp_path: Path) -> None:
    points = failpoints({VARIABLE: str(tmp_path)})
    assert isinstance(points, FileFailpoints)
    await points.reach(Point.FENCED)  # not armed
    points.arm(Point.FENCED)
    await points.reach(Point.COPYING)  # another point
    assert not points.reached(Point.FENCED)
    first = asyncio.create_task(points.reach(Point.FENCED))
    await until(lambda: points.reached(Point.FENCED))
    await points.reach(Point.FENCED)  # the second goes by
    assert not first.done()
    points.release(Point.FENCED)
    await asyncio.wait_for(first, 10)


def test_a_process_can_be_killed_where_it_stands(tmp_path: Path) -> None:
    FileFailpoints(tmp_path).arm(Point.SWEEPING, KILL)
    program = (
        "import asyncio, os\n"
        "from helios.ports.failpoints import Point\n"
        "from helios.runtime.failpoints import failpoints\n"
        "asyncio.run(failpoints(os.environ).reach(Point.SWEEPING))\n"
    )
    env = {**os.environ, VARIABLE: str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", program], env=env, timeout=30, check=False)
    assert ended.returncode == -signal.SIGKILL
