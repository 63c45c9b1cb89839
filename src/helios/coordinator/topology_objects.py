"""What topologies are stored as, beside the one record that is written with each: what is there, and what may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from helios.ports.clock import Clock
from helios.ports.records import OBJECTS, PAIRS
from helios.ports.store import Delete, Operation, Put, Store
from helios.ports.topology_records import StoredObject, TopologyRecord, pairs_of

_GRACE_S = 5.0  # for readers who know of a topology and have yet to read what it names


class TopologyObjects:
    """The keys under /objects/, as one coordinator knows them, and those of pairs that belong to no current base."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._keys: dict[str, set[str]] = {}  # by digest
        self._unnamed: dict[str, float] = {}  # by digest: since when no topology names it
        self._base = ""

    @property
    def unnamed(self) -> bool:
        """Whether any are there that no topology has named for a while, and that are to go."""
        return bool(self._unnamed)

    async def look(self) -> None:
        """Read which objects there are. Raises StoreError."""
        for entry in (await self._store.list(OBJECTS)).entries:
            self._keys.setdefault(_digest(entry.key), set()).add(entry.key)

    def lacking(self, objects: Iterable[StoredObject]) -> Iterator[Put]:
        """The operations that write those that are not there."""
        for one in objects:
            there = self._keys.get(one.digest, set())
            yield from (put for put in one.puts if put.key not in there)

    def written(self, objects: Iterable[StoredObject]) -> None:
        """These are there now."""
        for one in objects:
            self._keys[one.digest] = {put.key for put in one.puts}
            self._unnamed.pop(one.digest, None)

    async def outdated(self, record: TopologyRecord) -> list[Operation]:
        """What removes all that the topology of `record` does not need, and has not for a while."""
        now_s = self._clock.monotonic()
        self._unnamed = {
            digest: self._unnamed.get(digest, now_s) for digest in self._keys if digest not in record.objects
        }
        over = [digest for digest, since_s in self._unnamed.items() if now_s - since_s >= _GRACE_S]
        keys = [key for digest in sorted(over) for key in sorted(self._keys[digest])]
        if record.base != self._base:
            mine = pairs_of(record.base)
            keys += [e.key for e in (await self._store.list(PAIRS)).entries if not e.key.startswith(mine)]
            self._base = record.base
        return [Delete(key) for key in keys]

    def removed(self, operations: Iterable[Operation]) -> None:
        """These are gone."""
        for operation in operations:
            digest = _digest(operation.key)
            if digest in self._keys:
                self._keys[digest].discard(operation.key)
                if not self._keys[digest]:
                    del self._keys[digest]


def _digest(key: str) -> str:
    return key.removeprefix(OBJECTS).partition("/")[0]
