"""What processes of a cluster agree on, and how settings and logs travel."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from helios.errors import SettingsError, StartError
from helios.model.settings import ClusterSettings, LogFormat, LoggingSettings, LogLevel, Settings, ShardingSettings
from helios.runtime.agreement import agree, merged
from helios.runtime.handover import hand_over, likeness, take_over
from helios.runtime.logs import start_logging
from helios.stores.memory import MemoryStore
from helios.stores.records import SETTINGS, read_record


def settings(**sharding: object) -> Settings:
    return Settings.model_validate({"sharding": sharding} if sharding else {})


async def stored(store: MemoryStore) -> ClusterSettings:
    record = await read_record(store, ClusterSettings, SETTINGS)
    assert record is not None
    return record.value


async def test_the_first_start_founds_and_later_ones_agree() -> None:
    store = MemoryStore()
    given = settings(migration_rate=5)
    founding = given.with_default("sharding.auto_rebalance", True)
    assert (await agree(store, given, founding=founding, lead=True)).sharding.auto_rebalance
    assert (await stored(store)).sharding.migration_rate == 5
    # A default never undoes what was set, be it by hand while the cluster ran.
    again = await agree(store, settings(), founding=settings(), lead=True)
    assert (again.sharding.migration_rate, again.sharding.auto_rebalance) == (5, True)
    changed = await agree(store, settings(auto_rebalance=False), founding=settings(), lead=True)
    assert changed == await stored(store)
    assert (changed.sharding.migration_rate, changed.sharding.auto_rebalance) == (5, False)


async def test_a_node_follows_the_store() -> None:
    store = MemoryStore()
    await agree(store, settings(migration_rate=5), founding=settings(migration_rate=5), lead=True)
    followed = await agree(store, settings(migration_rate=6), founding=settings(), lead=False)
    assert followed.sharding.migration_rate == 5
    assert (await stored(store)).sharding.migration_rate == 5


async def test_what_is_fixed_is_named() -> None:
    store = MemoryStore()
    await agree(store, settings(virtual_nodes=10), founding=settings(virtual_nodes=10), lead=True)
    assert (await agree(store, settings(), founding=settings(), lead=True)).sharding.virtual_nodes == 10
    for lead in (True, False):
        with pytest.raises(StartError, match=r"founded with sharding\.virtual_nodes 10.*set to 150 now"):
            await agree(store, settings(virtual_nodes=150), founding=settings(), lead=lead)


def test_merging_takes_only_what_was_given() -> None:
    old = ClusterSettings(sharding=ShardingSettings(migration_rate=7, auto_rebalance=True))
    assert merged(old, settings()) == old
    assert merged(old, settings(migration_rate=8)).sharding == ShardingSettings(migration_rate=8, auto_rebalance=True)


def test_settings_are_handed_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    given = settings(migration_rate=1000).with_default("sharding.auto_rebalance", True)
    hand_over(given, path)
    taken = take_over(path)
    assert taken == given
    assert taken.is_set("sharding.migration_rate")  # though it is the default
    assert not taken.is_set("sharding.virtual_nodes")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("{}!")
    with pytest.raises(SettingsError, match="another version"):
        take_over(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        take_over(tmp_path / "missing")


def test_likeness_keeps_its_parts_apart() -> None:
    assert likeness("a", "b") == likeness("a", "b")
    assert likeness("a", "b") != likeness("ab", "")


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_root_logger")
def test_logs_as_lines_and_as_objects(tmp_path: Path) -> None:
    lines, objects = tmp_path / "lines.log", tmp_path / "objects.log"
    start_logging(LoggingSettings(), lines)
    logging.getLogger("x").info("it began: pid=%d", 3)
    logging.getLogger("x").debug("not this")
    assert lines.read_text().endswith("Z INFO    x it began: pid=3\n")
    logging.getLogger().handlers[0].close()
    start_logging(LoggingSettings(format=LogFormat.JSON, level=LogLevel.ERROR), objects)
    logging.getLogger("x").warning("not this")
    try:
        int("why")
    except ValueError:
        logging.getLogger("x").exception("it ended")
    entry = json.loads(objects.read_text())
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "x", "it ended")
    assert "ValueError: invalid literal" in entry["exception"]
