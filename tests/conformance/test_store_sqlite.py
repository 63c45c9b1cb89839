"""What the SQLite home of the store promises beyond the interface: files, restarts, threads."""

# ruff: noqa: ASYNC240 -- a test may wait for its disk.

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helios.errors import LeaseLost, StoreError, WatchLost
from helios.ports.store import Compare, Delete, Event, Put
from helios.stores import sqlite, sqlite_connection
from helios.stores.sqlite import SqliteStore
from helios.stores.sqlite_file import SqliteFile

FULL, NORMAL = 2, 1  # as `PRAGMA synchronous` tells them


class ManualClock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    boottime = monotonic

    def wall(self) -> float:
        return self.now_s


async def value_of(store: SqliteStore, key: str) -> bytes | None:
    entry = await store.get(key)
    return None if entry is None else entry.value


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, busy_timeout_s=0.05)
    yield store
    await store.close()


# Restart


async def test_data_revisions_and_history_survive_a_restart(path: Path) -> None:
    store = await SqliteStore.open(path)
    first = await store.commit([Put("/a", b"1"), Put("/b", b"2")])
    await store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name], "the last handle writes the log back"
    store = await SqliteStore.open(path)
    snapshot = await store.list("")
    assert [(entry.key, entry.value, entry.version) for entry in snapshot.entries] == [
        ("/a", b"1", first),
        ("/b", b"2", first),
    ]
    assert snapshot.revision == first
    second = await store.commit([Put("/a", b"3")], compares=[Compare("/a", first)])
    assert second > first
    assert await anext(store.watch("/a", first)) == (Event("/a", b"3", second),)
    await store.close()


async def test_a_lease_lives_over_a_restart_but_not_over_a_boot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(path)
    lease = await store.grant(1000.0)
    version = await store.commit([Put("/a", b"1", lease)])
    await store.close()
    store = await SqliteStore.open(path)
    await store.keep_alive(lease)
    assert await value_of(store, "/a") == b"1"
    await store.close()

    boot_id = path.parent / "boot_id"
    boot_id.write_text("another boot\n")
    monkeypatch.setattr(sqlite_connection, "_BOOT_ID", boot_id)
    store = await SqliteStore.open(path)
    assert await store.get("/a") is None
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)
    ((event,),) = [await anext(store.watch("/a", version))]
    assert (event.key, event.value) == ("/a", None)
    await store.close()


async def test_a_renewal_waits_for_nothing_that_is_read(store: SqliteStore) -> None:
    lease = await store.grant(1000.0)
    read = threading.Event()
    reading = asyncio.ensure_future(store._run(read.wait))
    try:
        await store.keep_alive(lease)
        assert not reading.done()
    finally:
        read.set()
    await reading


@pytest.mark.parametrize("use", ["renewed", "bound"])
async def test_a_lease_that_ends_while_its_user_waits_for_the_lock_is_lost(path: Path, use: str) -> None:
    store = await SqliteStore.open(path, expires=False)
    lease = await store.grant(0.3)
    ends_s = time.monotonic() + 0.3
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    used: asyncio.Future[object] = asyncio.ensure_future(
        store.keep_alive(lease) if use == "renewed" else store.commit([Put("/a", b"", lease), Put("/b", b"")])
    )
    await asyncio.sleep(ends_s - time.monotonic())
    assert not used.done()
    writer.execute("ROLLBACK")
    writer.close()
    with pytest.raises(LeaseLost):
        await used
    assert await store.get("/b") is None
    await store.close()


# The file


