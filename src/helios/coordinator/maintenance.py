"""Keeping the store small: what has ended is forgotten after a while, and so are the changes of long ago."""

from __future__ import annotations

import asyncio
import logging

from helios.coordinator.publisher import Publisher
from helios.model.migration import Change, Migration
from helios.ports.clock import Clock
from helios.ports.records import CANCELS, CHANGES, IMPORTS, MIGRATIONS, PAUSES, TERM, list_records
from helios.ports.store import Delete, Operation

logger = logging.getLogger(__name__)

EVERY_S = 300.0
KEPT = 1_000  # migrations and changes that have ended
KEPT_S = 3600.0  # even if they are more


class Maintenance:
    """Runs beside a coordinator's work.

    What was changed in the last five to ten minutes is known to watches; whoever was away for longer lists again. The
    newest thousand changes and migrations that have ended stay, and all of the last hour.
    """

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher = publisher
        self._clock = clock
        self._seen = 0

    async def run(self) -> None:
        """For ever. Raises StoreError."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.forget_ended()
            await self.compact()

    async def compact(self) -> None:
        """Let the store forget what was before the last time that this was called. Raises StoreError."""
        before = self._seen
        self._seen = (await self._publisher.store.list(TERM)).revision
        if before:
            await self._publisher.store.compact(before)

    async def forget_ended(self) -> None:
        """Delete old migrations and changes that have ended, and what belonged to them. Raises StoreError."""
        store, now = self._publisher.store, self._clock.wall()
        changes = {record.value.id: record.value for record in await list_records(store, Change, CHANGES)}
        running = {change.id for change in changes.values() if not change.status.ended}
        migrations = [record.value for record in await list_records(store, Migration, MIGRATIONS)]
        old = [one.id for one in migrations if one.status.ended and one.change not in running][:-KEPT]
        ended_at = {one.id: one.end_time or 0.0 for one in migrations}
        gone = {one for one in old if ended_at[one] < now - KEPT_S}
        operations: list[Operation] = [Delete(MIGRATIONS + one) for one in sorted(gone)]
        needed = {one.change for one in migrations if one.id not in gone}
        ended = [name for name in sorted(changes) if name not in running][:-KEPT]
        operations += [
            Delete(CHANGES + name) for name in ended if name not in needed and changes[name].requested_at < now - KEPT_S
        ]
        for prefix in (CANCELS, PAUSES, IMPORTS):
            keys = [entry.key for entry in (await store.list(prefix)).entries]
            operations += [Delete(key) for key in keys if key.removeprefix(prefix).partition("/")[0] not in running]
        if operations:
            await self._publisher.write_apart(operations)
            logger.info("forgotten: records=%d", len(operations))
