"""The topologies that are published, for who sees the commits and not the store, and for who publishes by hand."""

from __future__ import annotations

from collections.abc import Sequence

from helios.model.topology import Topology
from helios.ports.records import OBJECTS, TOPOLOGY
from helios.ports.store import Delete, Event, Put, Store
from helios.ports.topology_records import Assembly, StoredTopology, TopologyRecord, stored, unpacked


class Published:
    """Makes topologies of the commits that publish them. Objects that are read before they are there are an error."""

    def __init__(self) -> None:
        self._assembly = Assembly()
        self._objects: dict[str, dict[str, bytes]] = {}

    def committed(self, operations: Sequence[Put | Delete], revision: int) -> Topology | None:
        """The topology that a commit has published, None if it published none."""
        for operation in operations:
            if operation.key.startswith(OBJECTS):
                parts = self._objects.setdefault(operation.key.removeprefix(OBJECTS).partition("/")[0], {})
                if isinstance(operation, Put):
                    parts[operation.key] = operation.value
                else:
                    parts.pop(operation.key, None)
        if not self._assembly.take(
            Event(operation.key, operation.value if isinstance(operation, Put) else None, revision)
            for operation in operations
            if operation.key.startswith(TOPOLOGY)
        ):
            return None
        record = self._assembly.record
        if not isinstance(record, TopologyRecord):
            return record
        # Whatever a topology names must be there when it is published, so also what is known already is looked at.
        contents = {one: unpacked(one, [p for _, p in sorted(self._objects[one].items())]) for one in record.objects}
        for digest in self._assembly.missing(record):
            content = contents[digest]
            assert content is not None, f"epoch {record.epoch} names the object {digest}, which is not there"
            self._assembly.give(record, digest, content)
        return self._assembly.stored(record).topology


class HandPublisher:
    """Publishes topologies as a coordinator does, without being one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stored: StoredTopology | None = None

    async def publish(self, topology: Topology) -> None:
        """Write what the topology names by digest, and then the topology."""
        made, objects = stored(topology, self._stored)
        for put in (put for one in objects for put in one.puts):
            await self._store.commit([put])
        await self._store.commit(made.records(self._stored))
        self._stored = made
