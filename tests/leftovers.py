"""Processes that tests leave behind: found by what their command lines and environments say, and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from helios.node.process import ProcessId

RUN = "HELIOS_TESTS"  # in the environment of whatever a test starts: whose run it is
_END_S = 5.0
_TURNING_S = 1.0
_TEST = "PYTEST_CURRENT_TEST="


def running_with(text: str) -> dict[int, str]:
    """The command lines of the other processes that hold this text in theirs, by pid."""
    return {pid: words for pid in _others() if text in (words := _command_line(pid))}


def end(find: Callable[[], dict[int, str]], limit_s: float) -> None:
    """End all that is found, until nothing is. Each look begins when those of the last one are gone.

    So no look misses what one of them was about to start.
    """
    deadline = time.monotonic() + limit_s
    while left := find():
        ended = [process for process in map(ProcessId.of, left) if process is not None]
        for process in ended:
            process.send(signal.SIGKILL)
        while any(process.alive() for process in ended):
            assert time.monotonic() < deadline, f"these do not end: {left}"
            time.sleep(0.02)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """At the end of a run (of each worker's share of it) no process is left that a test has started, or it fails."""
    mark = uuid4().hex
    os.environ[RUN] = mark
    try:
        yield
        left = _left_by(mark)
        deadline = time.monotonic() + _END_S
        while left and time.monotonic() < deadline:  # it may be about to end
            time.sleep(0.05)
            left = _left_by(mark)
    finally:
        del os.environ[RUN]
    if left:
        end(lambda: _left_by(mark), _END_S)
        pytest.fail("left running, and ended now:\n" + "\n".join(left.values()), pytrace=False)


def _left_by(mark: str) -> dict[int, str]:
    """What runs of those that were started in this run: the test, the pid, and the command line."""
    found = {}
    for pid in _others():
        settings = _read(pid, "environ").split("\0")
        if f"{RUN}={mark}" in settings:
            test = next((each.removeprefix(_TEST) for each in settings if each.startswith(_TEST)), "no test")
            found[pid] = f"{test}: {pid} {_command_line(pid)}"
    return found


def _others() -> list[int]:
    return [pid for path in Path("/proc").glob("[0-9]*") if (pid := int(path.name)) != os.getpid()]


def _command_line(pid: int) -> str:
    """A process's command line; nothing of one that has ended.

    It is empty, too, for the moment in which a process turns into another program: then it is read again.
    """
    deadline = time.monotonic() + _TURNING_S
    while not (line := _read(pid, "cmdline")) and _has_program(pid) and time.monotonic() < deadline:
        pass
    return line.replace("\0", " ")


def _has_program(pid: int) -> bool:
    try:
        Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return False
    return True


def _read(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