async def test_only_the_owner_may_read_the_files(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([Put("/a", b"secret")])
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm"], 0o600)
    await store.close()
    path.chmod(0o644)
    await (await SqliteStore.open(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("operations", "waits"),
    [
        ([Put("/a", b"1")], True),
        ([Put("/a", b"1", durable=False)], False),
        ([Put("/a", b"1", durable=False), Put("/b", b"1")], True),
        ([Delete("/a"), Put("/a", b"1", durable=False)], True),
    ],
)
def test_a_commit_waits_for_the_disk_unless_nothing_in_it_need_be_durable(
    path: Path, operations: list[Put | Delete], waits: bool
) -> None:
    with recording_levels(path) as (file, levels):
        file.commit(operations, ())
    assert levels == [FULL if waits else NORMAL]


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_the_end_of_a_lease_does_not_wait_for_the_disk(path: Path, ended: str) -> None:
    """It would have ended with the boot at the latest."""
    clock = ManualClock()
    with recording_levels(path, clock) as (file, levels):
        lease = file.grant(1.0)
        file.commit([Put("/a", b"1", lease)], ())
        if ended == "revoked":
            file.revoke(lease)
        else:
            clock.now_s += 2.0
            file.expire()
        assert file.get("/a") is None
    assert levels == [NORMAL] * 2  # a grant is one statement


@contextmanager
def recording_levels(path: Path, clock: ManualClock | None = None) -> Iterator[tuple[SqliteFile, list[int]]]:
    """A file, and for each of its commits how it waits for the disk."""
    levels: list[int] = []
    file = SqliteFile(
        path,
        monotonic=time.monotonic if clock is None else clock.monotonic,
        keep_commits=10,
        busy_timeout_s=5,
        before_commit=lambda: levels.append(file._pragma("synchronous")),
    )
    try:
        yield file, levels
    finally:
        file.close()


async def test_the_files_stay_bounded(path: Path) -> None:
    store = await SqliteStore.open(path, keep_commits=5)
    start = (await store.list("")).revision
    for _ in range(200):
        await store.commit([Put("/a", bytes(200_000))])
    assert path.stat().st_size < 3_000_000
    assert path.with_name("store.db-wal").stat().st_size < 10_000_000
    with pytest.raises(WatchLost):
        await anext(store.watch("/a", start))
    await store.close()


async def test_a_path_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "store.db", tmp_path):
        with pytest.raises(StoreError, match=str(path)):
            await SqliteStore.open(path)


async def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)
    with pytest.raises(StoreError, match=rf"{path}.*damaged"):
        await SqliteStore.open(path)
    assert path.read_bytes() == b"not a database " * 1000


async def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=rf"{path}.*another program"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


