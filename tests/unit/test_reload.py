"""A settings file that is edited while processes run: what is applied, what waits, what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import until

from helios.admin.settings import SharedSettings
from helios.model.settings import ClusterSettings
from helios.runtime.agreement import agree
from helios.runtime.clock import SystemClock
from helios.runtime.reload import UNCHANGED, Reloader
from helios.runtime.settings import SettingsSource
from helios.stores.memory import MemoryStore

BEGUN = "sharding:\n  migration_rate: 500\natlas:\n  server: /a\n"


@dataclass
class Run:
    """A process that follows a file."""

    file: Path
    store: MemoryStore
    reloader: Reloader
    told: list[str] = field(default_factory=list)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    async def edit(self, text: str) -> list[str]:
        """Write the file and have it read; what was told."""
        self.file.write_text(text)
        self.told.clear()
        await self.reloader.reload()
        return list(self.told)

    async def shared(self) -> ClusterSettings:
        return await SharedSettings(self.store, SystemClock()).read()

    async def set(self, name: str, value: str) -> None:
        await SharedSettings(self.store, SystemClock()).change({name: value}, by="somebody")


async def begun(tmp_path: Path, **environ: str) -> Run:
    file, store, told = tmp_path / "helios.yaml", MemoryStore(), list[str]()
    file.write_text(BEGUN)
    source = SettingsSource(file, environ, {})
    read = source.read()
    await agree(store, SystemClock(), read, founding=read.settings, lead="test", file=str(file))
    return Run(file, store, Reloader(source, read, store, SystemClock(), who="test", tell=told.append), told)


async def test_an_edit_changes_what_it_edits(tmp_path: Path) -> None:
    run = await begun(tmp_path)
    await run.set("sharding.migration_rate", "7")
    told = await run.edit(BEGUN + "router:\n  hold_timeout: 9s\n")
    assert told == [f"{run.file}:6: router.hold_timeout was 5s, is 9s now"]
    shared = await run.shared()
    assert (shared.sharding.migration_rate, shared.router.hold_timeout) == (7, 9.0)
    # The line itself was edited.
    await run.edit(BEGUN.replace("500", "600"))
    shared = await run.shared()
    assert (shared.sharding.migration_rate, shared.router.hold_timeout) == (600, 5.0)
    views = {view.name: view.origin for view in await SharedSettings(run.store, SystemClock()).views()}
    assert views["sharding.migration_rate"] == f"{run.file}:2"
    assert views["router.hold_timeout"] == "default"
    history = await SharedSettings(run.store, SystemClock()).history()
    assert history[-1].by == f"test, {run.file}"
    assert [(item.name, item.old, item.new) for item in history[-1].altered] == [
        ("sharding.migration_rate", "7", "600"),
        ("router.hold_timeout", "9s", "5s"),
    ]


async def test_a_line_whose_default_is_empty_can_be_taken_out_again(tmp_path: Path) -> None:
    run = await begun(tmp_path)
    await run.edit(BEGUN.replace("sharding:\n", "sharding:\n  quiet_hours: 22:00-06:00\n"))
    assert (await run.shared()).sharding.quiet_hours == "22:00-06:00"
    assert await run.edit(BEGUN) == ['default: sharding.quiet_hours was 22:00-06:00, is "" now']
    assert (await run.shared()).sharding.quiet_hours == ""


async def test_a_file_with_a_mistake_changes_nothing_and_is_taken_up_when_it_is_mended(tmp_path: Path) -> None:
    run = await begun(tmp_path)
    before = await run.shared()
    for text, words in (
        ("sharding:\n  migration_rate: 600\n  speed: 1\n", f"{run.file}:3: sharding.speed is not a setting"),
        ("sharding: [", "is not valid YAML"),
        ("coordinator:\n  fence_ack_timeout: 30s\n", "must be less than"),
        ("sharding:\n  migration_rate: 600\n  virtual_nodes: 3\n", "sharding.virtual_nodes 150, which is fixed"),
    ):
        (told,) = await run.edit(text)
        assert told.startswith(UNCHANGED)
        assert words in told
        assert await run.shared() == before
    assert len(await run.edit(BEGUN.replace("500", "600"))) == 1
    assert (await run.shared()).sharding.migration_rate == 600


async def test_values_must_go_together_with_those_that_were_set_at_run_time(tmp_path: Path) -> None:
    run = await begun(tmp_path)
    await run.set("coordinator.fence_ack_timeout", "3s")
    (told,) = await run.edit(BEGUN.replace("500", "600") + "router:\n  hold_timeout: 2s\n")
    assert told.startswith(f"{UNCHANGED}: coordinator.fence_ack_timeout (3 s) must be less than")
    assert (await run.shared()).sharding.migration_rate == 500


async def test_what_needs_a_restart_is_named_once_and_the_rest_holds(tmp_path: Path) -> None:
    run = await begun(tmp_path)
    waits = (
        f"{run.file}:4: atlas.server /b waits for a restart, since the data servers run already; until then it is /a"
    )
    text = BEGUN.replace("/a", "/b").replace("500", "600")
    assert waits in await run.edit(text)
    assert (await run.shared()).sharding.migration_rate == 600
    assert await run.edit(text + "logging:\n  level: error\n") == [
        f"{run.file}:6: logging.level was info, is error now"
    ]


async def test_the_environment_goes_on_to_win(tmp_path: Path) -> None:
    run = await begun(tmp_path, HELIOS_SHARDING__MIGRATION_RATE="5")
    told = await run.edit(BEGUN.replace("500", "600"))
    assert told == [
        f"{run.file}:2: sharding.migration_rate 600 has no effect, since it is overridden by the "
        "environment variable HELIOS_SHARDING__MIGRATION_RATE"
    ]
    assert (await run.shared()).sharding.migration_rate == 5


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[None]:
    task = asyncio.create_task(run.reloader.run(run.wanted))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_files_that_are_replaced_and_links_that_are_turned_are_noticed(tmp_path: Path) -> None:
    run = await begun(tmp_path)
    async with running(run):
        run.wanted.set()  # once that was answered, the folder is being watched, or about to be
        await until(lambda: run.told)
        assert run.told == [f"{run.file} says what it said: {UNCHANGED}"]

        async def replaced(rate: int, *, link: bool) -> None:
            other = tmp_path / f"{rate}.yaml"
            while not any(f"is {rate} now" in sentence for sentence in run.told):
                beside = tmp_path / ".beside"
                beside.unlink(missing_ok=True)
                other.write_text(f"sharding:\n  migration_rate: {rate}\n")
                if link:
                    beside.symlink_to(other)
                else:
                    beside.write_text(other.read_text())
                beside.replace(run.file)
                await asyncio.sleep(0.05)

        for rate, link in ((600, False), (700, True), (800, False)):
            async with asyncio.timeout(30):
                await replaced(rate, link=link)
        assert (await run.shared()).sharding.migration_rate == 800


async def test_without_a_file_there_is_nothing_to_read_again(tmp_path: Path) -> None:
    store, told = MemoryStore(), list[str]()
    source = SettingsSource(None, {}, {})
    reloader = Reloader(source, source.read(), store, SystemClock(), who="test", tell=told.append)
    run = Run(tmp_path, store, reloader, told)
    async with running(run):
        run.wanted.set()
        await until(lambda: told)
    assert told[0].startswith("there is no settings file to read again")
