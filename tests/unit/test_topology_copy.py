"""What a node writes down of the topology, beside its data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.topologies import cluster

from helios.model.codec import decode
from helios.model.topology import Topology
from helios.node.files import DataFolder
from helios.node.topology_copy import keep_copy
from helios.ports.topology_records import stored
from helios.stores.memory import MemoryStore

NODES = ("a", "b", "c")


class Copies:
    """The epochs that the node `a` writes down of what is published."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.epochs: list[int] = []
        self._store = MemoryStore()
        self._folder = DataFolder(root).node("a")
        self._written: asyncio.Queue[int] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr("helios.node.topology_copy.write_private", self._write)

    def _write(self, path: Path, text: str) -> None:
        assert path == self._folder.topology
        self._loop.call_soon_threadsafe(self._written.put_nowait, decode(Topology, text.encode()).epoch)

    async def publish(self, topology: Topology) -> None:
        made, objects = stored(topology, None)
        for put in [put for one in objects for put in one.puts]:
            await self._store.commit([put])
        await self._store.commit(made.records(None))

    async def until(self, epoch: int) -> None:
        async with asyncio.timeout(5):
            while epoch not in self.epochs:
                self.epochs.append(await self._written.get())

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(keep_copy(self._store, self._folder, "a"))
        yield
        keeping.cancel()
        await asyncio.wait([keeping])
        assert keeping.cancelled()


async def test_of_many_epochs_the_last_is_kept_and_few_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies, first = Copies(tmp_path, monkeypatch), cluster(*NODES, epoch=1)
    await copies.publish(first)
    async with copies.kept():
        await copies.until(1)
        for epoch in range(2, 52):
            await copies.publish(replace(first, epoch=epoch))
            await asyncio.sleep(0)
        await copies.until(51)
    assert copies.epochs == sorted(copies.epochs)
    assert len(copies.epochs) < 25


async def test_a_topology_without_the_node_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(tmp_path, monkeypatch)
    await copies.publish(cluster(*NODES, epoch=1))
    async with copies.kept():
        await copies.until(1)
        await copies.publish(cluster("b", "c", epoch=2))
        await copies.publish(cluster(*NODES, epoch=3))
        await copies.until(3)
    assert 2 not in copies.epochs
