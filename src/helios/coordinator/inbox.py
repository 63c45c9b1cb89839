"""What reaches a leading coordinator through the store: requests, cancellations, settings and servers' addresses."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from helios.control.replicas import located
from helios.coordinator.history import History
from helios.coordinator.performer import Performer
from helios.coordinator.queue import Queue
from helios.coordinator.replicas import Replicas
from helios.coordinator.term_context import TermContext
from helios.model.codec import decode
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.settings import ClusterSettings
from helios.model.topology import Topology
from helios.ports.following import updates
from helios.ports.records import (
    CANCELS,
    CHANGES,
    MEMBERS,
    SETTINGS,
    MemberRecord,
    Record,
    put_record,
    read_record,
)


class Inbox:
    """Takes what comes in to those who deal with it; each method that follows runs until the store ends the term."""

    def __init__(
        self, context: TermContext, queue: Queue, history: History, performer: Performer, replicas: Replicas
    ) -> None:
        self._context = context
        self._publisher = context.publisher
        self._queue = queue
        self._history = history
        self._performer = performer
        self._replicas = replicas
        self._servers: list[MemberRecord] = []  # as they were at the store's revision `_servers_at`
        self._servers_at = 0

    async def follow_changes(self) -> None:
        """Admit what is asked for, in the order in which it came."""
        async with aclosing(updates(self._publisher.store, CHANGES)) as following:
            async for update in following:
                for event in update.events:
                    if event.value is not None:
                        await self._take(Record(event.key, decode(Change, event.value), event.version))

    async def _take(self, request: Record[Change]) -> None:
        await self._history.note(request.value)
        taken = await self._queue.take(request)
        if request.value.status is ChangeStatus.SUBMITTED and request.value.nodes:
            await self._apply_members()  # a server may have been restarted elsewhere while it was asked
        if request.value.kind is ChangeKind.REBALANCE and request.value.status is ChangeStatus.SUBMITTED:
            self._replicas.all_home()
        for change in self._queue.urgent():
            self._replicas.accept_loss(change)
        if taken:
            self._performer.wake()

    async def follow_cancels(self) -> None:
        """Take back what users no longer want."""
        async with aclosing(updates(self._publisher.store, CANCELS)) as following:
            async for update in following:
                for event in update.events:
                    if event.value is not None:
                        await self._cancel(event.key.removeprefix(CANCELS))

    async def _cancel(self, change_id: str) -> None:
        if not self._performer.cancel(change_id):
            await self._queue.cancel(change_id)

    async def follow_settings(self) -> None:
        """Let the term go by the settings that hold now."""
        async with aclosing(updates(self._publisher.store, SETTINGS)) as following:
            async for _ in following:
                await self._apply_settings()

    async def _apply_settings(self) -> None:
        record = await read_record(self._publisher.store, ClusterSettings, SETTINGS)
        if record is None:
            return
        self._context.settings = record.value
        self._replicas.wake()
        enabled = self._context.settings.sharding.enabled
        topology = self._publisher.topology
        if topology.nodes and topology.sharding_enabled != enabled:
            await self._publisher.publish(lambda topology: replace(topology, sharding_enabled=enabled))
            await self.submit(self._rebalance_as_set())

    def _rebalance_as_set(self) -> Change:
        sharding = self._context.settings.sharding
        return Change("", ChangeKind.REBALANCE, strategy=sharding.rebalance_strategy, by=sharding.rebalance_by)

    async def follow_members(self) -> None:
        """A server that was restarted elsewhere (another port or host) is routed to where it is now, as is its node."""
        async with aclosing(updates(self._publisher.store, MEMBERS)) as following:
            async for _ in following:
                await self._apply_members()

    async def _apply_members(self) -> None:
        snapshot = await self._publisher.store.list(MEMBERS)
        if snapshot.revision < self._servers_at:
            return  # a look that began later was answered sooner
        self._servers_at = snapshot.revision
        self._servers = [decode(MemberRecord, entry.value) for entry in snapshot.entries]
        self._replicas.take(self._servers)

        def current(topology: Topology) -> Topology:
            addresses = {server.id: server.address for server in self._servers}
            clients = {server.node: server.clients for server in self._servers if server.clients is not None}
            nodes = tuple(replace(node, address=clients.get(node.id, node.address)) for node in topology.nodes)
            return replace(topology, nodes=nodes, shards=tuple(located(shard, addresses) for shard in topology.shards))

        if current(self._publisher.topology) != self._publisher.topology:
            await self._publisher.publish(current)

    async def submit(self, change: Change) -> None:
        """Ask for something that no user has asked for."""
        change = replace(change, id=self._context.new_id(), requested_at=self._context.clock.wall())
        await self._publisher.write([put_record(CHANGES + change.id, change)])
