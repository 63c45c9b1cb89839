"""A run of tests that leaves a process behind fails, names the test, and ends the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.leftovers import end, running_with

from helios.node.process import ProcessId

CONFTEST = "from tests.leftovers import nothing_left_running"
LEAVES = """
import subprocess, pathlib

def test_that_leaves():
    process = subprocess.Popen(["sleep", "1234.5"], start_new_session=True)
    pathlib.Path("pid").write_text(str(process.pid))

def test_that_does_not():
    subprocess.run(["sleep", "0"], check=True)
"""


def run_tests(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a folder's tests by a pytest of their own."""
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", *words]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_a_run_that_leaves_a_process_fails_and_names_the_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(LEAVES)
    for words in (["-n", "0"], ["-n", "1"]):
        done = run_tests(tmp_path, *words)
        pid = int((tmp_path / "pid").read_text())
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"test_it.py::test_that_leaves (call): {pid} sleep 1234.5" in done.stdout
        assert ProcessId.of(pid) is None
    done = run_tests(tmp_path, "-k", "does_not")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_process_that_turns_into_another_program_is_seen(tmp_path: Path) -> None:
    """In the midst of an exec the system shows an empty command line."""
    script = tmp_path / "turn"
    script.write_text('#!/bin/sh\n[ "$1" = 0 ] && exec sleep 1234.5 || exec "$0" $(($1 - 1))\n')
    script.chmod(0o755)
    with subprocess.Popen([script, "500"]) as process:
        try:
            while "sleep" not in (line := running_with("").get(process.pid, "")):
                assert line
        finally:
            end(lambda: {process.pid: "sleep"} if process.poll() is None else {}, 5)
