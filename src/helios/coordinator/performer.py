"""Performing requests, one at a time: transitions, imports, repairs, and sweeps that are still owed."""

from __future__ import annotations

import asyncio
import logging

from helios.control.admission import promoted
from helios.control.mutations import swept
from helios.control.transition import backoff_s
from helios.coordinator.changes import MetKeys
from helios.coordinator.clocks import refuse_skewed
from helios.coordinator.import_end import abandon
from helios.coordinator.imports import Import
from helios.coordinator.migration_records import MigrationRecords
from helios.coordinator.moment import Moment, release
from helios.coordinator.planner import Planner
from helios.coordinator.queue import Queue, founding_member
from helios.coordinator.repair import repair
from helios.coordinator.replicas import Replicas
from helios.coordinator.sweep import clear
from helios.coordinator.term_context import TermContext
from helios.coordinator.transition_runner import TransitionRunner
from helios.errors import EngineError, EngineUnreachable, NotFound, Refused, Unavailable
from helios.model.ids import founder_id
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Member, NodeKind
from helios.placement.routing import Routes
from helios.ports.records import CANCELS, CHANGES, MEMBERS, STRAY_SCRIPTS, MemberRecord, read_record
from helios.ports.store import Delete

logger = logging.getLogger(__name__)

IMPORT_ATTEMPTS_MAX = 8  # in a row, without a batch between them
_CLEAN_AGAIN_S = 5.0


