"""Reading the topology from the store, and following it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from helios.errors import StoreError, WatchLost
from helios.model.topology import Topology
from helios.ports.following import updates
from helios.ports.records import OBJECTS, TOPOLOGY, Record
from helios.ports.store import Store
from helios.ports.topology_records import Assembly, StoredTopology, TopologyRecord, unpacked

logger = logging.getLogger(__name__)

_TRIES = 10
_RETRY_S = 0.5
_SAMPLES_A_S = 20  # by all nodes together


class TopologyReader:
    """Knows the objects of the topology that it last read, so that it reads only what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._assembly = Assembly()
        self._reading = asyncio.Lock()
        self.stored: StoredTopology | None = None  # as it was last read, if it was in the form of today

    async def read(self) -> Record[Topology] | None:
        """The topology as it stands, None where no cluster has been founded. Raises StoreError."""
        async with self._reading:
            for _ in range(_TRIES):
                entries = (await self._store.list(TOPOLOGY)).entries
                self._assembly.begin((entry.key, entry.value) for entry in entries)
                try:
                    topology = await self._assembled()
                except WatchLost:
                    continue
                version = next((entry.version for entry in entries if entry.key == TOPOLOGY), 0)
                return None if topology is None else Record(TOPOLOGY, topology, version)
        raise StoreError("the topology cannot be read: the store does not have the objects that it names")

    async def followed(self, retry_s: float = _RETRY_S) -> AsyncGenerator[Topology, None]:
        """The topology as it stands, and again each time it changes, whatever happens to the store meanwhile.

        Ends when the store is closed. Topologies that follow each other closely may be left out, the last one never.
        """
        while True:
            try:
                async with aclosing(updates(self._store, TOPOLOGY)) as following:
                    async for update in following:
                        if update.complete:
                            self._assembly.begin((e.key, e.value) for e in update.events if e.value is not None)
                        elif not self._assembly.take(update.events):
                            continue
                        topology = await self._assembled()
                        if topology is not None:
                            yield topology
                return
            except StoreError as error:
                logger.warning("the topology cannot be followed: %s", error)
            await asyncio.sleep(retry_s)

    async def sampled(self) -> AsyncGenerator[Topology, None]:
        """The topology as it stands, and again as long as it is another one; for those on whom no client waits.

        Where epochs follow each other closely, as while keys move, each reader rests between two for `nodes / 20`
        seconds, in which none wakes it: a hundred agents that look at every epoch keep routers from the processor.
        """
        seen: Topology | None = None
        while (topology := await self._other_than(seen)) is not None:
            seen = topology
            yield topology
            await asyncio.sleep(len(topology.nodes) / _SAMPLES_A_S)

    async def _other_than(self, seen: Topology | None) -> Topology | None:
        async with aclosing(self.followed()) as topologies:
            async for topology in topologies:
                if topology != seen:
                    return topology
        return None

    async def _assembled(self) -> Topology | None:
        record = self._assembly.record
        self.stored = None
        if not isinstance(record, TopologyRecord):
            return record
        for digest in self._assembly.missing(record):
            parts = await self._store.list(f"{OBJECTS}{digest}/")
            data = unpacked(digest, [entry.value for entry in parts.entries])
            if data is None:
                raise WatchLost(f"the object {digest} of epoch {record.epoch} is gone: there is a later topology")
            self._assembly.give(record, digest, data)
        self.stored = self._assembly.stored(record)
        return self.stored.topology


async def read_topology(store: Store) -> Topology:
    """The topology as it stands, an empty one where no cluster has been founded. Raises StoreError."""
    record = await TopologyReader(store).read()
    return Topology(epoch=0) if record is None else record.value
