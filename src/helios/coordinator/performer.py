"""Performing requests, one at a time: transitions, imports, repairs, and sweeps that are still owed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from helios.coordinator.clocks import refuse_skewed
from helios.coordinator.imports import Import, delete_registers
from helios.coordinator.migration_records import MigrationRecords
from helios.coordinator.planner import Planner, unfenceable
from helios.coordinator.queue import Queue, founding_member
from helios.coordinator.repair import repair
from helios.coordinator.sweep import clear
from helios.coordinator.term_context import TermContext
from helios.coordinator.transition_runner import TransitionRunner
from helios.errors import EngineError, NotFound, Refused, Unavailable
from helios.model.ids import leader_id
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.records import CANCELS, CHANGES, MEMBERS, STRAY_SCRIPTS, MemberRecord, put_record, read_record
from helios.ports.store import Delete

logger = logging.getLogger(__name__)

_CLEAN_AGAIN_S = 5.0


class Performer:
    """Takes requests from the queue and carries each to its end, the transition that is under way first."""

    def __init__(self, context: TermContext, queue: Queue, planner: Planner) -> None:
        self._context = context
        self._publisher = context.publisher
        self._access = context.access
        self._queue = queue
        self._planner = planner
        self._moving: TransitionRunner | None = None
        self._importing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There may be something new in the queue."""
        self._wake.set()

    def cancel(self, change_id: str) -> bool:
        """Cancel the request if it is being performed; whether it is."""
        if self._moving is not None and self._moving.change == change_id:
            self._moving.cancel()
        elif self._importing is not None and self._importing.get_name() == change_id:
            self._importing.cancel()
        else:
            return False
        return True

    async def run(self) -> None:
        """Perform until the store says that the term is over."""
        while True:
            self._wake.clear()
            if self._publisher.topology.transition is not None:
                await self._move(self._publisher.topology.transition.change)
                continue
            change = self._queue.next()
            if change is not None:
                await self._begin(change)
                continue
            cleaned = await self._clean()
            try:
                async with asyncio.timeout(None if cleaned else _CLEAN_AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _move(self, change_id: str) -> None:
        record = await read_record(self._publisher.store, Change, CHANGES + change_id)
        if record is None:
            raise NotFound(f"the request {change_id} behind the running transition is not in the store")
        migrations = {m.id: m for m in await self._queue.migrations_of(change_id)}
        migration_records = MigrationRecords(record.value, migrations, self._context.clock)
        self._moving = TransitionRunner(self._context, migration_records)
        if await self._publisher.store.get(CANCELS + change_id) is not None:
            self._moving.cancel()
        logger.info("transition performed: change=%s", change_id)
        try:
            await self._moving.run()
        finally:
            self._moving = None
        logger.info("transition ended: change=%s", change_id)

    async def _begin(self, change: Change) -> None:
        try:
            if change.import_keys and change.nodes and self._publisher.topology.node(change.nodes[0].id) is None:
                await self._import(change)
                return
            if change.kind is ChangeKind.REPAIR:
                await self._repair(change)
                return
            await self._planner.begin(change)
        except (EngineError, NotFound, Refused, Unavailable) as error:
            logger.warning("request failed: change=%s error=%s", change.id, error)
            if change.import_keys:
                await delete_registers(self._access, self._publisher)
            await self._queue.end(change, ChangeStatus.FAILED, str(error))

    async def _import(self, change: Change) -> None:
        node = change.nodes[0]
        owners = {shard for shard, _ in self._publisher.topology.placement.weights}
        for reason in (await unfenceable(self._access, self._publisher.topology, owners)).values():
            raise Refused(reason)
        record = await read_record(self._publisher.store, MemberRecord, MEMBERS + leader_id(node.id))
        member = founding_member(node, None if record is None else record.value)
        if member is None:
            raise Refused(f"{node.id} has no running server")
        moves = [(member, self._access.leader(owner)) for owner in sorted(owners)]
        await refuse_skewed(self._access, self._context.clock, moves)
        moving = Import(
            change.id,
            member,
            publisher=self._publisher,
            access=self._access,
            rate=self._context.rate,
            clock=self._context.clock,
            new_id=self._context.new_id,
            failpoints=self._context.failpoints,
        )
        self._importing = asyncio.create_task(moving.run(), name=change.id)
        try:
            await asyncio.wait({self._importing})
            if self._importing.cancelled():
                await delete_registers(self._access, self._publisher)
                await self._queue.end(change, ChangeStatus.CANCELLED, "cancelled; what had moved stays in the cluster")
                return
            self._importing.result()
        finally:
            self._importing.cancel()
            self._importing = None
        admission = await self._queue.admit_imported(change)
        if admission.queued:
            await self._planner.begin(change)
        else:
            await self._publisher.write([put_record(CHANGES + change.id, replace(change, status=ChangeStatus.DONE))])

    async def _repair(self, change: Change) -> None:
        named = await self._publisher.store.list(STRAY_SCRIPTS)
        outcome = await repair(self._access, self._publisher.topology)
        done = replace(change, status=ChangeStatus.DONE, outcome=outcome)
        # A script that goes on writing such keys will be named again.
        forgotten = [Delete(entry.key) for entry in named.entries]
        await self._publisher.write([put_record(CHANGES + change.id, done), *forgotten])

    async def _clean(self) -> bool:
        """Sweep servers that could not be swept in their transition; whether none is left."""
        for shard in sorted(self._publisher.topology.unclean):
            try:
                await clear(self._access, Routes(self._publisher.topology), shard)
            except (EngineError, NotFound) as error:
                logger.info("not swept yet: shard=%s error=%s", shard, error)
            else:
                await self._publisher.publish(_cleaned(shard))
        return not self._publisher.topology.unclean


def _cleaned(shard: str) -> Callable[[Topology], Topology]:
    return lambda topology: replace(topology, unclean=topology.unclean - {shard})
