"""Taking over the keys of a server that joins with data of its own: each moves to its owner."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from helios.coordinator.access import Access, Identity
from helios.coordinator.import_doubts import Doubts
from helios.coordinator.import_end import named
from helios.coordinator.import_note import ImportNote, delete_note, mark_of
from helios.coordinator.publisher import Publisher
from helios.coordinator.rate import RateLimit
from helios.coordinator.sweep import REGISTER, SCAN_COUNT, make_durable
from helios.errors import Refused
from helios.model.migration import Migration, MigrationPhase, MigrationStatus
from helios.model.topology import Member
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Engine
from helios.ports.failpoints import OFF, Failpoints, Point
from helios.ports.records import MIGRATIONS, list_records, put_record
from helios.ports.store import Put

_BATCH_KEYS = 10_000
_COPY_KEYS = 200


@dataclass(slots=True)
class _Target:
    engine: Engine
    migration: Migration
    unbroken: bool  # the register has this import's mark, and so has every key that was registered since

    def count(self, keys: int) -> None:
        """So many more keys have come."""
        count = self.migration.keys_moved + keys
        total = max(count, self.migration.total_keys)
        self.migration = replace(self.migration, keys_moved=count, total_keys=total)


class Import:
    """Empties one server into the cluster, batch by batch: copy, make durable, delete.

    No other transition runs meanwhile. A key that the cluster has already is a conflict and stays where it is. The
    keys of a batch are noted in the store before they are copied, so that after a crash a key that is found on both
    sides is known to be this import's own work. A key is its owner's from the moment that it is copied, and clients
    may delete it there at once: so the owner registers it in the same step, and whoever goes on after a crash copies
    none a second time. Each register is marked before the batch is noted. Where a successor misses the mark, the owner
    was emptied, or lost what it had written last, and nobody knows which keys it has had: those that it does not have
    stay where they are, for a person to decide. So it is where a successor finds the joining server started anew: what
    has left it may be back, if it had not reached the disk. What an import before has left in doubt is not taken.
    Whoever still writes to the server directly must be stopped first: such writes are not followed.
    """

    def __init__(
        self,
        change: str,
        server: Member,
        *,
        publisher: Publisher,
        access: Access,
        rate: RateLimit,
        clock: Clock,
        new_id: Callable[[], str],
        failpoints: Failpoints = OFF,
    ) -> None:
        self._change = change
        self._note = ImportNote(publisher, change)
        self._mark = mark_of(change)
        self._server = server
        self._publisher = publisher
        self._access = access
        self._rate = rate
        self._clock = clock
        self._new_id = new_id
        self._failpoints = failpoints
        self._routes = Routes(publisher.topology)
        self._targets: dict[str, _Target] = {}
        self.batches = 0  # that have left the server
        self._total = 0
        self._run = ""
        self._begun: dict[str, Migration] = {}  # by a coordinator that is gone, by owner
        self._registered: set[bytes] = set()  # which their owners have had from an import that was not ended
        self._doubtful: set[bytes] = set()  # which an import before has left, and which are there still

    async def run(self) -> None:
        """Move every key. Raises Refused where keys are in conflict, EngineError where a server fails."""
        async with AsyncExitStack() as opened:
            identity = opened.enter_context(self._access.identity())
            source = await self._access.open(self._server, identity)
            opened.push_async_callback(source.close)
            self._total = await source.count()
            self._run = (await source.info()).run_id
            records = await list_records(self._publisher.store, Migration, MIGRATIONS)
            mine = [record.value for record in records if record.value.change == self._change]
            self._begun = {migration.target: migration for migration in mine if not migration.status.ended}
            conflicts: set[bytes] = set()
            await self._leave_doubtful(source)
            noted = await self._resume(source, identity, opened) - self._doubtful
            if noted:
                await self._settle_doubtful(source, identity, opened, noted)
                # As the batch that it was: among others its keys would pass for those of the cluster.
                await self._move(source, identity, opened, set(noted), noted)
            while True:
                moved, found = await self._pass(source, identity, opened, noted)
                conflicts |= found
                if not moved:
                    break
            self._check_left(conflicts)
            # The server joins now: what a power cut brought back to it would seem to be its own. Nor must registers.
            await make_durable(source, *(target.engine for target in self._targets.values()))
        await self._publisher.write_apart(self._ended(MigrationStatus.COMPLETED))
        await self._publisher.write_apart(await delete_note(self._publisher.store, self._change))

    def _check_left(self, conflicts: set[bytes]) -> None:
        """Raise Refused where some keys could not leave the server."""
        if conflicts:
            raise Refused(
                f"{len(conflicts)} keys of {self._server.address} exist in the cluster too and were left where they "
                f"are ({named(conflicts)}): delete them on one side and add the node again"
            )
        if self._doubtful:
            raise Refused(f"{self._server.address} still has keys that an import before has left")

    async def _leave_doubtful(self, source: Engine) -> None:
        """Take nothing of what an import before has left in doubt; what is there no longer has been decided about."""
        doubts = Doubts(self._publisher, self._server)
        before = sorted(await doubts.read())
        there = await source.exists(before) if before else []
        self._doubtful = {key for key, exists in zip(before, there, strict=True) if exists}
        await doubts.note(self._doubtful)

    async def _settle_doubtful(
        self, source: Engine, identity: Identity, opened: AsyncExitStack, noted: set[bytes]
    ) -> None:
        """Register what owners without a register have of the noted batch; Refused where they may have had more."""
        emptied: set[str] = set()
        for owner, keys in self._by_owner(noted).items():
            target = await self._target(owner, identity, opened)
            if target.unbroken:
                continue
            there = await target.engine.exists(keys)
            if any(there):
                has = [key for key, taken in zip(keys, there, strict=True) if taken]
                await target.engine.register(REGISTER, has)
                self._registered.update(has)
            absent = [key for key, taken in zip(keys, there, strict=True) if not taken]
            left = await source.exists(absent) if absent else []  # clients may have deleted these
            emptied |= {owner} if any(left) else set()
        if emptied:
            raise Refused(
                f"{', '.join(sorted(emptied))} lost keys, and the coordinator stopped, during the import from "
                f"{self._server.address}"
            )

    def _by_owner(self, keys: Collection[bytes]) -> dict[str, list[bytes]]:
        by_owner: dict[str, list[bytes]] = {}
        for key in sorted(keys):
            by_owner.setdefault(self._routes.owner(key), []).append(key)
        return by_owner

    async def _pass(
        self, source: Engine, identity: Identity, opened: AsyncExitStack, noted: set[bytes]
    ) -> tuple[int, set[bytes]]:
        """One walk through the server: how many keys left it, and those that could not."""
        moved = 0
        conflicts: set[bytes] = set()
        cursor = 0
        batch: set[bytes] = set()
        while True:
            cursor, keys = await source.scan(cursor, SCAN_COUNT)
            batch.update(key for key in keys if key not in self._doubtful)
            if len(batch) >= _BATCH_KEYS or cursor == 0:
                left, busy = await self._move(source, identity, opened, batch, noted)
                moved += left
                conflicts |= busy
                batch = set()
            if cursor == 0:
                return moved, conflicts

    async def _move(
        self, source: Engine, identity: Identity, opened: AsyncExitStack, keys: set[bytes], noted: set[bytes]
    ) -> tuple[int, set[bytes]]:
        """One batch to all its owners. Waiting for their disks is what costs, so they are waited for together."""
        by_owner = self._by_owner(keys)
        conflicts: set[bytes] = set()
        for owner, mine in by_owner.items():
            there = await (await self._target(owner, identity, opened)).engine.exists(mine)
            own = noted | self._registered
            conflicts |= {key for key, taken in zip(mine, there, strict=True) if taken and key not in own}
        moving = keys - conflicts
        if not moving:
            return 0, conflicts
        for owner in by_owner:
            await self._targets[owner].engine.register(REGISTER, [self._mark])
        await self._note.begin(moving, self._run)
        noted.clear()
        noted.update(moving)
        for owner, mine in by_owner.items():
            fresh = [key for key in mine if key in moving - self._registered]
            self._targets[owner].count(sum(key in moving for key in mine) - len(fresh))
            await self._copy(source, self._targets[owner], fresh)
        await self._failpoints.reach(Point.IMPORT_COPIED)
        filled = [self._targets[owner] for owner in by_owner]
        await make_durable(*(target.engine for target in filled))
        for owner in by_owner:
            await self._access.on_majority(owner, self._targets[owner].engine)
        # From here on a key that is not at its owner was deleted there by a client: it must not be copied again.
        await self._note.copied()
        await self._failpoints.reach(Point.IMPORTING)
        await source.delete(sorted(moving))
        for target in filled:
            await target.engine.delete([REGISTER])
        self._registered -= moving
        self.batches += 1
        await self._publisher.write_apart(
            [put_record(MIGRATIONS + target.migration.id, target.migration) for target in filled]
        )
        return len(moving), conflicts

    async def _copy(self, source: Engine, target: _Target, keys: list[bytes]) -> None:
        for start in range(0, len(keys), _COPY_KEYS):
            step = keys[start : start + _COPY_KEYS]
            await self._rate.take(len(step))
            values = await source.dump(step)
            present = [(key, value) for key, value in zip(step, values, strict=True) if value is not None]
            # A key that has appeared at its owner since was written by a client just now: the newer value stays.
            await target.engine.take_over(present, REGISTER)
            target.count(len(present))

    async def _target(self, owner: str, identity: Identity, opened: AsyncExitStack) -> _Target:
        target = self._targets.get(owner)
        if target is None:
            engine = await self._access.open(self._access.leader(owner), identity)
            opened.push_async_callback(engine.close)
            registered = await engine.registered(REGISTER)
            unbroken = self._mark in registered
            if unbroken:
                self._registered |= registered
            else:
                # Left by another import, or started over behind a loss: it does not tell of all keys of this batch.
                await engine.delete([REGISTER])
            now = self._clock.wall()
            migration = self._begun.pop(owner, None) or Migration(
                self._new_id(),
                self._change,
                self._server.node,
                owner,
                status=MigrationStatus.IN_PROGRESS,
                phase=MigrationPhase.COPYING,
                total_keys=round(self._total * self._routes.share(owner)),
                requested_at=now,
                start_time=now,
            )
            target = self._targets[owner] = _Target(engine, migration, unbroken)
        return target

    async def _resume(self, source: Engine, identity: Identity, opened: AsyncExitStack) -> set[bytes]:
        """End the batch that a coordinator before had copied as a whole; else the keys that it may have copied."""
        noted = await self._note.read()
        if noted is None:
            return set()
        keys, copied = noted
        if self._note.lost(self._run):
            raise Refused(f"the import from {self._server.address} cannot go on")
        if not copied:
            return keys
        await source.delete(sorted(keys))
        for owner in {self._routes.owner(key) for key in keys}:
            await (await self._target(owner, identity, opened)).engine.delete([REGISTER])
        self._registered -= keys
        return set()

    def _ended(self, status: MigrationStatus) -> list[Put]:
        now = self._clock.wall()
        migrations = [*(target.migration for target in self._targets.values()), *self._begun.values()]
        ended = [
            replace(one, status=status, phase=MigrationPhase.NONE, total_keys=one.keys_moved, end_time=now)
            for one in migrations
        ]
        return [put_record(MIGRATIONS + migration.id, migration) for migration in ended]
