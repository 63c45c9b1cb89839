"""Keys that an import left at its server because nobody could tell whether their owners had had them.

Clients may have deleted them there since. So they are noted in the store, and no later import of the server takes them:
they are a person's to decide about, who sets in the cluster what is to come, and deletes them at the server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from helios.coordinator.import_note import packed, unpacked
from helios.coordinator.publisher import Publisher
from helios.model.codec import decode
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.records import DOUBTS, put_record
from helios.ports.store import Delete, Put


@dataclass(frozen=True, slots=True)
class DoubtsRecord:
    """Of which server some keys are in doubt; they follow in so many parts."""

    node: str
    address: Address
    parts: int


class Doubts:
    """The keys of one server that are in doubt. It is known by the node's id as well as by its address."""

    def __init__(self, publisher: Publisher, server: Member) -> None:
        self._publisher = publisher
        self._server = server

    async def read(self) -> set[bytes]:
        """All of them. Raises StoreError."""
        return set().union(*(await self._noted()).values())

    async def note(self, keys: Collection[bytes]) -> None:
        """These and no others are in doubt from now on. Raises StoreError."""
        before = await self._noted()
        if set(keys) == set().union(*before.values()):
            return
        parts = packed(keys) if keys else []
        name = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        snapshot = await self._publisher.store.list(DOUBTS)
        names = [entry.key.removeprefix(DOUBTS) for entry in snapshot.entries]
        replaced = before.keys() - {name}
        old = [Delete(DOUBTS + one) for one in names if one.partition("/")[0] in replaced]
        record = put_record(DOUBTS + name, DoubtsRecord(self._server.node, self._server.address, len(parts)))
        ahead = [Put(f"{DOUBTS}{name}/{number:03d}", part) for number, part in enumerate(parts)]
        await self._publisher.write([record] if keys else [], ahead=ahead, behind=old)

    async def _noted(self) -> dict[str, set[bytes]]:
        """What is noted of this server, by the names of the records."""
        snapshot = await self._publisher.store.list(DOUBTS)
        values = {entry.key.removeprefix(DOUBTS): entry.value for entry in snapshot.entries}
        noted: dict[str, set[bytes]] = {}
        for name, value in values.items():
            record = decode(DoubtsRecord, value) if "/" not in name else None
            if record and (record.node == self._server.node or record.address == self._server.address):
                noted[name] = unpacked([values[f"{name}/{number:03d}"] for number in range(record.parts)])
        return noted
