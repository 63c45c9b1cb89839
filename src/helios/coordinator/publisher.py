"""The only way into the store for a coordinator: every commit also compares its term."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from helios.coordinator.topology_objects import TopologyObjects
from helios.errors import Conflict, StoreError
from helios.model.topology import NodeKind, Topology
from helios.ports.clock import Clock
from helios.ports.records import DEPARTED, TERM, TOPOLOGY, put_record
from helios.ports.store import Compare, Delete, Put, Store
from helios.ports.topologies import TopologyReader
from helios.ports.topology_records import StoredTopology, stored

_TIDY_S = 1.0


class Replaced(StoreError):
    """Another coordinator has been elected: this one can publish nothing any more."""

    code = "REPLACED"


class Publisher:
    """The topology as this coordinator last published or read it, and commits fenced by its term.

    After a StoreError other than Replaced the outcome is unknown; the term is to end and the next
    one begins from what the store then says.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        topology: Topology,
        topology_version: int,
        term: int,
        term_version: int,
        stored_as: StoredTopology | None = None,
    ) -> None:
        self.store = store
        self.topology = topology
        self.term = term
        self._topology_version = topology_version
        self._term_version = term_version
        self._stored = stored_as
        self._objects = TopologyObjects(store, clock)
        self._lock = asyncio.Lock()

    @classmethod
    async def open(cls, store: Store, clock: Clock, term: int, term_version: int) -> Publisher:
        """A publisher for a term just won; the first topology of a cluster is made here."""
        reader = TopologyReader(store)
        record = await reader.read()
        if record is not None:
            publisher = cls(store, clock, record.value, record.version, term, term_version, reader.stored)
            await publisher._objects.look()
            return publisher
        publisher = cls(store, clock, Topology(epoch=0), 0, term, term_version)
        await publisher._objects.look()
        await publisher.publish(lambda topology: topology)
        return publisher

    async def publish(
        self,
        change: Callable[[Topology], Topology],
        operations: Sequence[Put | Delete] = (),
        compares: Sequence[Compare] = (),
    ) -> Topology:
        """Commit `change` of the topology as the next epoch, together with `operations`.

        Raises Replaced, or Conflict where one of `compares` fails, having written nothing that anybody reads; and
        whatever `change` raises. What the topology names by digest is written before it.
        """
        async with self._lock:
            following = replace(change(self.topology), epoch=self.topology.epoch + 1)
            made, objects = stored(following, self._stored)
            for put in self._objects.lacking(objects):
                await self._commit([put], [])
            self._objects.written(objects)
            mine = Compare(TOPOLOGY, self._topology_version)
            topology = made.records(self._stored)
            self._topology_version = await self._commit(
                [*topology, *_departed(self.topology, following), *operations], [mine, *compares]
            )
            self._stored = made
            self.topology = following
            return following

    async def write(self, operations: Sequence[Put | Delete], compares: Sequence[Compare] = ()) -> int:
        """Commit operations that do not touch the topology. Raises Conflict where one of `compares` fails.

        Commits are made one at a time in the order of the calls, so that no record is overwritten by an older state.
        """
        async with self._lock:
            return await self._commit(operations, compares)

    async def keep_tidy(self) -> None:
        """For ever: remove what topologies of before were stored as. Raises StoreError."""
        while True:
            await asyncio.sleep(_TIDY_S)
            await self.tidy()

    async def tidy(self) -> None:
        """Remove what no topology has named for long enough that every reader has seen a later one."""
        async with self._lock:
            if self._stored is not None:
                for operations in await self._objects.outdated(self._stored.record):
                    await self._commit(operations, [])
                    self._objects.removed(operations)

    async def confirm(self) -> None:
        """Raise Replaced if another coordinator has been elected."""
        entry = await self.store.get(TERM)
        if entry is None or entry.version != self._term_version:
            raise Replaced(f"coordinator of term {self.term} has been replaced")

    async def _commit(self, operations: Sequence[Put | Delete], compares: Sequence[Compare]) -> int:
        try:
            return await self.store.commit(operations, compares=[*compares, Compare(TERM, self._term_version)])
        except Conflict:
            await self.confirm()
            for compare in compares:
                if compare.key == TOPOLOGY and await self._version(TOPOLOGY) != compare.version:
                    raise Replaced("the topology was published by somebody else") from None
            raise

    async def _version(self, key: str) -> int:
        entry = await self.store.get(key)
        return 0 if entry is None else entry.version


def _departed(before: Topology, after: Topology) -> list[Put]:
    """The servers of external nodes that leave: they are to be left without our users."""
    left = {node.id for node in before.nodes if node.kind is NodeKind.EXTERNAL and after.node(node.id) is None}
    members = (member for shard in before.shards for member in shard.members if member.node in left)
    return [put_record(DEPARTED + member.id, member) for member in members]
