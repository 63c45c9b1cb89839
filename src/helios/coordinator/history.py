"""What was done to the cluster, by whom and why: the last changes that have ended, and the last failovers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from helios.coordinator.publisher import Publisher
from helios.model.migration import Change, ChangeStatus, Migration, MigrationStatus
from helios.model.topology import Shard
from helios.ports.clock import Clock
from helios.ports.records import (
    FAILOVERS,
    HISTORY,
    MIGRATIONS,
    FailoverRecord,
    HistoryRecord,
    list_records,
    put_record,
)
from helios.ports.store import Delete, Operation, Put

logger = logging.getLogger(__name__)

KEPT = 200


class History:
    """Keeps a record of every change that was admitted, when it has ended; the oldest beyond `KEPT` go."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher = publisher
        self._clock = clock
        self._records: dict[str, HistoryRecord] | None = None

    async def note(self, change: Change) -> None:
        """Take a change down, once, if it has ended and was not refused. Raises StoreError."""
        if not change.status.ended or change.status is ChangeStatus.REFUSED:
            return
        records = await self._known()
        if change.id in records or (len(records) >= KEPT and change.id < min(records)):
            return
        listed = await list_records(self._publisher.store, Migration, MIGRATIONS)
        moves = [record.value for record in listed if record.value.change == change.id]
        ends = [move.end_time for move in moves if move.end_time is not None]
        moved = [move for move in moves if move.status is MigrationStatus.COMPLETED and move.keys_moved]
        records[change.id] = HistoryRecord(
            change,
            max(ends, default=self._clock.wall()),
            sum(move.keys_moved for move in moved),
            tuple(sorted({shard for move in moved for shard in (move.source, move.target)})),
            len(moves),
        )
        operations: list[Put | Delete] = [put_record(HISTORY + change.id, records[change.id])]
        for old in sorted(records)[:-KEPT]:
            del records[old]
            operations.append(Delete(HISTORY + old))
        await self._publisher.write_apart(operations)
        logger.info(
            "change ended: change=%s kind=%s by=%s status=%s keys=%d reason=%s",
            change.id,
            change.kind,
            change.origin,
            change.status,
            records[change.id].keys_moved,
            change.reason or change.error or "-",
        )

    async def rested_s(self) -> dict[str, float]:
        """For each shard that has given or taken keys how many seconds ago that ended."""
        now = self._clock.wall()
        rested: dict[str, float] = {}
        for record in (await self._known()).values():
            for shard in record.shards:
                rested[shard] = min(rested.get(shard, now), max(0.0, now - record.ended_at))
        return rested

    async def _known(self) -> dict[str, HistoryRecord]:
        if self._records is None:
            listed = await list_records(self._publisher.store, HistoryRecord, HISTORY)
            self._records = {record.value.change.id: record.value for record in listed}
        return self._records


class FailoverHistory:
    """Keeps a record of every lost leader that was replaced; the oldest beyond `KEPT` go."""

    def __init__(self, publisher: Publisher, clock: Clock, new_id: Callable[[], str]) -> None:
        self._publisher = publisher
        self._clock = clock
        self._new_id = new_id

    def begun(self, shard: Shard, reason: str) -> Callable[[str, bool], list[Operation]]:
        """A leader is lost. Tells what is to be written with the next, by whose node, and whether that is lossy."""
        began_at = self._clock.wall()

        def ended(leader: str, lossy: bool) -> list[Operation]:
            now_s, before = self._clock.wall(), shard.leading.node
            record = FailoverRecord(self._new_id(), shard.id, before, leader, reason, began_at, now_s, lossy)
            return [put_record(FAILOVERS + record.id, record)]

        return ended

    async def trim(self) -> None:
        """Let the oldest go. Raises StoreError."""
        listed = await self._publisher.store.list(FAILOVERS)
        old = sorted(entry.key for entry in listed.entries)[:-KEPT]
        if old:
            await self._publisher.write_apart([Delete(key) for key in old])
