"""The records that users see of a transition, kept in step with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from helios.control.transition_state import Ending
from helios.coordinator.publisher import Publisher
from helios.model.migration import Change, ChangeStatus, Migration, MigrationPhase, MigrationStatus
from helios.model.topology import Pair, PairPhase, Transition
from helios.ports.clock import Clock
from helios.ports.records import CANCELS, CHANGES, MIGRATIONS, PAUSES, list_records, put_record
from helios.ports.store import Delete, Operation, Put

_PHASES = {
    PairPhase.COPYING: MigrationPhase.COPYING,
    PairPhase.FENCED: MigrationPhase.FENCED,
    PairPhase.SWITCHED: MigrationPhase.SWITCHED,
}
_UNNEEDED = "not needed: when its turn came, no key had to go this way any more"


class Step(NamedTuple):
    """The records of a step: of the change, for the commit of the topology, and of its migrations, maybe too many."""

    change: list[Operation]
    migrations: list[Put]


class MigrationRecords:
    """The change behind a transition and its migrations; every method gives the operations that record a step.

    They are committed together with the topology, so that what users see never runs ahead of the truth. Where they
    are too many for one commit the topology is first; if its coordinator dies right behind it, `in_step` gives the
    next one what is missing.
    """

    def __init__(self, change: Change, migrations: dict[str, Migration], clock: Clock) -> None:
        self.change = change
        self._migrations = migrations
        self._clock = clock
        self._fenced_at_s: dict[str, float] = {}

    def migration(self, migration_id: str) -> Migration | None:
        """A migration of this transition."""
        return self._migrations.get(migration_id)

    def started(self, pairs: tuple[Pair, ...]) -> Step:
        """The change runs, and each pair has a migration; one that waited as pending goes on."""
        return Step(self._change(ChangeStatus.RUNNING), self._of(pairs, MigrationStatus.CANCELLED, _UNNEEDED))

    def in_step(self, transition: Transition) -> list[Put]:
        """What brings the migrations in step with a transition whose beginning or reversal was not recorded wholly."""
        if not transition.reversing:
            return self._of(transition.pairs, MigrationStatus.CANCELLED, _UNNEEDED)
        status = MigrationStatus.CANCELLED if self.change.cancelled else MigrationStatus.FAILED
        return self._of(transition.pairs, status, self.change.error)

    def _of(self, pairs: tuple[Pair, ...], otherwise: MigrationStatus, reason: str | None) -> list[Put]:
        """Each of the pairs has a migration that runs, and all others have ended in that way."""
        now = self._clock.wall()
        before = dict(self._migrations)
        running = {pair.migration: pair for pair in pairs if pair.migration}
        for name, pair in running.items():
            known = before.get(name)
            if known is None or known.status is MigrationStatus.PENDING:
                made = known or Migration(
                    name, self.change.id, pair.source, pair.target, self.change.pattern, requested_at=now
                )
                self._migrations[name] = replace(
                    made, status=MigrationStatus.IN_PROGRESS, phase=_PHASES[pair.phase], start_time=now
                )
        for name, migration in before.items():
            if name not in running and not migration.status.ended:
                self._end(migration, otherwise, reason)
        return self._puts(name for name, migration in self._migrations.items() if before.get(name) is not migration)

    def phase(self, pair: Pair) -> list[Put]:
        """The pair was fenced, unfenced or switched."""
        migration = self._migrations.get(pair.migration)
        if migration is None:
            return []
        if pair.phase is PairPhase.FENCED:
            self._fenced_at_s[pair.migration] = self._clock.monotonic()
        phase = MigrationPhase.CATCHING_UP if pair.phase is PairPhase.COPYING else _PHASES[pair.phase]
        slowed_ms = max(migration.slowed_ms, pair.slow_ms)
        self._migrations[pair.migration] = replace(migration, phase=phase, slowed_ms=slowed_ms)
        return self._puts([pair.migration])

    def paused(self, paused: bool) -> list[Put]:
        """Copies wait, or go on."""
        hit = [m for m in self._migrations.values() if not m.status.ended]
        for migration in hit:
            self._migrations[migration.id] = replace(migration, paused=paused)
        return self._puts([migration.id for migration in hit])

    def switched(self, pair: Pair) -> list[Put]:
        """The switch is published: how long the fence stood is known now."""
        migration = self._migrations.get(pair.migration)
        fenced_at_s = self._fenced_at_s.pop(pair.migration, None)
        if migration is None or fenced_at_s is None:
            return []
        pause_ms = round((self._clock.monotonic() - fenced_at_s) * 1000, 3)
        self._migrations[pair.migration] = replace(migration, pause_ms=pause_ms)
        return self._puts([pair.migration])

    def progress(
        self, migration_id: str, moved: int, total: int, phase: MigrationPhase | None, verified: int = 0
    ) -> list[Put]:
        """How far a copy is; nothing to write where it is no further than before."""
        before = self._migrations.get(migration_id)
        if before is None or before.status is not MigrationStatus.IN_PROGRESS:
            return []
        after = replace(
            before,
            keys_moved=moved,
            total_keys=max(total, moved),
            phase=phase or before.phase,
            verified=verified,
        )
        if after == before:
            return []
        self._migrations[migration_id] = after
        return self._puts([migration_id])

    def troubled(self, source: str, reason: str) -> list[Put]:
        """A copy from `source` has to start again: users see why while it is tried."""
        hit = [m for m in self._migrations.values() if m.source == source and m.status is MigrationStatus.IN_PROGRESS]
        for migration in hit:
            if migration.phase not in (MigrationPhase.SWITCHED, MigrationPhase.SWEEPING):
                self._migrations[migration.id] = replace(
                    migration, error=f"trying again: {reason}", phase=MigrationPhase.COPYING, keys_moved=0, verified=0
                )
        return self._puts([migration.id for migration in hit])

    def sweeping(self, shard: str) -> list[Put]:
        """The keys that left `shard` are being deleted from it."""
        hit = [m for m in self._migrations.values() if m.source == shard and m.status is MigrationStatus.IN_PROGRESS]
        for migration in hit:
            self._migrations[migration.id] = replace(migration, phase=MigrationPhase.SWEEPING)
        return self._puts([migration.id for migration in hit])

    def reversed(self, pairs: tuple[Pair, ...], ending: Ending) -> Step:
        """The transition is given up: its migrations end, and those that had switched get one that leads back.

        That one does not wait, though the change may have been paused: it is what lets the cluster come to rest.
        """
        # The outcome is recorded at once; it does not change while the way back is still being gone.
        self.change = replace(self.change, error=ending.reason, cancelled=ending.cancelled)
        status = MigrationStatus.CANCELLED if ending.cancelled else MigrationStatus.FAILED
        change = [*self._change(ChangeStatus.RUNNING), Delete(PAUSES + self.change.id)]
        return Step(change, self._of(pairs, status, ending.reason))

    def finished(self, *, reversing: bool) -> Step:
        """The transition has ended."""
        before = dict(self._migrations)
        for migration in before.values():
            if not migration.status.ended:
                self._end(migration, MigrationStatus.COMPLETED)
        if not reversing:
            status = ChangeStatus.DONE
        else:
            status = ChangeStatus.CANCELLED if self.change.cancelled else ChangeStatus.FAILED
        wishes = (CANCELS + self.change.id, PAUSES + self.change.id)
        ended = (name for name, migration in self._migrations.items() if before[name] is not migration)
        return Step([*self._change(status), *map(Delete, wishes)], self._puts(ended))

    def _end(self, migration: Migration, status: MigrationStatus, error: str | None = None) -> None:
        total = migration.keys_moved if status is MigrationStatus.COMPLETED else migration.total_keys
        self._migrations[migration.id] = replace(
            migration,
            status=status,
            phase=MigrationPhase.NONE,
            total_keys=total,
            start_time=migration.start_time or self._clock.wall(),
            end_time=self._clock.wall(),
            error=error,
            paused=False,
        )

    def _change(self, status: ChangeStatus) -> list[Operation]:
        self.change = replace(self.change, status=status)
        return [put_record(CHANGES + self.change.id, self.change)]

    def _puts(self, ids: Iterable[str]) -> list[Put]:
        return [put_record(MIGRATIONS + migration_id, self._migrations[migration_id]) for migration_id in ids]


_ENDS = {ChangeStatus.CANCELLED: MigrationStatus.CANCELLED, ChangeStatus.DONE: MigrationStatus.COMPLETED}


def ended_with(change: Change, migration: Migration, clock: Clock) -> Migration:
    """A migration that was still to come, or under way, when its change ended."""
    status = _ENDS.get(change.status, MigrationStatus.FAILED)
    return replace(migration, status=status, phase=MigrationPhase.NONE, error=change.error, end_time=clock.wall())


async def settle(publisher: Publisher, clock: Clock) -> None:
    """End the migrations whose change has ended, and forget those whose request is gone. Raises StoreError.

    For the beginning of a term: the coordinator before may have died between a change and its migrations.
    """
    # Migrations are listed first: a change that is made in between is known then.
    migrations = [record.value for record in await list_records(publisher.store, Migration, MIGRATIONS)]
    if all(migration.status.ended for migration in migrations):
        return
    changes = {record.value.id: record.value for record in await list_records(publisher.store, Change, CHANGES)}
    operations: list[Operation] = []
    for migration in migrations:
        change = changes.get(migration.change)
        if change is None and not migration.status.ended:
            operations.append(Delete(MIGRATIONS + migration.id))
        elif change is not None and change.status.ended and not migration.status.ended:
            operations.append(put_record(MIGRATIONS + migration.id, ended_with(change, migration, clock)))
    await publisher.write_apart(operations)
