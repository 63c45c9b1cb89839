"""What a coordinator does between its election and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import aclosing
from dataclasses import replace

from helios.control.admission import Policy, altered_node, placement_after
from helios.control.mutations import begin
from helios.coordinator.access import Access
from helios.coordinator.balancer import Balancer
from helios.coordinator.clocks import refuse_skewed
from helios.coordinator.collector import Collector
from helios.coordinator.compatibility import refuse_unreadable, unreadable
from helios.coordinator.copying import CopyLimits
from helios.coordinator.fencing import Fencing
from helios.coordinator.history import History
from helios.coordinator.imports import Import
from helios.coordinator.migration_records import MigrationRecords
from helios.coordinator.publisher import Publisher
from helios.coordinator.queue import Queue, foreseen, founding_member
from helios.coordinator.rate import RateLimit
from helios.coordinator.repair import repair
from helios.coordinator.sessions import Sessions
from helios.coordinator.sweep import clear
from helios.coordinator.transition_runner import TransitionRunner
from helios.errors import Conflict, EngineError, EngineUnreachable, NotFound, Refused, Unavailable
from helios.model.codec import decode
from helios.model.ids import Address, leader_id
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration
from helios.model.settings import ClusterSettings
from helios.model.topology import NodeKind, Pair, Shard, Topology
from helios.placement.plan import pairs_between
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.failpoints import OFF, Failpoints
from helios.ports.following import updates
from helios.ports.records import (
    CANCELS,
    CHANGES,
    MEMBERS,
    SETTINGS,
    STRAY_SCRIPTS,
    MemberRecord,
    Record,
    list_records,
    put_record,
    read_record,
)
from helios.ports.store import Delete, Put

logger = logging.getLogger(__name__)

_CLEAN_AGAIN_S = 5.0
_ALTERING = (ChangeKind.REWEIGHT, ChangeKind.DRAIN, ChangeKind.UNDRAIN)


class LeaderTerm:
    """Admits requests, performs them one at a time, and keeps the topology true to where members listen.

    Ends by raising a StoreError (Replaced, LeaseLost, or the store being away).
    """

    def __init__(
        self,
        publisher: Publisher,
        connector: Connector,
        clock: Clock,
        settings: ClusterSettings,
        new_id: Callable[[], str],
        failpoints: Failpoints = OFF,
    ) -> None:
        self._publisher = publisher
        self._clock = clock
        self._settings = settings
        self._new_id = new_id
        self._failpoints = failpoints
        self.access = Access(connector, publisher)
        self._history = History(publisher, clock)
        self._collector = Collector(publisher, self.access, clock, lambda: self._settings)
        self._balancer = Balancer(publisher, self._collector, self._history, clock, lambda: self._settings)
        self._queue = Queue(publisher, self.access, clock, self._policy, new_id, self._balancer.plan)
        self._rate = RateLimit(clock, lambda: self._settings.sharding.migration_rate)
        self._bandwidth = RateLimit(clock, lambda: self._settings.sharding.migration_bandwidth)
        self._sessions = Sessions(publisher, clock, lambda: self._settings.router.session_ttl)
        self._movement: TransitionRunner | None = None
        self._importing: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @property
    def settings(self) -> ClusterSettings:
        """The cluster's settings as they are."""
        return self._settings

    async def note(self, change: Change) -> None:
        """Take down in the history what was done without a request. Raises StoreError."""
        await self._history.note(change)

    def _policy(self) -> Policy:
        sharding = self._settings.sharding
        return Policy(sharding.virtual_nodes, sharding.auto_rebalance, sharding.enabled)

    async def run(self) -> None:
        """Lead until the store says that it is over."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sessions.follow())
            tasks.create_task(self._follow_changes())
            tasks.create_task(self._follow_cancels())
            tasks.create_task(self._follow_settings())
            tasks.create_task(self._follow_members())
            tasks.create_task(self._perform())
            tasks.create_task(self._collector.run())
            tasks.create_task(self._balancer.run(self._submit))

    # What comes in

    async def _follow_changes(self) -> None:
        async with aclosing(updates(self._publisher.store, CHANGES)) as following:
            async for update in following:
                for event in update.events:
                    if event.value is not None:
                        await self._take(Record(event.key, decode(Change, event.value), event.version))

    async def _take(self, request: Record[Change]) -> None:
        await self._history.note(request.value)
        if await self._queue.take(request):
            self._wake.set()

    async def _follow_cancels(self) -> None:
        async with aclosing(updates(self._publisher.store, CANCELS)) as following:
            async for update in following:
                for event in update.events:
                    if event.value is not None:
                        await self._cancel(event.key.removeprefix(CANCELS))

    async def _cancel(self, change_id: str) -> None:
        if self._movement is not None and self._movement.change == change_id:
            self._movement.cancel()
        elif self._importing is not None and self._importing.get_name() == change_id:
            self._importing.cancel()
        else:
            await self._queue.cancel(change_id)

    async def _follow_settings(self) -> None:
        async with aclosing(updates(self._publisher.store, SETTINGS)) as following:
            async for _ in following:
                await self._apply_settings()

    async def _apply_settings(self) -> None:
        record = await read_record(self._publisher.store, ClusterSettings, SETTINGS)
        if record is None:
            return
        self._settings = record.value
        enabled = self._settings.sharding.enabled
        topology = self._publisher.topology
        if topology.nodes and topology.sharding_enabled != enabled:
            await self._publisher.publish(lambda topology: replace(topology, sharding_enabled=enabled))
            await self._submit(self._rebalance_as_set())

    def _rebalance_as_set(self) -> Change:
        sharding = self._settings.sharding
        return Change("", ChangeKind.REBALANCE, strategy=sharding.rebalance_strategy, by=sharding.rebalance_by)

    async def _follow_members(self) -> None:
        """A server that was restarted elsewhere (its port was taken) is routed to where it is now."""
        async with aclosing(updates(self._publisher.store, MEMBERS)) as following:
            async for _ in following:
                await self._apply_members()

    async def _apply_members(self) -> None:
        records = await list_records(self._publisher.store, MemberRecord, MEMBERS)
        addresses = {record.value.id: record.value.address for record in records}

        def current(topology: Topology) -> Topology:
            return replace(topology, shards=tuple(_at(shard, addresses) for shard in topology.shards))

        if current(self._publisher.topology) != self._publisher.topology:
            await self._publisher.publish(current)

    async def _submit(self, change: Change) -> None:
        """Ask for something that no user has asked for."""
        change = replace(change, id=self._new_id(), requested_at=self._clock.wall())
        await self._publisher.write([put_record(CHANGES + change.id, change)])

    # What is done

    async def _perform(self) -> None:
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
        migration_records = MigrationRecords(record.value, migrations, self._clock)
        coordinator = self._settings.coordinator
        fencing = Fencing(self._publisher, self.access, self._sessions, ack_timeout_s=coordinator.fence_ack_timeout)
        limits = CopyLimits(
            coordinator.copy_batch,
            coordinator.fence_budget,
            verify=record.value.verify or self._settings.sharding.verify_moves,
        )
        self._movement = TransitionRunner(
            self._publisher,
            self.access,
            fencing,
            migration_records,
            self._rate,
            self._bandwidth,
            limits,
            self._new_id,
            self._settings.sharding.max_concurrent_migrations,
            self._failpoints,
        )
        if await self._publisher.store.get(CANCELS + change_id) is not None:
            self._movement.cancel()
        logger.info("transition performed: change=%s", change_id)
        try:
            await self._movement.run()
        finally:
            self._movement = None
        logger.info("transition ended: change=%s", change_id)

    async def _begin(self, change: Change) -> None:
        try:
            if change.import_keys and change.nodes and self._publisher.topology.node(change.nodes[0].id) is None:
                await self._import(change)
                return
            if change.kind is ChangeKind.REPAIR:
                await self._repair(change)
                return
            await self._begin_transition(change)
        except (EngineError, NotFound, Refused, Unavailable) as error:
            logger.warning("request failed: change=%s error=%s", change.id, error)
            await self._queue.end(change, ChangeStatus.FAILED, str(error))

    async def _begin_transition(self, change: Change) -> None:
        """Plan what the request asks for and begin it, by the cluster as it is in that very moment."""
        while True:
            try:
                return await self._begin_by(self._publisher.topology, change)
            except Conflict as conflict:
                logger.info("request looked at anew: change=%s reason=%s", change.id, conflict)

    async def _begin_by(self, topology: Topology, change: Change) -> None:
        """The same by a topology that was read before servers were asked; raises Conflict where it is another by now.

        Requests are admitted all the while: a node that was to take the keys may have been asked to leave.
        """
        following = placement_after(topology, change)
        if change.kind is ChangeKind.REBALANCE and topology.sharding_enabled:
            planned, said = await self._balancer.plan(change)
            change = replace(change, outcome=said) if planned is None else replace(change, reason=said)
            following = topology.placement if planned is None else planned.placement
        altered = altered_node(topology, change) if change.kind in _ALTERING else None
        migrations: list[Migration] = await self._queue.migrations_of(change.id)
        leader = self.access.leader
        keys = pairs_between(topology.placement, following)
        there = [(leader(source), leader(target)) for source, target in keys]
        found = await unreadable(self.access, [*there, *((target, source) for source, target in there)])
        refuse_unreadable(there, found)
        await refuse_skewed(self.access, self._clock, there)
        shut = await self._unfenceable(topology, {shard for pair in keys for shard in pair})
        if reason := next((shut[target] for _, target in keys if target in shut), ""):
            raise Refused(reason)
        pairs = tuple(
            Pair(
                source,
                target,
                foreseen(migrations, source, target) or self._new_id(),
                one_way=found.get((leader(target), leader(source)), "") or shut.get(source, ""),
            )
            for source, target in keys
        )
        migration_records = MigrationRecords(change, {m.id: m for m in migrations}, self._clock)
        records: list[Put | Delete] = [*migration_records.started(pairs, change.pattern)]
        if not pairs:
            records = migration_records.finished(reversing=False)
        leaving = change.node if change.kind is ChangeKind.REMOVE_NODE else ""
        await self._publisher.publish(
            lambda now: begin(_same(topology, now), change.id, following, pairs, leaving, altered), records
        )

    async def _unfenceable(self, topology: Topology, shards: Collection[str]) -> dict[str, str]:
        """Those of the shards off whose servers nobody could be forced, and why: also one that does not say."""
        external = {node.id for node in topology.nodes if node.kind is NodeKind.EXTERNAL}
        found: dict[str, str] = {}
        for shard in sorted(external.intersection(shards)):
            try:
                reason = await self.access.unfenceable(self.access.leader(shard))
            except EngineUnreachable as error:
                reason = f"no key can move to {shard} before its server has said what it allows: {error}"
            if reason:
                found[shard] = reason
        return found

    async def _import(self, change: Change) -> None:
        node = change.nodes[0]
        owners = {shard for shard, _ in self._publisher.topology.placement.weights}
        for reason in (await self._unfenceable(self._publisher.topology, owners)).values():
            raise Refused(reason)
        record = await read_record(self._publisher.store, MemberRecord, MEMBERS + leader_id(node.id))
        member = founding_member(node, None if record is None else record.value)
        if member is None:
            raise Refused(f"{node.id} has no running server")
        await refuse_skewed(self.access, self._clock, [(member, self.access.leader(owner)) for owner in sorted(owners)])
        moving = Import(
            change.id,
            member,
            publisher=self._publisher,
            access=self.access,
            rate=self._rate,
            clock=self._clock,
            new_id=self._new_id,
            failpoints=self._failpoints,
        )
        self._importing = asyncio.create_task(moving.run(), name=change.id)
        try:
            await asyncio.wait({self._importing})
            if self._importing.cancelled():
                await moving.forget()
                await self._queue.end(change, ChangeStatus.CANCELLED, "cancelled; what had moved stays in the cluster")
                return
            self._importing.result()
        except (EngineError, NotFound, Refused):
            await moving.forget()
            raise
        finally:
            self._importing.cancel()
            self._importing = None
        admission = await self._queue.admit_imported(change)
        if admission.queued:
            await self._begin_transition(change)
        else:
            await self._publisher.write([put_record(CHANGES + change.id, replace(change, status=ChangeStatus.DONE))])

    async def _repair(self, change: Change) -> None:
        named = await self._publisher.store.list(STRAY_SCRIPTS)
        outcome = await repair(self.access, self._publisher.topology)
        done = replace(change, status=ChangeStatus.DONE, outcome=outcome)
        # A script that goes on writing such keys will be named again.
        forgotten = [Delete(entry.key) for entry in named.entries]
        await self._publisher.write([put_record(CHANGES + change.id, done), *forgotten])

    async def _clean(self) -> bool:
        """Sweep servers that could not be swept in their transition; whether none is left."""
        for shard in sorted(self._publisher.topology.unclean):
            try:
                await clear(self.access, Routes(self._publisher.topology), shard)
            except (EngineError, NotFound) as error:
                logger.info("not swept yet: shard=%s error=%s", shard, error)
            else:
                await self._publisher.publish(_cleaned(shard))
        return not self._publisher.topology.unclean


def _same(before: Topology, now: Topology) -> Topology:
    """What the topology is now, if plans that were made by the one before still hold; else raises Conflict."""
    if _basis(now) != _basis(before):
        raise Conflict(f"the cluster was changed while it was planned: epoch {before.epoch} is {now.epoch} now")
    return now


def _basis(topology: Topology) -> tuple[object, ...]:
    """What plans are made by."""
    return topology.nodes, topology.placement, topology.sharding_enabled


def _cleaned(shard: str) -> Callable[[Topology], Topology]:
    return lambda topology: replace(topology, unclean=topology.unclean - {shard})


def _at(shard: Shard, addresses: dict[str, Address]) -> Shard:
    """The shard with its members where they listen now."""
    members = tuple(replace(member, address=addresses.get(member.id, member.address)) for member in shard.members)
    return replace(shard, members=members)
