"""What every home of the store must do with watches; each test runs over all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tests.store_homes import KEPT_COMMITS, Open, revision_of, take

from helios.errors import StoreError, WatchLost
from helios.ports.following import updates
from helios.ports.store import (
    Compare,
    Delete,
    Entry,
    Event,
    Put,
    Store,
)


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
