"""What every home of the store must do; each test runs over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.store_homes import HOMES, Home, JumpingClock, Open, Site

from helios.errors import Conflict, InvalidInput, LeaseLost, StoreError, TooBig, WatchLost
from helios.ports.following import updates
from helios.ports.store import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    MAX_RECORD_BYTES,
    Compare,
    Delete,
    Entry,
    Event,
    Operation,
    Put,
    Store,
    batches,
    fits,
)

KEPT_COMMITS = 50
LONG_S = 60.0


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return HOMES[request.param](Site(tmp_path, KEPT_COMMITS, request.getfixturevalue))


@pytest.fixture
def clock(home: Home) -> JumpingClock:
    return home.clock


@pytest.fixture
async def handle(home: Home) -> AsyncIterator[Open]:
    """Opens handles of one store; they are closed after the test."""
    opened: list[Store] = []

    async def open_one() -> Store:
        store = await home.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(handle: Open) -> Store:
    return await handle()


async def take(watch: AsyncIterator[tuple[Event, ...]], count: int) -> list[tuple[Event, ...]]:
    """The next `count` commits of a watch."""
    async with asyncio.timeout(20):
        return [await anext(watch) for _ in range(count)]


async def revision_of(store: Store) -> int:
    return (await store.list("")).revision


# Reading and writing


async def test_a_new_store_is_empty_at_a_positive_revision(store: Store) -> None:
    snapshot = await store.list("")
    assert snapshot.entries == ()
    assert snapshot.revision > 0
    assert await store.get("/a") is None


async def test_what_was_put_is_got_with_the_revision_of_its_commit(store: Store) -> None:
    before = await revision_of(store)
    first = await store.commit([Put("/a", b"1")])
    second = await store.commit([Put("/b", b"\x00\xff")])
    assert before < first < second
    assert await store.get("/a") == Entry("/a", b"1", first)
    assert await store.get("/b") == Entry("/b", b"\x00\xff", second)
    assert await revision_of(store) == second


async def test_writing_the_same_value_again_is_a_change(store: Store) -> None:
    first = await store.commit([Put("/a", b"1")])
    again = await store.commit([Put("/a", b"1")])
    assert again > first
    assert await store.get("/a") == Entry("/a", b"1", again)


async def test_list_is_in_key_order_and_bound_by_its_prefix(store: Store) -> None:
    keys = ["/a", "/a/1", "/a/10", "/a/2", "/a0", "/aa/1", "/b", "/A/1"]
    version = await store.commit([Put(key, key.encode()) for key in keys])
    snapshot = await store.list("/a/")
    assert snapshot.entries == tuple(Entry(key, key.encode(), version) for key in ["/a/1", "/a/10", "/a/2"])
    assert snapshot.revision == version
    assert [entry.key for entry in (await store.list("")).entries] == sorted(keys)
    assert (await store.list("/none")).entries == ()


ODD_KEYS = [
    "%",
    "_",
    "a%",
    "a_",
    "ab",
    "a*",
    "a?b",
    "[a]",
    "'",
    '"',
    "\\",
    "a b",
    "a\nb",
    "a\x00b",
    "a\x00",
    "\x7f",
    "é",
]
ODD_KEYS += ["\x80", "ÿ", "日本", "日", "\uffff", "\U0001f600", "\U0010ffff", "\U0010ffffx", "a\U0010ffff", "", "a"]


async def test_odd_characters_are_ordinary_in_keys_and_prefixes(store: Store) -> None:
    await store.commit([Put(key, key.encode()) for key in ODD_KEYS])
    for key in ODD_KEYS:
        entry = await store.get(key)
        assert entry is not None, repr(key)
        assert entry.value == key.encode()
        listed = [entry.key for entry in (await store.list(key)).entries]
        assert listed == sorted(other for other in ODD_KEYS if other.startswith(key)), repr(key)


async def test_a_big_value_comes_back_whole(store: Store) -> None:
    value = bytes(range(256)) * 4096
    await store.commit([Put("/big", value)])
    entry = await store.get("/big")
    assert entry is not None
    assert entry.value == value


async def test_delete_removes_and_takes_a_revision(store: Store) -> None:
    put = await store.commit([Put("/a", b"1")])
    deleted = await store.commit([Delete("/a")])
    assert deleted > put
    assert await store.get("/a") is None
    assert await revision_of(store) == deleted


async def test_a_commit_that_changes_nothing_gives_the_present_revision(store: Store) -> None:
    present = await store.commit([Put("/a", b"1")])
    assert await store.commit([Delete("/none")]) == present
    assert await store.commit([]) == present
    assert await store.commit([], compares=[Compare("/a", present)]) == present
    assert await revision_of(store) == present


async def test_a_key_is_named_once_in_a_commit(store: Store) -> None:
    with pytest.raises(InvalidInput, match="/a"):
        await store.commit([Put("/a", b"1"), Delete("/a")])
    assert await store.get("/a") is None


# Limits


async def test_a_record_may_have_so_many_bytes_and_no_more(store: Store) -> None:
    most = b"x" * MAX_RECORD_BYTES
    version = await store.commit([Put("/a", most)])
    assert await store.get("/a") == Entry("/a", most, version)
    with pytest.raises(TooBig, match=r"'/a' has 1,048,577 bytes, of 1,048,576"):
        await store.commit([Put("/a", most + b"x")])
    assert await revision_of(store) == version


async def test_a_commit_may_have_so_many_bytes_and_no_more(store: Store) -> None:
    half = MAX_COMMIT_BYTES // 2 - len("/a")
    version = await store.commit([Put("/a", bytes(half)), Put("/b", bytes(half))])
    with pytest.raises(TooBig, match=r"1,400,001 bytes, of 1,400,000"):
        await store.commit([Put("/a", bytes(half)), Put("/b", bytes(half + 1))])
    assert [entry.version for entry in (await store.list("")).entries] == [version, version]


@pytest.mark.parametrize("compares", [0, 1, MAX_OPERATIONS // 2])
async def test_a_commit_may_have_so_many_operations_and_compares_and_no_more(store: Store, compares: int) -> None:
    keys = [f"/{n:03}" for n in range(MAX_OPERATIONS + 1)]
    compared = [Compare(key, 0) for key in keys[:compares]]
    puts = [Put(key, b"1") for key in keys]
    version = await store.commit(puts[: MAX_OPERATIONS - compares], compares=compared)
    with pytest.raises(TooBig, match="101 operations and compares, of 100"):
        await store.commit(puts[: MAX_OPERATIONS - compares + 1], compares=compared)
    assert {entry.version for entry in (await store.list("")).entries} == {version}


async def test_any_number_of_operations_fits_into_batches(store: Store) -> None:
    guard = await store.commit([Put("/guard", b"")])
    operations: list[Operation] = [Put(f"/a/{n:04}", bytes(n * 100)) for n in range(500)]
    made = list(batches(operations, compares=1))
    assert [operation for batch in made for operation in batch] == operations
    assert all(fits(batch, 1) for batch in made)
    for batch in made:
        await store.commit(batch, compares=[Compare("/guard", guard)])
    snapshot = await store.list("/a/")
    assert [len(entry.value) for entry in snapshot.entries] == [n * 100 for n in range(500)]
    assert list(batches([])) == []


async def test_thousands_of_keys_are_listed_as_they_stood_together(handle: Open) -> None:
    writer, reader = await handle(), await handle()
    puts = [Put(f"/many/{n:05}", b"%d" % n) for n in range(5_000)]
    for batch in batches(puts):
        revision = await writer.commit(batch)
    await writer.commit([Put("/other", b"")])
    before = (await reader.list("/many/")).entries
    assert [(entry.key, entry.value) for entry in before] == [(put.key, put.value) for put in puts]
    # While it is listed, in several requests maybe, all of them change.
    listing = asyncio.create_task(reader.list("/many/"))
    for batch in batches([Put(put.key, b"new") for put in puts[:2_000]]):
        await writer.commit(batch)
    snapshot = await listing
    assert len(snapshot.entries) == 5_000
    assert all((entry.value == b"new") == (entry.version > revision) for entry in snapshot.entries)
    assert all(entry.version <= snapshot.revision for entry in snapshot.entries)


async def test_records_near_the_limit_come_and_go_by_list_and_watch(store: Store) -> None:
    big = [bytes([n]) * (MAX_RECORD_BYTES - n) for n in range(8)]
    start = await revision_of(store)
    for n, value in enumerate(big):
        await store.commit([Put(f"/big/{n}", value)])
    assert [entry.value for entry in (await store.list("/big/")).entries] == big
    assert [event.value for (event,) in await take(store.watch("/big/", start), 8)] == big


# Compare and set


async def test_compare_lets_the_right_version_through_and_no_other(store: Store) -> None:
    version = await store.commit([Put("/a", b"1")], compares=[Compare("/a", 0)])
    for wrong in (0, version - 1, version + 1):
        with pytest.raises(Conflict, match="/a"):
            await store.commit([Put("/a", b"2")], compares=[Compare("/a", wrong)])
    assert await store.get("/a") == Entry("/a", b"1", version)
    await store.commit([Delete("/a")], compares=[Compare("/a", version)])
    assert await store.get("/a") is None
    with pytest.raises(Conflict):
        await store.commit([Put("/a", b"3")], compares=[Compare("/a", version)])
    await store.commit([Put("/a", b"4")], compares=[Compare("/a", 0)])


async def test_all_compares_must_hold_also_of_keys_that_are_not_written(store: Store) -> None:
    a = await store.commit([Put("/a", b"a")])
    b = await store.commit([Put("/b", b"b")])
    done = await store.commit([Put("/c", b"c"), Delete("/a")], compares=[Compare("/a", a), Compare("/b", b)])
    assert [entry.key for entry in (await store.list("")).entries] == ["/b", "/c"]
    with pytest.raises(Conflict, match="/c"):
        await store.commit([Put("/d", b"d")], compares=[Compare("/b", b), Compare("/c", done - 1)])


async def test_a_conflict_leaves_nothing(store: Store) -> None:
    present = await store.commit([Put("/a", b"1"), Put("/b", b"1")])
    before = await store.list("")
    with pytest.raises(Conflict):
        await store.commit(
            [Put("/new", b"2"), Delete("/a"), Put("/b", b"2")], compares=[Compare("/a", present), Compare("/b", 0)]
        )
    assert await store.list("") == before
    after = await store.commit([Put("/c", b"3")])
    assert await take(store.watch("", present), 1) == [(Event("/c", b"3", after),)]


async def test_a_commit_of_several_keys_has_one_version(store: Store) -> None:
    await store.commit([Put("/gone", b"")])
    version = await store.commit([Put("/a", b"1"), Delete("/gone"), Put("/b", b"2")])
    assert [entry.version for entry in (await store.list("")).entries] == [version, version]


# Watches


async def test_a_watch_gives_every_change_once_and_in_order_with_commits_whole(store: Store) -> None:
    start = await revision_of(store)
    watch = store.watch("/w/", start)
    one = await store.commit([Put("/w/a", b"1"), Put("/x", b"not watched"), Put("/w/b", b"2")])
    await store.commit([Put("/x", b"not watched")])
    two = await store.commit([Delete("/w/a"), Put("/w/b", b"3")])
    first = await take(watch, 2)
    three = await store.commit([Put("/w/a", b"4")])
    assert first + await take(watch, 1) == [
        (Event("/w/a", b"1", one), Event("/w/b", b"2", one)),
        (Event("/w/a", None, two), Event("/w/b", b"3", two)),
        (Event("/w/a", b"4", three),),
    ]


async def test_a_waiting_watch_wakes_for_commits_of_its_own_and_of_other_handles(handle: Open) -> None:
    own, other = await handle(), await handle()
    watch = own.watch("/", await revision_of(own))
    for writer in (other, own, other, own):
        waiting = asyncio.create_task(take(watch, 1))
        await asyncio.sleep(0.02)  # Only so that it really waits; the outcome does not depend on it.
        version = await writer.commit([Put("/a", b"1")])
        assert await waiting == [(Event("/a", b"1", version),)]


async def test_a_watch_begins_after_any_revision_that_is_known(store: Store) -> None:
    start = await revision_of(store)
    versions = [await store.commit([Put("/a", str(n).encode())]) for n in range(5)]
    for skipped, after in enumerate([start, *versions[:-1]]):
        events = await take(store.watch("/a", after), 5 - skipped)
        assert [event.value for (event,) in events] == [str(n).encode() for n in range(skipped, 5)]
        assert [event.version for (event,) in events] == versions[skipped:]


async def test_list_and_watch_from_its_revision_miss_nothing_and_repeat_nothing(handle: Open) -> None:
    writer, reader = await handle(), await handle()
    total = 40  # Fewer than are kept.

    async def write() -> None:
        for n in range(total):
            await writer.commit([Put(f"/{n % 7}", str(n).encode())])

    writing = asyncio.create_task(write())
    for _ in range(4):
        snapshot = await reader.list("/")
        view = {entry.key: entry.value for entry in snapshot.entries}
        last = snapshot.revision
        watch = reader.watch("/", last)
        while view.get(f"/{(total - 1) % 7}") != str(total - 1).encode():
            ((event,),) = await take(watch, 1)
            assert event.version > last
            assert event.value is not None
            last, view[event.key] = event.version, event.value
        assert view == {entry.key: entry.value for entry in (await writer.list("/")).entries}
    await writing


async def test_many_watches_see_the_same(handle: Open) -> None:
    handles = [await handle(), await handle()]
    start = await revision_of(handles[0])
    watching = [asyncio.create_task(take(handles[n % 2].watch("/", start), 20)) for n in range(6)]
    for n in range(20):
        await handles[n % 2].commit([Put("/a", str(n).encode())])
    seen = await asyncio.gather(*watching)
    assert [event.value for (event,) in seen[0]] == [str(n).encode() for n in range(20)]
    assert all(other == seen[0] for other in seen)


async def test_a_watch_from_before_what_is_kept_is_lost(store: Store) -> None:
    first = await store.commit([Put("/a", b"0")])
    waiting = store.watch("/a", first)
    quiet = store.watch("/quiet", first)
    for n in range(KEPT_COMMITS):
        last = await store.commit([Put("/a", str(n).encode())])
    assert len(await take(store.watch("/a", first), KEPT_COMMITS)) == KEPT_COMMITS
    after_all = await store.commit([Put("/a", b"one more")])
    for watch in (waiting, quiet, store.watch("/a", first)):
        with pytest.raises(WatchLost):
            await take(watch, 1)
    assert await take(store.watch("/a", last), 1) == [(Event("/a", b"one more", after_all),)]


async def test_who_follows_sees_what_stands_there_though_changes_may_be_lost(store: Store) -> None:
    await store.commit([Put("/a/1", b"1"), Put("/a/2", b"2")])
    seen: dict[str, bytes | None] = {}
    async with contextlib.aclosing(updates(store, "/a")) as following, asyncio.timeout(20):
        seen |= {event.key: event.value for event in (await anext(following)).events}
        assert seen == {"/a/1": b"1", "/a/2": b"2"}
        await store.commit([Put("/a/1", b"one"), Delete("/a/2")])
        for n in range(KEPT_COMMITS + 1):
            await store.commit([Put("/a/3", str(n).encode())])
        while seen.get("/a/3") != str(KEPT_COMMITS).encode():
            update = await anext(following)
            seen = ({} if update.complete else seen) | {event.key: event.value for event in update.events}
    assert {key: value for key, value in seen.items() if value is not None} == {
        "/a/1": b"one",
        "/a/3": str(KEPT_COMMITS).encode(),
    }


async def test_a_watch_that_keeps_up_is_not_lost_even_where_nothing_matches_it(store: Store) -> None:
    watch = store.watch("/quiet", await revision_of(store))
    waiting = asyncio.create_task(take(watch, 1))
    for n in range(3 * KEPT_COMMITS):
        await store.commit([Put("/a", str(n).encode())])
        if n % 10 == 0:
            assert not waiting.done()
    version = await store.commit([Put("/quiet", b"")])
    assert await waiting == [(Event("/quiet", b"", version),)]


async def test_what_was_there_before_a_compaction_stays(store: Store) -> None:
    first = await store.commit([Put("/a", b"1")])
    for n in range(10):
        last = await store.commit([Put("/b", b"%d" % n)])
    await store.compact(last)
    await store.compact(last)
    await store.compact(first)
    assert await store.get("/a") == Entry("/a", b"1", first)
    await store.commit([Put("/a", b"2")], compares=[Compare("/a", first)])
    version = await store.commit([Put("/b", b"new")])
    assert (await take(store.watch("/b", last), 1)) == [(Event("/b", b"new", version),)]


async def test_close_ends_watches_and_every_later_call_says_so(handle: Open) -> None:
    store, other = await handle(), await handle()
    start = await revision_of(store)

    async def count(watch: AsyncIterator[tuple[Event, ...]]) -> int:
        return len([events async for events in watch])

    seen = asyncio.create_task(count(store.watch("/", start)))
    idle = store.watch("/", start)
    await take(store.watch("/", start), 0)
    await other.commit([Put("/a", b"1")])
    await take(store.watch("/", start), 1)
    await asyncio.gather(store.close(), store.close())
    async with asyncio.timeout(20):
        assert await seen <= 1
        assert await count(idle) == 0
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.get("/a"),
        lambda: store.list("/a"),
        lambda: store.commit([Put("/a", b"2")]),
        lambda: store.grant(1.0),
        lambda: store.keep_alive("x"),
        lambda: store.revoke("x"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="closed"):
            await call()
    with pytest.raises(StoreError, match="closed"):
        store.watch("/", start)
    await store.close()
    entry = await other.get("/a")
    assert entry is not None
    assert entry.value == b"1"


async def test_abandoned_watches_leave_the_store_working(store: Store) -> None:
    start = await store.commit([Put("/a", b"0")])
    version = await store.commit([Put("/a", b"1")])
    for _ in range(10):
        async for _ in store.watch("/", start):
            break
        cancelled = asyncio.create_task(take(store.watch("/", version), 1))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        closed = store.watch("/", start)
        await take(closed, 1)
        await closed.aclose()
    gc.collect()
    assert await take(store.watch("/", start), 1) == [(Event("/a", b"1", version),)]


# Leases


async def test_a_key_goes_with_its_lease_and_waiting_watches_are_told(handle: Open) -> None:
    store, other = await handle(), await handle()
    watch = other.watch("/l/", await revision_of(store))
    ttl_s = 0.1
    while True:
        # On a machine that stands still for a moment the lease may be over before it is used; then a longer one.
        lease = await store.grant(ttl_s)
        with contextlib.suppress(LeaseLost):
            version = await store.commit([Put("/l/b", b"1", lease), Put("/l/a", b"2", lease), Put("/l/c", b"3")])
            break
        ttl_s *= 2
    put, (first, second) = await take(watch, 2)
    assert [event.version for event in put] == [version] * 3
    assert (first.key, first.value, second.key, second.value) == ("/l/a", None, "/l/b", None)
    assert first.version == second.version > version
    assert [entry.key for entry in (await store.list("/l/")).entries] == ["/l/c"]
    with pytest.raises(LeaseLost, match=lease):
        await store.keep_alive(lease)


async def test_expired_entries_are_gone_for_whoever_asks_first(handle: Open, clock: JumpingClock) -> None:
    store, other = await handle(), await handle()
    lease = await store.grant(LONG_S)
    keys = ["/a", "/b", "/c"]
    version = await store.commit([Put(key, b"1", lease) for key in keys])
    clock.end_leases(LONG_S)
    assert await other.get("/a") is None
    assert (await other.list("")).entries == ()
    with pytest.raises(Conflict):
        await other.commit([Put("/b", b"3")], compares=[Compare("/b", version)])
    written = await other.commit([Put("/a", b"3")], compares=[Compare("/a", 0)])
    assert await store.get("/a") == Entry("/a", b"3", written)
    expiry, put = await take(store.watch("", version), 2)
    assert [(event.key, event.value) for event in expiry] == [(key, None) for key in keys]
    assert put == (Event("/a", b"3", written),)


async def test_expiry_is_noticed_by_a_commit_with_the_lease(store: Store, clock: JumpingClock) -> None:
    lease = await store.grant(LONG_S)
    await store.commit([Put("/a", b"1", lease)])
    clock.end_leases(LONG_S)
    with pytest.raises(LeaseLost, match=lease):
        await store.commit([Put("/b", b"1", lease)])
    with pytest.raises(LeaseLost, match=lease):
        await store.keep_alive(lease)
    await store.revoke(lease)
    assert (await store.list("")).entries == ()


async def test_a_lease_that_is_kept_alive_outlives_its_time(handle: Open, clock: JumpingClock) -> None:
    store, other = await handle(), await handle()
    kept, left = await store.grant(LONG_S), await store.grant(LONG_S)
    await store.commit([Put("/kept", b"", kept), Put("/left", b"", left)])
    for _ in range(3):
        clock.advance(LONG_S / 2)
        await other.keep_alive(kept)
    assert [entry.key for entry in (await store.list("")).entries] == ["/kept"]
    clock.end_leases(LONG_S)
    assert (await store.list("")).entries == ()


async def test_revoke_deletes_what_is_bound_and_nothing_else(store: Store) -> None:
    lease, other = await store.grant(LONG_S), await store.grant(LONG_S)
    version = await store.commit([Put("/a", b"", lease), Put("/b", b"", other), Put("/c", b"")])
    await store.revoke(lease)
    ((event,),) = await take(store.watch("", version), 1)
    assert (event.key, event.value) == ("/a", None)
    assert [entry.key for entry in (await store.list("")).entries] == ["/b", "/c"]
    revision = await revision_of(store)
    await store.revoke(lease)
    await store.revoke("never granted")
    assert await revision_of(store) == revision
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease)


async def test_a_put_with_a_lease_that_is_gone_does_nothing(store: Store) -> None:
    lease = await store.grant(LONG_S)
    await store.revoke(lease)
    before = await store.list("")
    for gone in (lease, "never granted"):
        with pytest.raises(LeaseLost, match=gone):
            await store.commit([Put("/a", b""), Put("/b", b"", gone)])
    assert await store.list("") == before


async def test_a_put_binds_anew(store: Store) -> None:
    first, second = await store.grant(LONG_S), await store.grant(LONG_S)
    await store.commit([Put("/free", b"1", first), Put("/moved", b"1", first), Put("/reborn", b"1", first)])
    await store.commit([Put("/free", b"2"), Put("/moved", b"2", second), Delete("/reborn")])
    await store.commit([Put("/reborn", b"2")])
    await store.revoke(first)
    assert [entry.key for entry in (await store.list("")).entries] == ["/free", "/moved", "/reborn"]
    await store.revoke(second)
    assert [entry.key for entry in (await store.list("")).entries] == ["/free", "/reborn"]


async def test_a_lease_outlives_the_handle_that_granted_it(handle: Open) -> None:
    store, other = await handle(), await handle()
    lease = await store.grant(LONG_S)
    await store.commit([Put("/a", b"", lease)])
    await store.close()
    await other.keep_alive(lease)
    assert await other.get("/a") is not None


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan")])
async def test_a_lease_needs_a_positive_time(store: Store, ttl_s: float) -> None:
    with pytest.raises(InvalidInput):
        await store.grant(ttl_s)


# Concurrency and cancellation


async def increment(store: Store, key: str) -> int:
    """Add one to a counter by compare-and-set; the number of conflicts on the way."""
    conflicts = 0
    while True:
        entry = await store.get(key)
        version, value = (0, 0) if entry is None else (entry.version, int(entry.value))
        try:
            await store.commit([Put(key, str(value + 1).encode())], compares=[Compare(key, version)])
        except Conflict:
            conflicts += 1
        else:
            return conflicts


async def test_increments_by_many_tasks_add_up(handle: Open) -> None:
    handles = [await handle(), await handle(), await handle()]

    async def work(store: Store) -> int:
        return sum([await increment(store, "/n") for _ in range(8)])

    conflicts = await asyncio.gather(*(work(handles[n % 3]) for n in range(9)))
    entry = await handles[0].get("/n")
    assert entry is not None
    assert int(entry.value) == 72
    assert sum(conflicts) > 0, "the tasks never met; the test proves nothing"


async def test_a_cancelled_commit_is_done_wholly_or_not_at_all_and_blocks_nobody(handle: Open) -> None:
    store, other = await handle(), await handle()
    for turns in range(12):
        keys = [f"/{turns}/{n}" for n in range(5)]
        commit = asyncio.create_task(store.commit([Put(key, b"") for key in keys]))
        for _ in range(turns):
            await asyncio.sleep(0)
        commit.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await commit
        await other.commit([Put("/after", str(turns).encode())])
        assert await store.get("/after") == await other.get("/after")
        assert len((await store.list(f"/{turns}/")).entries) in (0, 5)


async def test_a_put_and_the_end_of_its_lease_at_once_leave_nothing(handle: Open) -> None:
    one, other = await handle(), await handle()
    for n in range(10):
        lease = await one.grant(LONG_S)
        await one.commit([Put(f"/bound/{n}/before", b"", lease)])
        results = await asyncio.gather(
            one.commit([Put(f"/bound/{n}/at-once", b"", lease)]),
            other.revoke(lease),
            one.keep_alive(lease),
            return_exceptions=True,
        )
        assert all(not isinstance(result, BaseException) or isinstance(result, LeaseLost) for result in results)
        assert not isinstance(results[1], BaseException)
        with pytest.raises(LeaseLost):
            await one.commit([Put(f"/bound/{n}/after", b"", lease)])
        with pytest.raises(LeaseLost):
            await other.keep_alive(lease)
    assert (await one.list("/bound/")).entries == ()


async def test_a_key_that_is_bound_anew_outlives_the_lease_that_it_had(store: Store) -> None:
    first, second = await store.grant(LONG_S), await store.grant(LONG_S)
    await store.commit([Put("/a", b"1", first)])
    _, revoked = await asyncio.gather(
        store.commit([Put("/a", b"2", second)]), store.revoke(first), return_exceptions=True
    )
    assert revoked is None
    entry = await store.get("/a")
    # It was bound anew before the first lease ended, or has gone with that and come again.
    assert entry is not None
    assert entry.value == b"2"
    await store.revoke(second)
    assert await store.get("/a") is None
