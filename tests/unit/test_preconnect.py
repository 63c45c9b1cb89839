"""A router connects to every leader before its clients ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.topologies import cluster
from tests.waiting import until

from helios.router.upstream.preconnect import Preconnect


class Link:
    """A link whose first attempt ends when the test says so."""

    def __init__(self, shard: str, connected: list[str]) -> None:
        self.over = asyncio.Event()
        self._shard = shard
        self._connected = connected

    def connect(self) -> bool:
        if self._shard in self._connected:
            return False
        self._connected.append(self._shard)
        return True

    async def tried(self) -> None:
        await self.over.wait()


class Links:
    """The links of a router, by shard."""

    def __init__(self) -> None:
        self.connected: list[str] = []
        self._links: dict[str, Link] = {}

    def link(self, shard_id: str, variant: int) -> Link:
        assert variant == 2
        return self._links.setdefault(shard_id, Link(shard_id, self.connected))


@asynccontextmanager
async def running(preconnect: Preconnect) -> AsyncIterator[None]:
    task = asyncio.create_task(preconnect.run())
    yield
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_leaders_are_connected_to_one_after_the_other_each_node_beginning_behind_its_own() -> None:
    links = Links()
    preconnect = Preconnect(links)
    preconnect.apply(cluster("a", "b", "c", "d"), "b")
    async with running(preconnect):
        for number, shard in enumerate("cdab", start=1):
            await until(lambda number=number: len(links.connected) == number)  # type: ignore[misc]
            assert links.connected[-1] == shard
            links.link(shard, 2).over.set()


async def test_a_leader_that_comes_is_connected_to_and_the_others_are_left_alone() -> None:
    links = Links()
    preconnect = Preconnect(links)
    preconnect.apply(cluster("a", "b"), "a")
    for shard in "abc":
        links.link(shard, 2).over.set()
    async with running(preconnect):
        await until(lambda: links.connected == ["b", "a"])
        preconnect.apply(cluster("a", "b", "c"), "a")
        await until(lambda: links.connected == ["b", "a", "c"])


async def test_what_is_no_shard_any_more_is_not_connected_to() -> None:
    links = Links()
    preconnect = Preconnect(links)
    preconnect.apply(cluster("a", "b", "c"), "a")
    async with running(preconnect):
        await until(lambda: links.connected == ["b"])
        preconnect.apply(cluster("a", "b", "d"), "a")
        for shard in "abd":
            links.link(shard, 2).over.set()
        await until(lambda: len(links.connected) == 3)
    assert links.connected == ["b", "d", "a"]
