"""Locks that name their holder."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from helios.errors import InvalidInput, StartError
from helios.node.agent import lock_node
from helios.node.files import DataFolder, read_json, write_json
from helios.node.locks import LockHeld, RunLock, holder_of
from helios.node.process import ProcessId, start_process


def test_one_holder_at_a_time_and_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder_of(path) is None
    lock = RunLock.acquire(path, {"a": "b"})
    with pytest.raises(LockHeld) as raised:
        RunLock.acquire(path)
    holder = raised.value.holder
    assert holder is not None
    assert holder.process == ProcessId.of(os.getpid())
    assert holder.note == {"a": "b"}
    lock.release()
    assert holder_of(path) is None
    RunLock.acquire(path).release()


def test_what_a_dead_process_wrote_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = RunLock.acquire(path)
    lock.let_go()
    assert "pid" in path.read_text()
    assert holder_of(path) is None


def test_a_look_does_not_take_the_lock_from_one_that_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> None:
        raise AssertionError("the lock was taken")

    nameless, dead = tmp_path / "nameless", tmp_path / "dead"
    nameless.touch()
    lock = RunLock.acquire(dead)
    lock.name(ProcessId(os.getpid(), "another start than ours"))
    lock.let_go()
    monkeypatch.setattr("fcntl.flock", taken)
    assert holder_of(nameless) is None
    assert holder_of(dead) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "started": "", "boot": "", "note": 3}'])
def test_a_held_lock_without_a_readable_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    lock = RunLock.acquire(path)
    path.write_text(text)
    assert holder_of(path) is None
    with pytest.raises(LockHeld, match="another process"):
        RunLock.acquire(path)
    lock.release()


async def test_a_child_that_was_handed_the_lock_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = RunLock.try_acquire(path)
    assert lock is not None
    reader = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    child = start_process(reader, log=tmp_path / "log", keep_fds=[lock.descriptor], parent_pipe=True)
    try:
        identity = child.id
        lock.name(identity)
        lock.let_go()
        assert RunLock.try_acquire(path) is None
        assert await RunLock.wait(path, 0.1) is None
        holder = holder_of(path)
        assert holder is not None
        assert holder.process == identity
        identity.send(signal.SIGKILL)
        again = await RunLock.wait(path, 20)
        assert again is not None
        again.release()
    finally:
        await child.stop(1)


def test_a_node_is_run_once(tmp_path: Path) -> None:
    data = DataFolder(tmp_path)
    data.prepare()
    lock = lock_node(data, "shard-1")
    with pytest.raises(StartError, match=f"shard-1 is already run by process {os.getpid()}"):
        lock_node(data, "shard-1")
    lock_node(data, "shard-2").release()
    lock.release()
    with pytest.raises(InvalidInput):
        lock_node(data, "../x")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot write in the data folder"):
        DataFolder(tmp_path / "file" / "data").prepare()


def test_json_files_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]
    for broken in ("{", "[]"):
        path.write_text(broken)
        with pytest.raises(StartError, match="put it back"):
            read_json(path)
