"""The records that users see of a transition, kept in step with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from helios.control.transition_state import Ending
from helios.model.migration import Change, ChangeStatus, Migration, MigrationPhase, MigrationStatus
from helios.model.topology import Pair, PairPhase, Transition
from helios.ports.clock import Clock
from helios.ports.records import CANCELS, CHANGES, MIGRATIONS, PAUSES, put_record
from helios.ports.store import Delete, Put

_PHASES = {
    PairPhase.COPYING: MigrationPhase.COPYING,
    PairPhase.FENCED: MigrationPhase.FENCED,
    PairPhase.SWITCHED: MigrationPhase.SWITCHED,
}
_REPLANNED = "not needed any more: what was asked for was planned anew when its turn came"


class MigrationRecords:
    """The change behind a transition and its migrations; every method gives the operations that record a step.

    They are committed together with the topology, so that what users see never runs ahead of the truth.
    """

    def __init__(self, change: Change, migrations: dict[str, Migration], clock: Clock) -> None:
        self.change = change
        self._migrations = migrations
        self._clock = clock
        self._fenced_at_s: dict[str, float] = {}

    def migration(self, migration_id: str) -> Migration | None:
        """A migration of this transition."""
        return self._migrations.get(migration_id)

    def started(self, pairs: tuple[Pair, ...], pattern: str) -> list[Put]:
        """The change runs, and each pair has a migration; one that waited as pending goes on."""
        now = self._clock.wall()
        for pair in pairs:
            if not pair.migration:
                continue
            known = self._migrations.get(pair.migration) or Migration(
                pair.migration, self.change.id, pair.source, pair.target, pattern, requested_at=now
            )
            self._migrations[pair.migration] = replace(
                known, status=MigrationStatus.IN_PROGRESS, phase=_PHASES[pair.phase], start_time=now
            )
        unneeded = [m for m in self._migrations.values() if m.status is MigrationStatus.PENDING]
        for migration in unneeded:
            self._end(migration, MigrationStatus.CANCELLED, _REPLANNED)
        return self._change(ChangeStatus.RUNNING) + self._puts(self._migrations)

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

    def reversed(self, transition: Transition, ending: Ending, back: Callable[[Pair], str]) -> list[Put | Delete]:
        """The transition is given up: its migrations end, and those that had switched get one that leads back.

        That one does not wait, though the change may have been paused: it is what lets the cluster come to rest.
        """
        status = MigrationStatus.CANCELLED if ending.cancelled else MigrationStatus.FAILED
        now = self._clock.wall()
        for pair in transition.pairs:
            migration = self._migrations.get(pair.migration)
            if migration is not None and not migration.status.ended:
                self._end(migration, status, ending.reason)
            if pair.phase is PairPhase.SWITCHED:
                reverse = Migration(
                    back(pair), self.change.id, pair.target, pair.source, migration.pattern if migration else "*"
                )
                self._migrations[reverse.id] = replace(
                    reverse,
                    status=MigrationStatus.IN_PROGRESS,
                    phase=MigrationPhase.COPYING,
                    requested_at=now,
                    start_time=now,
                )
        # The outcome is recorded at once; it does not change while the way back is still being gone.
        self.change = replace(self.change, error=ending.reason, cancelled=ending.cancelled)
        return [
            *self._change(ChangeStatus.RUNNING),
            *self._puts(self._migrations),
            Delete(PAUSES + self.change.id),
        ]

    def finished(self, *, reversing: bool) -> list[Put | Delete]:
        """The transition has ended."""
        for migration in list(self._migrations.values()):
            if not migration.status.ended:
                self._end(migration, MigrationStatus.COMPLETED)
        if not reversing:
            status = ChangeStatus.DONE
        else:
            status = ChangeStatus.CANCELLED if self.change.cancelled else ChangeStatus.FAILED
        wishes = (CANCELS + self.change.id, PAUSES + self.change.id)
        return [*self._change(status), *self._puts(self._migrations), *map(Delete, wishes)]

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

    def _change(self, status: ChangeStatus) -> list[Put]:
        self.change = replace(self.change, status=status)
        return [put_record(CHANGES + self.change.id, self.change)]

    def _puts(self, ids: Iterable[str]) -> list[Put]:
        return [put_record(MIGRATIONS + migration_id, self._migrations[migration_id]) for migration_id in ids]
