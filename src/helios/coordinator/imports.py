"""Taking over the keys of a server that joins with data of its own: each moves to its owner."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from helios.coordinator.access import Access, Identity
from helios.coordinator.publisher import Publisher
from helios.coordinator.rate import RateLimit
from helios.coordinator.sweep import REGISTER, SCAN_COUNT, make_durable
from helios.errors import EngineError, NotFound, Refused
from helios.model.migration import Migration, MigrationPhase, MigrationStatus
from helios.model.topology import Member
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Engine
from helios.ports.failpoints import OFF, Failpoints, Point
from helios.ports.records import IMPORTS, MIGRATIONS, list_records, put_record
from helios.ports.store import Delete, Put

_NAMED = 5
_BATCH_KEYS = 10_000
_COPY_KEYS = 200


@dataclass(slots=True)
class _Way:
    engine: Engine
    migration: Migration
    unbroken: bool  # the register has this import's mark, and so has every key that was registered since


class Import:
    """Empties one server into the cluster, batch by batch: copy, make durable, delete.

    No other transition runs meanwhile. A key that the cluster has already is a conflict and stays where it is. The
    keys of a batch are noted in the store before they are copied, so that after a crash a key that is found on both
    sides is known to be this import's own work. A key is its owner's from the moment that it is copied, and clients
    may delete it there at once: so the owner registers it in the same step, and whoever goes on after a crash copies
    none a second time. Each register is marked before the batch is noted. Where a successor misses the mark, the owner
    was emptied, or lost what it had written last, and nobody knows which keys it has had: those that it does not have
    stay where they are, for a person to decide. Whoever still writes to the server directly must be stopped first:
    such writes are not followed.
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
        self._mark = REGISTER + b":" + change.encode()
        self._server = server
        self._publisher = publisher
        self._access = access
        self._rate = rate
        self._clock = clock
        self._new_id = new_id
        self._failpoints = failpoints
        self._routes = Routes(publisher.topology)
        self._ways: dict[str, _Way] = {}
        self._total = 0
        self._begun: dict[str, Migration] = {}  # by a coordinator that is gone, by owner
        self._registered: set[bytes] = set()  # which their owners have had from an import that was not ended

    async def run(self) -> None:
        """Move every key. Raises Refused where keys are in conflict, EngineError where a server fails."""
        async with AsyncExitStack() as opened:
            identity = opened.enter_context(self._access.identity())
            source = await self._access.open(self._server, identity)
            opened.push_async_callback(source.close)
            self._total = await source.count()
            records = await list_records(self._publisher.store, Migration, MIGRATIONS)
            mine = [record.value for record in records if record.value.change == self._change]
            self._begun = {migration.target: migration for migration in mine if not migration.status.ended}
            conflicts: set[bytes] = set()
            noted = await self._resume(source, identity, opened)
            if noted:
                await self._settle_doubtful(source, identity, opened, noted)
                # As the batch that it was: among others its keys would pass for those of the cluster.
                await self._move(source, identity, opened, set(noted), noted)
            while True:
                moved, found = await self._pass(source, identity, opened, noted)
                conflicts |= found
                if not moved:
                    break
            if conflicts:
                self._fail(conflicts)
            # The server joins now: what a power cut brought back to it would seem to be its own. Nor must registers.
            await make_durable(source, *(way.engine for way in self._ways.values()))
        await self._publisher.write([Delete(IMPORTS + self._change), *self._ended(MigrationStatus.COMPLETED)])

    def _fail(self, conflicts: set[bytes]) -> None:
        raise Refused(
            f"{len(conflicts)} keys of {self._server.address} exist in the cluster too and were left where they are "
            f"({_named(conflicts)}): delete them on one side and add the node again"
        )

    async def _settle_doubtful(
        self, source: Engine, identity: Identity, opened: AsyncExitStack, noted: set[bytes]
    ) -> None:
        """Register what owners without a register have of the noted batch; Refused where they may have had more."""
        missing: list[bytes] = []
        emptied: set[str] = set()
        for owner, keys in self._by_owner(noted).items():
            way = await self._way(owner, identity, opened)
            if way.unbroken:
                continue
            there = await way.engine.exists(keys)
            if any(there):
                has = [key for key, taken in zip(keys, there, strict=True) if taken]
                await way.engine.register(REGISTER, has)
                self._registered.update(has)
            absent = [key for key, taken in zip(keys, there, strict=True) if not taken]
            left = await source.exists(absent) if absent else []
            doubtful = [key for key, waits in zip(absent, left, strict=True) if waits]
            missing += doubtful
            emptied |= {owner} if doubtful else set()
        if missing:
            raise Refused(
                f"{', '.join(sorted(emptied))} lost keys, and the coordinator stopped, during the import from "
                f"{self._server.address}: {len(missing)} keys may have been deleted in the cluster, and were left "
                f"where they are ({_named(missing)}): delete there what is not to come back, and add the node again"
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
            batch.update(keys)
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
            there = await (await self._way(owner, identity, opened)).engine.exists(mine)
            own = noted | self._registered
            conflicts |= {key for key, taken in zip(mine, there, strict=True) if taken and key not in own}
        moving = keys - conflicts
        if not moving:
            return 0, conflicts
        for owner in by_owner:
            await self._ways[owner].engine.register(REGISTER, [self._mark])
        await self._note(moving, copied=False)
        noted.clear()
        noted.update(moving)
        for owner, mine in by_owner.items():
            await self._copy(source, self._ways[owner], [key for key in mine if key in moving - self._registered])
        await self._failpoints.reach(Point.IMPORT_COPIED)
        filled = [self._ways[owner] for owner in by_owner]
        await make_durable(*(way.engine for way in filled))
        # From here on a key that is not at its owner was deleted there by a client: it must not be copied again.
        await self._note(moving, copied=True)
        await self._failpoints.reach(Point.IMPORTING)
        await source.delete(sorted(moving))
        for way in filled:
            await way.engine.delete([REGISTER])
        self._registered -= moving
        await self._publisher.write([put_record(MIGRATIONS + way.migration.id, way.migration) for way in filled])
        return len(moving), conflicts

    async def _copy(self, source: Engine, way: _Way, keys: list[bytes]) -> None:
        for start in range(0, len(keys), _COPY_KEYS):
            step = keys[start : start + _COPY_KEYS]
            await self._rate.take(len(step))
            values = await source.dump(step)
            present = [(key, value) for key, value in zip(step, values, strict=True) if value is not None]
            # A key that has appeared at its owner since was written by a client just now: the newer value stays.
            await way.engine.take_over(present, REGISTER)
            count = way.migration.keys_moved + len(present)
            way.migration = replace(way.migration, keys_moved=count, total_keys=max(count, way.migration.total_keys))

    async def _way(self, owner: str, identity: Identity, opened: AsyncExitStack) -> _Way:
        way = self._ways.get(owner)
        if way is None:
            engine = await self._access.open(self._access.leader(owner), identity)
            opened.push_async_callback(engine.close)
            registered = await engine.registered(REGISTER)
            unbroken = self._mark in registered
            if unbroken:
                self._registered |= registered
            else:
                # Left by another import, or begun anew behind a loss: it does not tell of all keys of this batch.
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
            way = self._ways[owner] = _Way(engine, migration, unbroken)
        return way

    async def _resume(self, source: Engine, identity: Identity, opened: AsyncExitStack) -> set[bytes]:
        """End the batch that a coordinator before had copied as a whole; else the keys that it may have copied."""
        entry = await self._publisher.store.get(IMPORTS + self._change)
        if entry is None:
            return set()
        note = json.loads(entry.value)
        keys = {b64decode(key) for key in note["keys"]}
        if not note["copied"]:
            return keys
        await source.delete(sorted(keys))
        for owner in {self._routes.owner(key) for key in keys}:
            await (await self._way(owner, identity, opened)).engine.delete([REGISTER])
        self._registered -= keys
        return set()

    async def _note(self, keys: set[bytes], *, copied: bool) -> None:
        note = {"copied": copied, "keys": [b64encode(key).decode() for key in sorted(keys)]}
        value = json.dumps(note).encode()
        await self._publisher.write([Put(IMPORTS + self._change, value)])

    def _ended(self, status: MigrationStatus) -> list[Put]:
        now = self._clock.wall()
        migrations = [*(way.migration for way in self._ways.values()), *self._begun.values()]
        ended = [
            replace(one, status=status, phase=MigrationPhase.NONE, total_keys=one.keys_moved, end_time=now)
            for one in migrations
        ]
        return [put_record(MIGRATIONS + migration.id, migration) for migration in ended]


def _named(keys: Collection[bytes]) -> str:
    names = [repr(key.decode(errors="backslashreplace")) for key in sorted(keys)[:_NAMED]]
    return ", ".join([*names, *(["…"] if len(keys) > _NAMED else [])])


async def delete_registers(access: Access, publisher: Publisher) -> None:
    """Delete what owners have registered of an import that has failed or was cancelled. Raises StoreError.

    Owners that do not answer are unclean from now on. The batch stays noted until the request has ended: a successor
    that took the import for one that had not begun would bring back what clients have deleted.
    """
    unclean: set[str] = set()
    with access.identity() as identity:
        for owner, _ in publisher.topology.placement.weights:
            try:
                engine = await access.open(access.leader(owner), identity)
                try:
                    if await engine.delete([REGISTER]):
                        await make_durable(engine)
                finally:
                    await engine.close()
            except (EngineError, NotFound):
                unclean.add(owner)
    if unclean:
        await publisher.publish(lambda topology: replace(topology, unclean=topology.unclean | unclean))
