"""What a coordinator does between its election and its end."""

from __future__ import annotations

import asyncio

from helios.control.admission import Policy
from helios.coordinator.balancer import Balancer
from helios.coordinator.collector import Collector
from helios.coordinator.history import History
from helios.coordinator.inbox import Inbox
from helios.coordinator.migration_records import settle
from helios.coordinator.performer import Performer
from helios.coordinator.planner import Planner
from helios.coordinator.queue import Queue
from helios.coordinator.replicas import Replicas
from helios.coordinator.term_context import TermContext
from helios.model.migration import Change


class LeaderTerm:
    """Admits requests, performs them one at a time, and keeps the topology true to where members listen.

    Ends by raising a StoreError (Replaced, LeaseLost, or the store being away).
    """

    def __init__(self, context: TermContext) -> None:
        publisher, access, clock = context.publisher, context.access, context.clock
        self._context = context
        self._history = History(publisher, clock)
        self._collector = Collector(publisher, access, clock, lambda: context.settings, context.counts)
        self._balancer = Balancer(publisher, self._collector, self._history, clock, lambda: context.settings)
        queue = Queue(publisher, access, clock, self._policy, context.new_id, self._balancer.plan)
        self._replicas = Replicas(context)
        self._performer = Performer(context, queue, Planner(context, queue, self._balancer), self._replicas)
        self._inbox = Inbox(context, queue, self._history, self._performer, self._replicas)

    async def note(self, change: Change) -> None:
        """Take down in the history what was done without a request. Raises StoreError."""
        await self._history.note(change)

    def _policy(self) -> Policy:
        sharding = self._context.settings.sharding
        return Policy(sharding.virtual_nodes, sharding.auto_rebalance, sharding.enabled)

    async def run(self) -> None:
        """Lead until the store says that it is over."""
        await settle(self._context.publisher, self._context.clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._context.sessions.follow())
            tasks.create_task(self._inbox.follow_changes())
            tasks.create_task(self._inbox.follow_cancels())
            tasks.create_task(self._inbox.follow_settings())
            tasks.create_task(self._inbox.follow_members())
            tasks.create_task(self._replicas.run())
            tasks.create_task(self._performer.run())
            tasks.create_task(self._collector.run())
            tasks.create_task(self._balancer.run(self._inbox.submit))
