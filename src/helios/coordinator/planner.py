"""Planning what a request asks for, and beginning its transition."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from helios.control.admission import altered_node, placement_after
from helios.control.mutations import begin
from helios.coordinator.access import Access
from helios.coordinator.balancer import Balancer
from helios.coordinator.clocks import refuse_skewed
from helios.coordinator.compatibility import refuse_unreadable, unreadable
from helios.coordinator.migration_records import MigrationRecords, Step
from helios.coordinator.queue import Queue, foreseen
from helios.coordinator.term_context import TermContext
from helios.errors import Conflict, EngineUnreachable, Refused
from helios.model.migration import Change, ChangeKind, Migration
from helios.model.topology import NodeKind, Pair, Topology
from helios.placement.plan import pairs_between

logger = logging.getLogger(__name__)

_ALTERING = (ChangeKind.REWEIGHT, ChangeKind.DRAIN, ChangeKind.UNDRAIN)


class Planner:
    """Turns requests into transitions."""

    def __init__(self, context: TermContext, queue: Queue, balancer: Balancer) -> None:
        self._context = context
        self._publisher = context.publisher
        self._access = context.access
        self._queue = queue
        self._balancer = balancer

    async def begin(self, change: Change) -> None:
        """Plan what the request asks for and begin it, by the cluster as it is in that very moment."""
        while True:
            await self._publisher.unfenced()
            try:
                return await self._begin_by(self._publisher.topology, change)
            except Conflict as error:
                logger.info("request looked at anew: change=%s reason=%s", change.id, error)

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
        leader = self._access.leader
        keys = pairs_between(topology.placement, following)
        there = [(leader(source), leader(target)) for source, target in keys]
        found = await unreadable(self._access, [*there, *((target, source) for source, target in there)])
        refuse_unreadable(there, found)
        await refuse_skewed(self._access, self._context.clock, there)
        shut = await unfenceable(self._access, topology, {shard for pair in keys for shard in pair})
        if reason := next((shut[target] for _, target in keys if target in shut), ""):
            raise Refused(reason)
        pairs = tuple(
            Pair(
                source,
                target,
                foreseen(migrations, source, target) or self._context.new_id(),
                one_way=found.get((leader(target), leader(source)), "") or shut.get(source, ""),
            )
            for source, target in keys
        )
        migration_records = MigrationRecords(change, {m.id: m for m in migrations}, self._context.clock)
        started = migration_records.started(pairs)  # also of none, which ends as replaced what was foreseen
        if not pairs:
            ended = migration_records.finished(reversing=False)
            started = Step(ended.change, [*started.migrations, *ended.migrations])
        leaving = change.node if change.kind is ChangeKind.REMOVE_NODE else ""
        await self._publisher.publish(
            lambda now: begin(_same(topology, now), change.id, following, pairs, leaving, altered),
            started.change,
            behind=started.migrations,
        )


async def unfenceable(access: Access, topology: Topology, shards: Collection[str]) -> dict[str, str]:
    """Those of the shards off whose servers nobody could be forced, and why: also one that does not say."""
    external = {node.id for node in topology.nodes if node.kind is NodeKind.EXTERNAL}
    found: dict[str, str] = {}
    for shard in sorted(external.intersection(shards)):
        try:
            reason = await access.unfenceable(access.leader(shard))
        except EngineUnreachable as error:
            reason = f"no key can move to {shard} before its server has said what it allows: {error}"
        if reason:
            found[shard] = reason
    return found


def _same(before: Topology, now: Topology) -> Topology:
    """What the topology is now, if plans that were made by the one before still hold; else raises Conflict."""
    if _basis(now) != _basis(before):
        raise Conflict(f"the cluster was changed while it was planned: epoch {before.epoch} is {now.epoch} now")
    return now


def _basis(topology: Topology) -> tuple[object, ...]:
    """What plans are made by."""
    return topology.nodes, topology.placement, topology.sharding_enabled
