"""The simulated etcd keeps the rules by which a real one surprises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from tests.simulation.etcd import SimEtcd, SimEtcdStore
from tests.simulation.loop import SimLoop

from helios.errors import Conflict, StoreError, WatchLost
from helios.ports.store import Compare, Put
from helios.stores.memory import MemoryStore

Test = Callable[[SimEtcd, SimEtcdStore], Coroutine[Any, Any, None]]


def _run(test: Test, *, survives: bool = True) -> None:
    loop = SimLoop()

    class Choice(Random):
        def random(self) -> float:
            return 0.0 if survives else 0.9

    async def life() -> None:
        etcd = SimEtcd(MemoryStore(), loop, Choice(0))
        await test(etcd, SimEtcdStore(etcd, loop, Random(0), 0.0, lambda *_: None))

    try:
        loop.run_until_complete(life())
    finally:
        loop.close()


def test_a_lease_lives_for_two_seconds_at_least_and_an_election_renews_it() -> None:
    async def test(etcd: SimEtcd, store: SimEtcdStore) -> None:
        lease = await store.grant(0.5)
        await store.commit([Put("/key", b"1", lease)])
        await asyncio.sleep(1.9)
        etcd.lose_leader()
        await asyncio.sleep(5)
        etcd.elect()
        await asyncio.sleep(1.9)
        assert await store.get("/key") is not None
        await asyncio.sleep(1)
        assert await store.get("/key") is None

    _run(test)


@pytest.mark.parametrize("survives", [True, False])
def test_the_outcome_of_a_commit_without_a_leader_is_unknown(survives: bool) -> None:
    async def test(etcd: SimEtcd, store: SimEtcdStore) -> None:
        etcd.lose_leader()
        with pytest.raises(StoreError, match="unknown"):
            await store.commit([Put("/key", b"1")], compares=[Compare("/key", 0)])
        etcd.elect()
        await asyncio.sleep(1)
        assert (await store.get("/key") is not None) == survives

    _run(test, survives=survives)


def test_a_write_that_comes_late_changes_nothing_newer() -> None:
    async def test(etcd: SimEtcd, store: SimEtcdStore) -> None:
        version = await store.commit([Put("/key", b"old")])
        late = asyncio.ensure_future(store.commit([Put("/key", b"late")], compares=[Compare("/key", version)]))
        etcd.lose_leader()
        await asyncio.sleep(0.1)
        await etcd.inner.commit([Put("/key", b"new")])
        etcd.elect()
        with pytest.raises(Conflict):
            await late
        entry = await store.get("/key")
        assert entry is not None and entry.value == b"new"

    _run(test)


def test_watches_break_with_the_leader_and_are_lost_behind_a_compaction() -> None:
    async def test(etcd: SimEtcd, store: SimEtcdStore) -> None:
        first = await store.commit([Put("/key", b"1")])
        coming = asyncio.ensure_future(anext(store.watch("/", first)))
        await asyncio.sleep(0.1)
        etcd.lose_leader()
        with pytest.raises(StoreError, match="no leader"):
            await coming
        with pytest.raises(StoreError, match="no leader"):
            await anext(store.watch("/", first))
        etcd.elect()
        for value in (b"2", b"3"):
            await store.commit([Put("/key", value)])
        (event,) = await anext(store.watch("/", first))
        assert event.value == b"2"
        etcd.compact(etcd.revision)
        with pytest.raises(WatchLost):
            await anext(store.watch("/", first))

    _run(test)
