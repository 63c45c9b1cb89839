"""What every home of the store must do with leases; each test runs over all of them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.store_homes import JumpingClock, Open, revision_of, take

from helios.errors import Conflict, InvalidInput, LeaseLost
from helios.ports.store import (
    Compare,
    Delete,
    Entry,
    Event,
    Put,
    Store,
)

LONG_S = 60.0


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
