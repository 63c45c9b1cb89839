"""Processes: told apart, watched, adopted, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.waiting import until

from helios.node.backoff import Backoff
from helios.node.process import Process, ProcessId, start_process, tail

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


@contextmanager
def started(argv: list[str], log: Path, *, parent_pipe: bool = False) -> Iterator[Process]:
    process = start_process(argv, log=log, parent_pipe=parent_pipe)
    try:
        yield process
    finally:
        process.id.send(signal.SIGKILL)


async def spoken(log: Path) -> None:
    await until(lambda: "up" in tail(log))


def test_a_process_is_itself_and_no_other() -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    assert me.alive()
    assert ProcessId.of(os.getpid()) == me
    assert not ProcessId(me.pid, "1", me.boot).alive()
    assert not ProcessId(me.pid, me.started, "another run of the machine").alive()


def test_a_reused_pid_gets_no_signal() -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    earlier = ProcessId(me.pid, me.started + "0", me.boot)
    assert not earlier.send(signal.SIGKILL)  # this test would not come to its end otherwise


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ProcessId.of(child.pid) is None
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_pids_of_nobody(pid: int) -> None:
    assert ProcessId.of(pid) is None
    assert not ProcessId(pid, "1").send(signal.SIGTERM)


async def test_a_child_ends_by_sigterm_and_its_status_is_known(tmp_path: Path) -> None:
    with started(SLEEPER, tmp_path / "log") as process:
        await spoken(tmp_path / "log")
        assert process.running()
        await process.stop(20)
        assert process.status == -signal.SIGTERM
        assert not process.running()
        assert await process.wait() == -signal.SIGTERM


async def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with started(STUBBORN, tmp_path / "log") as process:
        await spoken(tmp_path / "log")
        await process.stop(0.1)
        assert process.status == -signal.SIGKILL


async def test_an_adopted_process_is_watched_and_ended(tmp_path: Path) -> None:
    with started(SLEEPER, tmp_path / "log") as child:
        await spoken(tmp_path / "log")
        adopted = Process(child.id)
        assert adopted.adopted
        watching = asyncio.ensure_future(adopted.wait())
        await asyncio.sleep(0)
        child.id.send(signal.SIGTERM)
        assert await asyncio.wait_for(watching, 20) is None
        await adopted.stop(1)  # it is gone: nothing happens
        await child.wait()


async def test_waiting_that_is_given_up_leaves_the_process(tmp_path: Path) -> None:
    with started(SLEEPER, tmp_path / "log") as process:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        assert process.running()


async def test_it_has_a_session_of_its_own_and_no_input(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with started([sys.executable, "-c", "import os, sys; print(os.getsid(0), repr(sys.stdin.read()))"], log) as process:
        assert await process.wait() == 0
        assert log.read_text() == f"{process.pid} ''\n"
        assert log.stat().st_mode & 0o777 == 0o600


async def test_what_a_dead_child_leaves_in_its_group_ends_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    left = "import os, sys, time\npid = os.fork()\nprint(pid, flush=True) if pid else time.sleep(60)"
    with started([sys.executable, "-c", left], log) as process:
        await process.wait()
        orphan = int(log.read_text())
        await until(lambda: ProcessId.of(orphan) is None)


def test_tail_shows_the_last_lines_behind_a_place(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_text("one\ntwo\nthree\n")
    assert tail(log, lines=2) == "two\nthree"
    assert tail(log, after=4) == "two\nthree"
    assert tail(log, after=1000) == "one\ntwo\nthree"  # it was rotated meanwhile


def test_backoff_doubles_up_to_a_limit_and_forgets() -> None:
    backoff = Backoff(first_s=1, max_s=5, calm_s=30)
    assert [backoff.next(0) for _ in range(4)] == [1, 2, 4, 5]
    assert backoff.next(30) == 1
    assert backoff.next(29) == 2
