"""`helios config` on a data folder in which nothing runs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from helios.admin.settings import SharedSettings
from helios.cli.main import app
from helios.model.setting_info import all_settings
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.runtime.agreement import agree
from helios.runtime.backends import locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.handover import hand_over
from helios.runtime.settings import SettingsRead
from helios.stores.memory import MemoryStore


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, words)])


def shown(*words: object) -> dict[str, tuple[str, str]]:
    ended = run("show", "--json", *words)
    assert ended.exit_code == 0, ended.output
    return {view["name"]: (view["value"], view["origin"]) for view in json.loads(ended.stdout)["settings"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a cluster that was founded by a file and started with two workers."""
    data = DataFolder(tmp_path / "data")
    data.prepare()
    settings = Settings.of({"sharding": {"migration_rate": 500}, "router": {"workers": 2}})
    read = SettingsRead(settings, {"sharding.migration_rate": "/h.yaml:2", "router.workers": "command line"})

    async def founded() -> None:
        async with opened_store(data, locate(settings, data)) as store:
            await agree(store, SystemClock(), read, founding=settings, lead="helios up")

    asyncio.run(founded())
    hand_over(settings, data.settings, read.origins)
    return data.root


def test_each_value_is_shown_with_where_it_comes_from(folder: Path, tmp_path: Path) -> None:
    values = shown("--data-dir", folder)
    assert values.keys() == all_settings().keys()
    assert values["sharding.migration_rate"] == ("500", "/h.yaml:2")
    assert values["router.workers"] == ("2", "command line")
    assert values["router.hold_timeout"] == ("5s", "default")
    file = tmp_path / "other.yaml"
    file.write_text("router:\n  hold_timeout: 7s\n")
    planned = shown("--data-dir", folder, "--config", file)
    assert planned["router.hold_timeout"] == ("7s", f"{file}:2")
    assert planned["sharding.migration_rate"] == ("500", "/h.yaml:2")
    assert planned["router.workers"] == ("1", "default")
    table = run("show", "--origin", "--data-dir", folder).stdout
    assert table.splitlines()[0].split() == ["SETTING", "VALUE", "ORIGIN"]
    one = run("show", "router.hold_timeout", "--data-dir", folder).stdout
    assert "allowed      a duration from 50ms to 5m" in one
    assert run("show", "router.speed", "--data-dir", folder).exit_code == 2


def test_changes_are_remembered_and_taken_back(folder: Path) -> None:
    here = ("--data-dir", folder)
    ended = run("set", "sharding.migration_rate", "900", *here)
    assert ended.stdout.splitlines() == [
        "sharding.migration_rate: 900 (was 500)",
        "note: /h.yaml:2 sets it, too, and wins at the next start of helios up",
    ]
    assert run("set", "sharding.migration_rate", "900", *here).stdout == "sharding.migration_rate is 900 already\n"
    assert run("set", "router.hold_timeout", "9s", *here).stdout == "router.hold_timeout: 9s (was 5s)\n"
    assert shown(*here)["router.hold_timeout"] == ("9s", "set at run time")
    changes = json.loads(run("history", "--json", *here).stdout)["changes"]
    assert [(c["number"], c["altered"][0]["name"], c["altered"][0]["new"]) for c in changes] == [
        (1, "sharding.migration_rate", "900"),
        (2, "router.hold_timeout", "9s"),
    ]
    assert changes[0]["by"].startswith("helios config set, ")
    assert run("rollback", "0", *here).exit_code == 0
    values = shown(*here)
    assert values["sharding.migration_rate"] == ("500", "/h.yaml:2")
    assert values["router.hold_timeout"] == ("5s", "default")
    # A roll-back is a change like any other.
    assert run("rollback", *here).exit_code == 0
    assert shown(*here)["router.hold_timeout"] == ("9s", "set at run time")
    assert (
        "values after change 9 cannot be brought back: write a number from 0 to 3" in run("rollback", "9", *here).stderr
    )
    assert run("history", *here).stdout.count("\n") == 7


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("coordinator.fence_ack_timeout", "20s", "must be less than router.hold_timeout (5 s)"),
        ("router.hold_timeout", "soon", "router.hold_timeout cannot be 'soon': it must be a duration"),
        ("router.workers", "3", "cannot be changed while processes run (the processes run already)"),
        ("sharding.virtual_nodes", "3", "sharding.virtual_nodes cannot be changed: it decides where every key lies"),
        ("sharding.speed", "3", "is not a setting that can be changed here"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(folder: Path, name: str, value: str, words: str) -> None:
    ended = run("set", name, value, "--data-dir", folder)
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert run("history", "--data-dir", folder).stdout == "no setting has been changed since the cluster was founded\n"
    assert "nothing to roll back" in run("rollback", "--data-dir", folder).stderr


def test_without_a_cluster_there_is_nothing_to_change(tmp_path: Path) -> None:
    for words in (("set", "router.hold_timeout", "9s"), ("history",), ("rollback",)):
        ended = run(*words, "--data-dir", tmp_path / "none")
        assert ended.exit_code == 2
        assert f"there is no cluster in {tmp_path / 'none'}" in ended.stderr
    assert shown("--data-dir", tmp_path / "none")["router.hold_timeout"] == ("5s", "default")
    assert not (tmp_path / "none").exists()


def test_a_file_is_checked_without_being_used(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_text("router:\n  workers: 2\n  hold_timeout: 7s\n")
    ended = run("check", file, "--data-dir", folder)
    assert ended.exit_code == 0
    assert [line.split()[:2] for line in ended.stdout.splitlines()[1:]] == [
        ["router.workers", "2"],
        ["router.hold_timeout", "7s"],
    ]
    for text, words in (
        ("router:\n  workers: 0\n", f"{file}:2: router.workers is 0 but must be"),
        ("sharding:\n  virtual_nodes: 9\n", "founded with sharding.virtual_nodes 150"),
    ):
        file.write_text(text)
        ended = run("check", file, "--data-dir", folder)
        assert ended.exit_code == 1
        assert words in ended.stderr
        assert ended.stdout == ""


async def test_only_the_last_hundred_changes_are_remembered() -> None:
    shared = SharedSettings(MemoryStore(), SystemClock())
    for number in range(1, 108):
        await shared.change({"sharding.migration_rate": str(number)}, by="test")
    assert [change.number for change in await shared.history()] == list(range(8, 108))
    await shared.roll_back(7, by="test")
    assert (await shared.read()).sharding.migration_rate == 7


async def test_every_value_can_be_written_back_as_it_is_shown() -> None:
    shared = SharedSettings(MemoryStore(), SystemClock())
    assert await shared.change({view.name: view.value for view in await shared.views()}, by="test") == ()
    await shared.change({"sharding.quiet_hours": "22:00-06:00"}, by="test")
    (altered,) = await shared.roll_back(None, by="test")
    assert (altered.old, altered.new) == ("22:00-06:00", '""')
    assert (await shared.read()).sharding.quiet_hours == ""
