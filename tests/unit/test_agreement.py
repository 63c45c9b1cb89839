"""What processes of a cluster agree on, and how settings and logs travel."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.waiting import until

from helios.admin.settings import SharedSettings
from helios.errors import SettingsError, StartError
from helios.model.sections import LogFormat, LoggingSettings, LogLevel
from helios.model.settings import ClusterSettings, Settings
from helios.ports.records import SETTINGS, read_record
from helios.runtime.agreement import agree, disagreements, follow, shared_now
from helios.runtime.clock import SystemClock
from helios.runtime.handover import fingerprint, hand_over, take_over
from helios.runtime.logs import start_logging
from helios.runtime.settings import SettingsRead
from helios.stores.memory import MemoryStore

HERE = "helios up"


def given(where: str = "command line", **sharding: object) -> SettingsRead:
    settings = Settings.of({"sharding": sharding} if sharding else {})
    return SettingsRead(settings, {f"sharding.{name}": where for name in sharding})


async def agreed(
    store: MemoryStore, read: SettingsRead, *, founding: Settings | None = None, lead: str = HERE, file: str = ""
) -> ClusterSettings:
    return await agree(store, SystemClock(), read, founding=founding or read.settings, lead=lead, file=file)


async def stored(store: MemoryStore) -> ClusterSettings:
    record = await read_record(store, ClusterSettings, SETTINGS)
    assert record is not None
    return record.value


async def origins(store: MemoryStore) -> dict[str, str]:
    views = await SharedSettings(store, SystemClock()).views()
    return {view.name: view.origin for view in views if view.origin != "default"}


async def test_the_first_start_founds_and_later_ones_agree() -> None:
    store = MemoryStore()
    read = given(migration_rate=5)
    founding = read.settings.with_default("sharding.auto_rebalance", True)
    assert (await agreed(store, read, founding=founding)).sharding.auto_rebalance
    assert (await stored(store)).sharding.migration_rate == 5
    assert await origins(store) == {"sharding.migration_rate": "command line", "sharding.auto_rebalance": "helios up"}
    # A default never undoes what was set, be it by hand while the cluster ran.
    again = await agreed(store, given())
    assert (again.sharding.migration_rate, again.sharding.auto_rebalance) == (5, True)
    changed = await agreed(store, given(auto_rebalance=False))
    assert changed == await stored(store)
    assert (changed.sharding.migration_rate, changed.sharding.auto_rebalance) == (5, False)


async def test_a_line_that_was_taken_out_of_the_file_gives_the_default_back() -> None:
    store = MemoryStore()
    await agreed(store, given("/a.yaml:3", migration_rate=5, verify_moves=True), file="/a.yaml")
    # Nobody has said that this file sets nothing any more.
    assert (await agreed(store, given(), file="")).sharding.migration_rate == 5
    assert (await agreed(store, given(), file="/b.yaml")).sharding.migration_rate == 5
    left = await agreed(store, given("/a.yaml:3", verify_moves=True), file="/a.yaml")
    assert (left.sharding.migration_rate, left.sharding.verify_moves) == (1000, True)
    assert await origins(store) == {"sharding.verify_moves": "/a.yaml:3"}
    # What was set at run time meanwhile is nobody's line.
    await SharedSettings(store, SystemClock()).change({"sharding.verify_moves": "true"}, by="somebody")
    assert (await agreed(store, given(), file="/a.yaml")).sharding.verify_moves


async def test_a_node_follows_the_store() -> None:
    store = MemoryStore()
    await agreed(store, given(migration_rate=5))
    mine = given("node.yaml:1", migration_rate=6)
    followed = await agreed(store, mine, lead="")
    assert followed.sharding.migration_rate == 5
    assert (await stored(store)).sharding.migration_rate == 5
    (sentence,) = disagreements(followed, mine)
    assert sentence.startswith("node.yaml:1: sharding.migration_rate is 6, but this cluster has 5")
    assert list(disagreements(followed, given(migration_rate=5))) == []


async def test_what_is_fixed_is_named() -> None:
    store = MemoryStore()
    await agreed(store, given(virtual_nodes=10))
    assert (await agreed(store, given())).sharding.virtual_nodes == 10
    for lead in (HERE, ""):
        with pytest.raises(StartError, match=r"founded with sharding\.virtual_nodes 10.*set to 150 now"):
            await agreed(store, given(virtual_nodes=150), lead=lead)


async def test_processes_follow_what_changes() -> None:
    store = MemoryStore()
    started = given().settings
    await agreed(store, given())
    seen: list[int] = []
    following = asyncio.create_task(follow(store, started, lambda now: seen.append(now.sharding.migration_rate)))
    shared = SharedSettings(store, SystemClock())
    for number in (7, 8):
        await shared.change({"sharding.migration_rate": str(number)}, by="somebody")
        await until(lambda number=number: seen and seen[-1] == number)  # type: ignore[misc]
    assert seen == [7, 8]
    assert (await shared_now(store, started)).sharding.migration_rate == 8
    following.cancel()


def test_settings_are_handed_over_whole(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    read = given("file:3", migration_rate=1000)
    settings = read.settings.with_default("sharding.auto_rebalance", True)
    hand_over(settings, path, read.origins)
    taken = take_over(path)
    assert taken == SettingsRead(settings, {"sharding.migration_rate": "file:3"})
    assert taken.settings.is_set("sharding.migration_rate")  # though it is the default
    assert not taken.settings.is_set("sharding.virtual_nodes")
    assert path.stat().st_mode & 0o777 == 0o600
    for other in ("{}!", "[]", '{"settings": {"sharding": {"speed": 1}}, "origins": {}}'):
        path.write_text(other)
        with pytest.raises(SettingsError, match="another version"):
            take_over(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        take_over(tmp_path / "missing")


def test_a_fingerprint_keeps_its_parts_apart() -> None:
    assert fingerprint("a", "b") == fingerprint("a", "b")
    assert fingerprint("a", "b") != fingerprint("ab", "")


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
    text = objects.read_text()
    logging.getLogger("x").error(
        "moved: node=%s keys=%d took_s=%.1f level=%s 100%% of %s", "shard-1", 7, 1.5, "low", "it"
    )
    named = json.loads(objects.read_text().removeprefix(text))
    assert (named["node"], named["keys"], named["took_s"]) == ("shard-1", 7, 1.5)
    assert named["level"] == "error", "what every line has is not replaced"
    assert set(named) == {"time", "level", "logger", "message", "node", "keys", "took_s"}
    entry = json.loads(text)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "x", "it ended")
    assert "ValueError: invalid literal" in entry["exception"]
