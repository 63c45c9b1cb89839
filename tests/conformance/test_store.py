"""What every home of the store must do with records and commits; each test runs over all of them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.store_homes import Open, revision_of, take

from helios.errors import Conflict, InvalidInput, TooBig
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
