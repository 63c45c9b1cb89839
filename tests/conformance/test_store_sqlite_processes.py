"""One file of SQLite and several processes: they add up, and hear of what concerns them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.waiting import until

from helios.errors import Conflict
from helios.ports.store import Compare, Event, Put
from helios.stores import sqlite
from helios.stores.sqlite import SqliteStore
from helios.stores.sqlite_file import SqliteFile

INCREMENT = """
import asyncio, sys
from pathlib import Path
from helios.errors import Conflict
from helios.ports.store import Compare, Put
from helios.stores.sqlite import SqliteStore

async def main(path, times):
    store = await SqliteStore.open(path)
    for _ in range(times):
        while True:
            entry = await store.get("/n")
            version, value = (0, 0) if entry is None else (entry.version, int(entry.value))
            try:
                await store.commit([Put("/n", str(value + 1).encode())], compares=[Compare("/n", version)])
            except Conflict:
                continue
            break
        print(value + 1, flush=True)
    await store.close()

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def start_incrementing(path: Path, times: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INCREMENT, str(path), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.processes
async def test_increments_by_several_processes_add_up_and_a_watch_sees_each(path: Path) -> None:
    workers = [start_incrementing(path, 30) for _ in range(3)]
    store = await SqliteStore.open(path)
    seen: list[int] = []
    async with asyncio.timeout(60):
        async for events in store.watch("/n", 1):
            seen += [int(event.value or b"") for event in events]
            if seen[-1] == 90:
                break
    assert seen == list(range(1, 91))
    printed: list[int] = []
    for worker in workers:
        output, _ = await asyncio.to_thread(worker.communicate)
        assert worker.returncode == 0
        printed += [int(line) for line in output.splitlines()]
    assert sorted(printed) == seen
    await store.close()


@pytest.mark.processes
async def test_a_killed_process_loses_nothing_it_was_promised_and_blocks_nobody(path: Path) -> None:
    store = await SqliteStore.open(path)
    for _ in range(3):
        worker = start_incrementing(path, 1_000_000)
        assert worker.stdout is not None
        for _ in range(10):
            promised = int(await asyncio.to_thread(worker.stdout.readline))
        worker.kill()
        rest, _ = await asyncio.to_thread(worker.communicate)
        whole_lines = rest.split("\n")[:-1]
        promised = int(whole_lines[-1]) if whole_lines else promised
        entry = await store.get("/n")
        assert entry is not None
        assert int(entry.value) in (promised, promised + 1)
        await store.commit([Put("/n", entry.value)], compares=[Compare("/n", entry.version)])
        with pytest.raises(Conflict):
            await store.commit([Put("/n", b"0")], compares=[Compare("/n", entry.version)])
    await store.close()


async def test_a_watch_reads_when_its_keys_change_and_rests_when_others_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each heartbeat of each process would make each watch of all processes read."""
    store = await SqliteStore.open(path, keep_commits=16)
    read: list[str] = []
    events_after = SqliteFile.events_after

    def counted(file: SqliteFile, prefix: str, after: int) -> tuple[list[tuple[Event, ...]], int]:
        read.append(prefix)
        return events_after(file, prefix, after)

    monkeypatch.setattr(SqliteFile, "events_after", counted)
    watch = store.watch("/mine/", 0)
    came = asyncio.ensure_future(anext(watch))
    await until(lambda: bool(store._waiting))
    read.clear()
    for number in range(2):  # as many as it may sleep over
        await store.commit([Put(f"/others/{number}", b"")])
    assert read == []
    for number in range(40):  # more than the store remembers
        await store.commit([Put(f"/others/{number}", b"")])
        await store.get("/others/1")  # it reads in the same thread as the watch
    assert 0 < len(read) <= 14
    await store.commit([Put("/mine/a", b"1")])
    (event,) = await came
    assert (event.key, event.value) == ("/mine/a", b"1")
    await watch.aclose()
    await store.close()


async def test_a_commit_wakes_the_processes_that_it_concerns_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what hundreds of processes write would each time wake all of them."""
    monkeypatch.setattr(sqlite, "_LOOK_EVERY_S", 1e6)
    writer, one, all_ = [await SqliteStore.open(path) for _ in range(3)]
    own, every = one.watch("/sessions/a1f0", 0), all_.watch("/sessions/", 0)
    mine, any_ = asyncio.ensure_future(anext(own)), asyncio.ensure_future(anext(every))
    await until(lambda: bool(one._waiting) and bool(all_._waiting))
    heard: list[SqliteStore] = []
    glance = SqliteStore._glance

    def noted(store: SqliteStore) -> None:
        heard.append(store)
        glance(store)

    monkeypatch.setattr(SqliteStore, "_glance", noted)
    await writer.commit([Put("/agents/shard-1", b"")])
    await writer.commit([Put("/sessions/b2e1", b"other")])
    assert [event.value for event in await any_] == [b"other"]
    assert one not in heard
    await writer.commit([Put("/sessions/a1f0", b"mine")])
    assert [event.value for event in await mine] == [b"mine"]
    for watch in (own, every):
        await watch.aclose()
    for store in (writer, one, all_):
        await store.close()


async def test_who_looks_anyway_does_not_wake_up_for_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each process at rest would wake up twice as often as it has something to do."""
    store, loop = await SqliteStore.open(path), asyncio.get_running_loop()
    looks: list[asyncio.TimerHandle] = []
    call_later = loop.call_later

    def noted(delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        timer = call_later(delay, callback, *args)
        if callback == store._look:
            looks.append(timer)
        return timer

    monkeypatch.setattr(loop, "call_later", noted)
    watching = asyncio.ensure_future(anext(store.watch("/mine/", 0)))
    await until(lambda: bool(looks))
    for _ in range(3):
        (due,) = (look for look in looks if not look.cancelled())
        await store.commit([Put("/others/a", b"")])
        (later,) = (look for look in looks if not look.cancelled())
        assert later.when() > due.when()
    watching.cancel()
    await asyncio.wait([watching])
    await store.close()
