"""The only way into the store for a coordinator: every commit also compares its term."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from helios.coordinator.topology_objects import TopologyObjects
from helios.errors import Conflict, LeaseLost, StoreError, TooBig
from helios.model.ids import founder_id
from helios.model.topology import Member, NodeKind, Topology
from helios.ports.clock import Clock
from helios.ports.records import DEPARTED, TERM, TOPOLOGY, put_record
from helios.ports.store import Compare, Operation, Put, Store, batches, fits
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
        self._published = asyncio.Event()
        self._doubtful = False  # whether a commit may still be carried out that nobody waits for

    @property
    def revision(self) -> int:
        """The revision of the store at which the topology was published."""
        return self._topology_version

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
        operations: Sequence[Operation] = (),
        compares: Sequence[Compare] = (),
        *,
        ahead: Sequence[Operation] = (),
        behind: Sequence[Operation] = (),
    ) -> Topology:
        """Commit `change` of the topology as the next epoch, together with `operations`.

        Raises Replaced, or Conflict where one of `compares` fails, having written nothing that counts; and whatever
        `change` raises. What the topology names by digest is written before it; `ahead` and `behind` as by `write`.
        """
        async with self._lock:
            following = replace(change(self.topology), epoch=self.topology.epoch + 1)
            made, objects = stored(following, self._stored)
            for put in self._objects.lacking(objects):
                await self._commit([put], [])
            self._objects.written(objects)
            mine = Compare(TOPOLOGY, self._topology_version)
            topology = made.records(self._stored)
            together = [*topology, *_departed(self.topology, following), *operations]
            self._topology_version = await self._commit_around(together, [mine, *compares], ahead, behind)
            self._stored = made
            self.topology = following
            self._published.set()
            self._published = asyncio.Event()
            return following

    async def until(self, holds: Callable[[Topology], bool]) -> None:
        """Return when that holds of the topology."""
        while not holds(self.topology):
            await self._published.wait()

    async def unfenced(self) -> None:
        """Return when no shard is being failed over: until then nothing moves."""
        await self.until(lambda topology: not topology.fenced_shards)

    async def fenced(self, shard_id: str) -> None:
        """Return when routers are told to hold every command of the shard."""
        await self.until(lambda topology: shard_id in topology.fenced_shards)

    async def led_by(self, shard_id: str, member_id: str) -> None:
        """Return when that member leads the shard."""
        await self.until(lambda now: any(one.id == shard_id and one.leader == member_id for one in now.shards))

    async def vacated(self, node_id: str) -> None:
        """Return when a node carries members of no shard but its own."""
        await self.until(
            lambda topology: all(
                member.node != node_id for shard in topology.shards if shard.id != node_id for member in shard.servers
            )
        )

    async def write(
        self,
        operations: Sequence[Operation],
        compares: Sequence[Compare] = (),
        *,
        ahead: Sequence[Operation] = (),
        behind: Sequence[Operation] = (),
    ) -> int:
        """Commit operations that do not touch the topology. Raises Conflict where one of `compares` fails.

        Commits are made one at a time in the order of the calls, so that no record is overwritten by an older state.
        What is to be written `ahead` and `behind` is in the same commit if that has room; if not, a coordinator that
        dies in between leaves it to its successor (see `MigrationRecords.in_step` and `settle`).
        """
        async with self._lock:
            return await self._commit_around(operations, compares, ahead, behind)

    async def write_apart(self, operations: Sequence[Operation]) -> None:
        """Commit operations that need not stand together, in as many commits as the store wants for them."""
        async with self._lock:
            for batch in batches(operations, compares=1):
                await self._commit(batch, [])

    async def keep_tidy(self) -> None:
        """For ever: remove what earlier topologies were stored as. Raises StoreError."""
        while True:
            await asyncio.sleep(_TIDY_S)
            published = self._published
            if not self.topology.fences:  # clients wait for the next publication
                await self.tidy()
                if not self._objects.unnamed:
                    await published.wait()

    async def tidy(self) -> None:
        """Remove what no topology has named for long enough that every reader has seen a later one."""
        async with self._lock:
            if self._stored is not None:
                for batch in batches(await self._objects.outdated(self._stored.record), compares=1):
                    await self._commit(batch, [])
                    self._objects.removed(batch)

    async def confirm(self) -> None:
        """Raise Replaced if another coordinator has been elected."""
        entry = await self.store.get(TERM)
        if entry is None or entry.version != self._term_version:
            raise Replaced(f"coordinator of term {self.term} has been replaced")

    async def _commit_around(
        self,
        operations: Sequence[Operation],
        compares: Sequence[Compare],
        ahead: Sequence[Operation],
        behind: Sequence[Operation],
    ) -> int:
        if fits([*ahead, *operations, *behind], len(compares) + 1):
            return await self._commit([*ahead, *operations, *behind], compares)
        for batch in batches(ahead, compares=1):
            await self._commit(batch, [])
        version = await self._commit(operations, compares)
        for batch in batches(behind, compares=1):
            await self._commit(batch, [])
        return version

    async def _commit(self, operations: Sequence[Operation], compares: Sequence[Compare]) -> int:
        if self._doubtful:
            await self._shut_out_late_commits()
        self._doubtful = True
        try:
            version = await self.store.commit(operations, compares=[*compares, Compare(TERM, self._term_version)])
            self._doubtful = False
        except (LeaseLost, TooBig):
            self._doubtful = False
            raise
        except Conflict:
            self._doubtful = False
            await self.confirm()
            for compare in compares:
                if compare.key == TOPOLOGY and await self._version(TOPOLOGY) != compare.version:
                    raise Replaced("the topology was published by somebody else") from None
            raise
        return version

    async def _shut_out_late_commits(self) -> None:
        """After a commit that was cancelled, or whose answer was lost: it must not come behind what is written next."""
        term = [Put(TERM, str(self.term).encode())]
        try:
            self._term_version = await self.store.commit(term, compares=[Compare(TERM, self._term_version)])
        except Conflict:
            raise Replaced(f"coordinator of term {self.term} has been replaced") from None
        self._doubtful = False

    async def _version(self, key: str) -> int:
        entry = await self.store.get(key)
        return 0 if entry is None else entry.version


def _departed(before: Topology, after: Topology) -> list[Put]:
    """The servers of external nodes that leave: they are to be left without our users."""
    left = (node for node in before.nodes if node.kind is NodeKind.EXTERNAL and after.node(node.id) is None)
    members = (Member(founder_id(node.id), node.id, node.address) for node in left)
    return [put_record(DEPARTED + member.id, member) for member in members]
