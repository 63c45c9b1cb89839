"""Migrations as users see them: listed, cancelled, paused, forgotten."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

from helios.admin import reports
from helios.admin.views import MigrationView
from helios.errors import NotFound, Refused, StoreError
from helios.model.codec import decode
from helios.model.migration import Change, Migration, MigrationStatus
from helios.ports.clock import Clock
from helios.ports.records import CANCELS, CHANGES, MIGRATIONS, PAUSES, list_records, read_record
from helios.ports.store import Delete, Put, Store, batches
from helios.ports.topologies import read_topology

_ANSWER_TIMEOUT_S = 8.0


class Migrations:
    """What the store has of them, and what is wished of those that run."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def records(self) -> list[Migration]:
        """What the store has of them, the oldest first."""
        return [record.value for record in await list_records(self._store, Migration, MIGRATIONS)]

    async def one(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""
        return self._view(await self._record_of(migration_id))

    async def all(self) -> list[MigrationView]:
        """All migrations, the oldest first."""
        return [self._view(migration) for migration in await self.records()]

    async def active(self) -> list[MigrationView]:
        """Those that are pending or in progress."""
        return [self._view(m) for m in await self.records() if not m.status.ended]

    async def cancel(self, migration_id: str) -> MigrationView:
        """Cancel the transition that the migration belongs to; raises NotFound, or Refused where it has ended.

        Returns when the migration has ended, or as it stands after a few seconds.
        """
        migration = await self._record_of(migration_id)
        if migration.status.ended:
            raise Refused(_ended_already(migration))
        running = (await read_topology(self._store)).transition
        if running is not None and running.change == migration.change and running.reversing:
            raise Refused(f"migration {migration_id} brings keys back after a cancellation: it cannot be cancelled")
        if running is not None and running.change == migration.change and running.no_way_back:
            raise Refused(
                f"keys that moved together with migration {migration_id} cannot come back, so it goes on: "
                f"{running.no_way_back}"
            )
        revision = await self._store.commit([Put(CANCELS + migration.change, b"1")])
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                migration = await self._ended(migration_id, revision)
        except TimeoutError:
            migration = await self._record_of(migration_id)
        return self._view(migration)

    async def pause(self, migration_id: str) -> MigrationView:
        """Let the copies of the migration's transition wait; what has changed is still followed, nothing is fenced."""
        return await self._wish_pause(migration_id, paused=True)

    async def resume(self, migration_id: str) -> MigrationView:
        """Let a paused migration go on."""
        return await self._wish_pause(migration_id, paused=False)

    async def _wish_pause(self, migration_id: str, *, paused: bool) -> MigrationView:
        migration = await self._record_of(migration_id)
        if migration.status.ended:
            raise Refused(f"migration {migration_id} is {migration.status} already")
        key = PAUSES + migration.change
        await self._store.commit([Put(key, b"1") if paused else Delete(key)])
        return replace(self._view(migration), paused=paused)

    async def cleanup(self) -> int:
        """Forget migrations that have ended; how many there were."""
        ended = [
            record for record in await list_records(self._store, Migration, MIGRATIONS) if record.value.status.ended
        ]
        changes = [record for record in await list_records(self._store, Change, CHANGES) if record.value.status.ended]
        operations = [Delete(record.key) for record in ended]
        for change in changes:
            operations += map(Delete, (CANCELS + change.value.id, PAUSES + change.value.id, change.key))
        for batch in batches(operations):
            await self._store.commit(batch)
        return len(ended)

    async def _ended(self, migration_id: str, revision: int) -> Migration:
        migration = await self._record_of(migration_id)
        if migration.status.ended:
            return migration
        async with aclosing(self._store.watch(MIGRATIONS + migration_id, revision)) as watch:
            async for events in watch:
                for event in events:
                    if event.value is not None and decode(Migration, event.value).status.ended:
                        return decode(Migration, event.value)
        raise StoreError("the store was closed while a cancellation was waiting for its end")

    async def _record_of(self, migration_id: str) -> Migration:
        record = await read_record(self._store, Migration, MIGRATIONS + migration_id)
        if record is None:
            raise NotFound(f"there is no migration {migration_id!r}: allmigrations lists those that there are")
        return record.value

    def _view(self, migration: Migration) -> MigrationView:
        return reports.migration_view(migration, self._clock.wall())


def _ended_already(migration: Migration) -> str:
    """Why a migration cannot be cancelled any more, and where its keys are."""
    after = {
        MigrationStatus.COMPLETED: "to bring its keys back, migrate them the other way",
        MigrationStatus.CANCELLED: "its keys are where they were before it",
        MigrationStatus.FAILED: "its keys are where they were before it",
    }
    return f"migration {migration.id} is {migration.status} already; {after[migration.status]}"