class Performer:
    """Takes requests from the queue and carries each to its end, the transition that is under way first."""

    def __init__(self, context: TermContext, queue: Queue, planner: Planner, replicas: Replicas) -> None:
        self._context = context
        self._publisher = context.publisher
        self._access = context.access
        self._queue = queue
        self._planner = planner
        self._replicas = replicas
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
        await release(self._publisher)
        while True:
            self._wake.clear()
            await self._publisher.unfenced()
            if self._publisher.topology.transition is not None:
                await self._move(self._publisher.topology.transition.change)
                continue
            change = self._queue.next()
            if change is not None:
                await self._begin(change)
                continue
            await self._rest(cleaned=await self._clean())

    async def _rest(self, *, cleaned: bool) -> None:
        """Return when there may be something to do: a request, or a shard to sweep."""
        waiting: list[asyncio.Task[object]] = [asyncio.create_task(self._wake.wait())]
        if cleaned:  # Until a failover may have lost deletions.
            waiting.append(asyncio.create_task(self._publisher.until(lambda topology: bool(topology.unclean))))
        try:
            timeout_s = None if cleaned else _CLEAN_AGAIN_S
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def _move(self, change_id: str) -> None:
        record = await read_record(self._publisher.store, Change, CHANGES + change_id)
        if record is None:
            raise NotFound(f"the request {change_id} behind the running transition is not in the store")
        migrations = {m.id: m for m in await self._queue.migrations_of(change_id)}
        migration_records = MigrationRecords(record.value, migrations, self._context.clock)
        self._moving = moving = TransitionRunner(self._context, migration_records)
        if await self._publisher.store.get(CANCELS + change_id) is not None:
            self._moving.cancel()
        logger.info("transition performed: change=%s", change_id)
        try:
            await moving.run()
        finally:
            self._moving = None
        logger.info("transition ended: change=%s", change_id)
        for shard, met in moving.owed.items():
            if shard in self._publisher.topology.unclean:
                await self._sweep(shard, met)

    async def _begin(self, change: Change) -> None:
        try:
            if change.import_keys and change.nodes and self._publisher.topology.node(change.nodes[0].id) is None:
                await self._import(change)
                return
            if change.kind is ChangeKind.REPAIR:
                await self._repair(change)
                return
            if change.kind is ChangeKind.PROMOTE:
                await self._promote(change)
                return
            if change.kind is ChangeKind.BACKUP:
                await Moment(self._context, change).run()
                return
            await self._planner.begin(change)
        except (EngineError, NotFound, Refused, Unavailable) as error:
            logger.warning("request failed: change=%s error=%s", change.id, error)
            await self._end(change, ChangeStatus.FAILED, str(error))

    async def _import(self, change: Change) -> None:
        self._importing = asyncio.create_task(self._take_over(change), name=change.id)
        try:
            if await self._publisher.store.get(CANCELS + change.id) is not None:
                self._importing.cancel()
            await asyncio.wait({self._importing})
            if self._importing.cancelled():
                await self._end(change, ChangeStatus.CANCELLED, "cancelled; what had moved stays in the cluster")
                return
            self._importing.result()
        finally:
            self._importing.cancel()
            self._importing = None
        admission = await self._queue.admit_imported(change)
        if admission.queued:
            await self._planner.begin(change)
        else:
            await self._queue.done(change)

    async def _promote(self, change: Change) -> None:
        shard, member = promoted(self._publisher.topology, change)
        await self._replicas.promote(shard, member)
        await self._queue.done(change, f"{member.node} leads {shard.id}")

    async def _take_over(self, change: Change) -> None:
        """Empty the joining server; again, as a successor would, after a server has not answered for a moment."""
        failures = 0
        while True:
            moving: Import | None = None
            try:
                await self._publisher.unfenced()
                moving = await self._import_of(change)
                await moving.run()
            except EngineUnreachable as error:
                failures = 1 if moving is not None and moving.batches else failures + 1
                if failures >= IMPORT_ATTEMPTS_MAX:
                    raise
                logger.info("import goes on soon: change=%s error=%s", change.id, error)
                await asyncio.sleep(backoff_s(failures))
            else:
                return

    async def _import_of(self, change: Change) -> Import:
        """What takes over the keys of a change's node; raises Refused where they cannot move."""
        topology = self._publisher.topology
        owners = sorted(shard for shard, _ in topology.placement.weights)
        external = {node.id for node in topology.nodes if node.kind is NodeKind.EXTERNAL}
        for owner in sorted(external.intersection(owners)):
            if reason := await self._access.unfenceable(self._access.leader(owner)):
                raise Refused(reason)
        member = await self._joining(change)
        if member is None:
            raise Refused(f"{change.nodes[0].id} has no running server")
        moves = [(member, self._access.leader(owner)) for owner in owners]
        await refuse_skewed(self._access, self._context.clock, moves)
        return Import(
            change.id,
            member,
            publisher=self._publisher,
            access=self._access,
            rate=self._context.rate,
            clock=self._context.clock,
            new_id=self._context.new_id,
            failpoints=self._context.failpoints,
        )

    async def _joining(self, change: Change) -> Member | None:
        """The server that joins by a change, where it has one."""
        node = change.nodes[0]
        record = await read_record(self._publisher.store, MemberRecord, MEMBERS + founder_id(node.id))
        return founding_member(node, None if record is None else record.value)

    async def _end(self, change: Change, status: ChangeStatus, error: str) -> None:
        """The request ends here; an import leaves no key on both sides, or says which."""
        if change.import_keys and change.nodes:
            server, node = await self._joining(change), change.nodes[0]
            unknown = Member(founder_id(node.id), node.id, node.address)
            error += await abandon(
                self._access, self._publisher, change.id, server or unknown, known=server is not None
            )
        await self._queue.end(change, status, error)

    async def _repair(self, change: Change) -> None:
        named = await self._publisher.store.list(STRAY_SCRIPTS)
        outcome = await repair(self._access, self._publisher.topology)
        # A script that goes on writing such keys will be named again.
        await self._publisher.write_apart([Delete(entry.key) for entry in named.entries])
        await self._queue.done(change, outcome)

    async def _clean(self) -> bool:
        """Sweep servers that could not be swept in their transition; whether none is left."""
        for shard in sorted(self._publisher.topology.unclean):
            await self._sweep(shard)
        return not self._publisher.topology.unclean

    async def _sweep(self, shard_id: str, met: MetKeys | None = None) -> None:
        before = self._publisher.topology
        try:
            await clear(self._access, Routes(before), shard_id, met=met)
        except (EngineError, NotFound) as error:
            logger.info("not swept yet: shard=%s error=%s", shard_id, error)
        else:
            await self._publisher.publish(lambda topology: swept(topology, shard_id, before))
