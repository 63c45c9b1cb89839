"""A data folder that somebody else could have filled is not used, and nothing is written through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helios.errors import StartError
from helios.model.sections import LoggingSettings
from helios.node.files import DataFolder, read_json, write_json, write_private
from helios.node.locks import RunLock
from helios.node.process import start_process
from helios.runtime.logs import start_logging

SOMEBODY = 54_321


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    """A folder as a cluster leaves it behind."""
    made = DataFolder(tmp_path / "data")
    made.prepare()
    node = made.node("shard-1")
    node.founder.root.mkdir(parents=True)
    write_json(node.agent, {"listen": "127.0.0.1:1"})
    write_json(node.founder.state, {"server": "/tmp/evil"})
    (node.founder.root / "appendonlydir").mkdir()
    made.log("shard-1").write_text("")
    made.prepare()
    return made


PARTS = [
    ".",
    "logs",
    "nodes",
    "nodes/shard-1",
    "nodes/shard-1/member.json",
    "nodes/shard-1/member",
    "nodes/shard-1/member/appendonlydir",
    "logs/shard-1.log",
]


@pytest.mark.parametrize("part", PARTS)
def test_what_belongs_to_somebody_else_is_refused(data: DataFolder, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data.root / part
    if os.geteuid() == 0:
        os.chown(path, SOMEBODY, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr("helios.node.ownership.os.geteuid", lambda: SOMEBODY)
    with pytest.raises(StartError, match=r"belongs to .*use a folder of your own by --data-dir"):
        data.prepare()


@pytest.mark.parametrize("part", [".", "nodes", "nodes/shard-1"])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_what_others_can_write_is_refused(data: DataFolder, part: str, mode: int) -> None:
    for folder in (data.root, data.nodes):
        folder.chmod(0o755)
    (data.root / part).chmod(mode)
    with pytest.raises(StartError, match=r"can be written by other users.*chmod go-w"):
        data.prepare()
    (data.root / part).chmod(mode & ~0o022)
    data.prepare()


def test_behind_a_closed_door_modes_do_not_matter(data: DataFolder) -> None:
    data.node("shard-1").founder.state.chmod(0o666)
    data.prepare()
    for folder in (data.root, data.nodes, data.node("shard-1").root):
        folder.chmod(0o755)
    with pytest.raises(StartError, match=r"member\.json can be written by other users"):
        data.prepare()


def test_a_link_is_as_good_as_who_made_it_and_what_it_leads_to(data: DataFolder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir(0o700)
    data.node("shard-1").founder.root.rename(elsewhere / "member")
    data.node("shard-1").founder.root.symlink_to(elsewhere / "member")
    data.prepare()
    (elsewhere / "member").chmod(0o777)
    with pytest.raises(StartError, match="can be written by other users"):
        data.prepare()


def test_nothing_is_written_or_read_through_a_link(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_text("{}")
    link = tmp_path / "link"
    link.symlink_to(treasure)
    with pytest.raises(OSError, match="is a symbolic link, through which nothing is logged: remove it"):
        start_process(["true"], log=link)
    with pytest.raises(OSError, match="is a symbolic link, through which nothing is logged: remove it"):
        start_logging(LoggingSettings(), link)
    with pytest.raises(OSError, match="symbolic"):
        RunLock.try_acquire(link)
    with pytest.raises(StartError, match="cannot be read"):
        read_json(link)
    (tmp_path / f".file.{os.getpid()}").symlink_to(treasure)
    with pytest.raises(OSError, match="symbolic"):
        write_private(tmp_path / "file", "x")
    assert treasure.read_text() == "{}"