async def test_another_releases_format_is_refused(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 999")
    other.close()
    with pytest.raises(StoreError, match=rf"{path}.*999"):
        await SqliteStore.open(path)


async def test_a_damaged_page_is_told(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([Put(f"/{n}", bytes(2000)) for n in range(50)])
    await store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xaa" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=str(path)):
        damaged = await SqliteStore.open(path)
        try:
            await damaged.list("")
        finally:
            await damaged.close()


async def test_a_write_lock_that_is_held_fails_commits_but_no_reads(store: SqliteStore, path: Path) -> None:
    version = await store.commit([Put("/a", b"1")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    lease = asyncio.create_task(store.grant(10.0))
    with pytest.raises(StoreError, match=rf"{path}.*another process"):
        await store.commit([Put("/a", b"2")])
    with pytest.raises(StoreError, match="another process"):
        await lease
    assert await value_of(store, "/a") == b"1"
    other.execute("ROLLBACK")
    other.close()
    await store.commit([Put("/a", b"3")], compares=[Compare("/a", version)])


async def test_a_lock_that_is_held_for_long_is_looked_at_ever_more_seldom(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a hundred nodes as many processes wait for it, and together they would need all of the machine.
    store, sleep, pauses_s = await SqliteStore.open(path, busy_timeout_s=1.0), time.sleep, []

    def noted(pause_s: float) -> None:
        pauses_s.append(pause_s)
        sleep(pause_s)

    monkeypatch.setattr(time, "sleep", noted)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="database is locked"):
        await store.commit([Put("/a", b"1")])
    other.close()
    await store.close()
    assert pauses_s[0] == min(pauses_s) <= 0.001
    assert len(pauses_s) < 80


async def test_a_full_disk_fails_the_commit_and_leaves_nothing(store: SqliteStore, path: Path) -> None:
    version = await store.commit([Put("/a", b"1")])
    connection = store._file._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match=rf"{path}.*make room"):
        await store.commit([Put("/a", b"2"), Put("/big", bytes(1_000_000))])
    assert await value_of(store, "/a") == b"1"
    assert await store.commit([Put("/a", b"3")], compares=[Compare("/a", version)]) > version


async def test_a_file_that_was_removed_or_replaced_is_noticed(store: SqliteStore, path: Path) -> None:
    version = await store.commit([Put("/a", b"1")])
    waiting = asyncio.ensure_future(anext(store.watch("/a", version)))
    calls: list[Callable[[], Awaitable[object]]] = [lambda: store.get("/a"), lambda: store.commit([Put("/a", b"2")])]
    path.rename(path.with_name("moved.db"))
    for call in calls:
        with pytest.raises(StoreError, match=str(path)):
            await call()
    async with asyncio.timeout(20):
        with pytest.raises(StoreError, match=str(path)):
            await waiting
    path.write_bytes(b"")
    for call in calls:
        with pytest.raises(StoreError, match=rf"{path}.*replaced"):
            await call()
    path.unlink()
    path.with_name("moved.db").rename(path)
    assert await value_of(store, "/a") == b"1"


# Watching


def _deaf(*_: object) -> None:
    return None


@pytest.mark.parametrize("lost", ["no inotify", "the writer died before it rang"])
async def test_commits_are_noticed_without_the_bell(path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    if lost == "no inotify":
        monkeypatch.setattr(sqlite, "_listen", _deaf)
    else:
        monkeypatch.setattr(sqlite_connection, "ring", _deaf)
    reader, writer = await SqliteStore.open(path), await SqliteStore.open(path)
    watch = reader.watch("/a", (await reader.list("")).revision)
    for n in range(5):
        waiting = asyncio.ensure_future(anext(watch))
        version = await writer.commit([Put("/a", str(n).encode())])
        async with asyncio.timeout(20):
            assert await waiting == (Event("/a", str(n).encode(), version),)
    await reader.close()
    await writer.close()


# Threads and cancellation


async def test_close_waits_for_what_was_asked_and_ends_its_thread(path: Path) -> None:
    before = threading.active_count()
    store = await SqliteStore.open(path)
    commits = [asyncio.create_task(store.commit([Put(f"/{n}", b"")])) for n in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await store.close()
    assert len(set(await asyncio.gather(*commits))) == 5
    for thread in threading.enumerate():
        if thread.name.startswith("store"):
            thread.join(10)
    assert threading.active_count() <= before
    store = await SqliteStore.open(path)
    assert len((await store.list("/")).entries) == 5
    await store.close()


async def test_an_open_that_is_cancelled_leaves_no_connection_nor_makes_one_later(path: Path) -> None:
    for turns in range(6):
        before = threading.enumerate()  # A store that was opened and closed may still have a thread that ends.
        opening = asyncio.create_task(SqliteStore.open(path))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        if not opening.cancelled():
            await opening.result().close()
        new = [one.name for one in threading.enumerate() if one not in before and one.name.startswith("store")]
        assert not opening.cancelled() or not new
    side_files = {file.name for file in path.parent.iterdir()} - {path.name}
    assert side_files == set(), "a connection is still open"


async def test_a_file_that_another_handle_makes_ready_meanwhile_is_no_strangers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pragma, others = SqliteFile._pragma, list[threading.Thread]()

    def open_other() -> None:
        SqliteFile(path, monotonic=time.monotonic, keep_commits=10, busy_timeout_s=5).close()

    def slow(file: SqliteFile, name: str) -> int:
        found = pragma(file, name)
        if not others:
            others.append(threading.Thread(target=open_other))
            others[0].start()
            others[0].join(0.2)  # as far as it comes while this one looks
        return found

    monkeypatch.setattr(SqliteFile, "_pragma", slow)
    SqliteFile(path, monotonic=time.monotonic, keep_commits=10, busy_timeout_s=5).close()
    others[0].join()
    open_other()


async def test_a_stopped_writer_does_not_stop_the_loop(path: Path) -> None:
    store = await SqliteStore.open(path, busy_timeout_s=1.0)
    await store.commit([Put("/a", b"1")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    blocked = asyncio.create_task(store.commit([Put("/a", b"2")]))
    turns = 0
    while not blocked.done():
        turns += 1
        await asyncio.sleep(0.001)
    other.execute("ROLLBACK")
    other.close()
    assert turns > 3
    with pytest.raises(StoreError):
        await blocked
    await store.close()
