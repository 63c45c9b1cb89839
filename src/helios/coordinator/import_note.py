"""What an import notes in the store of the batch that it takes over: its keys, in as many parts as they need."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from helios.coordinator.publisher import Publisher
from helios.coordinator.sweep import REGISTER
from helios.model.codec import decode
from helios.ports.records import IMPORTS, put_record
from helios.ports.store import Delete, Put, Store

_PART_BYTES = 900_000


def mark_of(change: str) -> bytes:
    """What an import enters into each owner's register before it notes a batch: where it is missing, more may be."""
    return REGISTER + b":" + change.encode()


def packed(keys: Collection[bytes]) -> list[bytes]:
    """The keys in parts that fit into records."""
    content = zlib.compress(json.dumps([b64encode(key).decode() for key in sorted(keys)]).encode())
    return [content[start : start + _PART_BYTES] for start in range(0, len(content), _PART_BYTES)]


def unpacked(parts: Sequence[bytes]) -> set[bytes]:
    """The keys that these parts hold."""
    return {b64decode(key) for key in json.loads(zlib.decompress(b"".join(parts)))}


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """What stands at the note's own key: which batch, in how many parts, and whether all its keys are copied.

    And in which run of the joining server that was, by its run id.
    """

    batch: int
    parts: int
    copied: bool = False
    run: str = ""


@dataclass(slots=True)
class ImportNote:
    """The note of one import. Its first record says what counts: parts that it does not name are as good as gone."""

    publisher: Publisher
    change: str
    _record: NoteRecord = field(default=NoteRecord(0, 0))

    async def read(self) -> tuple[set[bytes], bool] | None:
        """The keys of the batch and whether they are all copied; None where none is under way. Raises StoreError."""
        snapshot = await self.publisher.store.list(IMPORTS + self.change)
        values = {entry.key: entry.value for entry in snapshot.entries}
        if IMPORTS + self.change not in values:
            return None
        whole = json.loads(values[IMPORTS + self.change])
        if "keys" in whole:  # a note in one piece, by the release before there were parts
            return {b64decode(key) for key in whole["keys"]}, whole["copied"]
        self._record = decode(NoteRecord, values[IMPORTS + self.change])
        parts = [values[self._key(self._record.batch, part)] for part in range(self._record.parts)]
        return unpacked(parts), self._record.copied

    def lost(self, run: str) -> bool:
        """Whether batches before this one have left the joining server in another run of it than this."""
        return self._record.batch > 1 and self._record.run != run

    async def begin(self, keys: Collection[bytes], run: str) -> None:
        """A batch is about to be copied, in this run of the joining server. Raises StoreError."""
        before = self._record
        parts = packed(keys)
        self._record = NoteRecord(before.batch + 1, len(parts), run=run)
        await self.publisher.write(
            [put_record(IMPORTS + self.change, self._record)],
            ahead=[Put(self._key(self._record.batch, number), part) for number, part in enumerate(parts)],
            behind=[Delete(self._key(before.batch, number)) for number in range(before.parts)],
        )

    async def copied(self) -> None:
        """All keys of the batch are copied. Raises StoreError."""
        self._record = replace(self._record, copied=True)
        await self.publisher.write([put_record(IMPORTS + self.change, self._record)])

    def _key(self, batch: int, part: int) -> str:
        return f"{IMPORTS}{self.change}/{batch}/{part:03d}"


async def delete_note(store: Store, change: str) -> list[Delete]:
    """What deletes the note of an import, what counts first. Raises StoreError."""
    return [Delete(entry.key) for entry in (await store.list(IMPORTS + change)).entries]
