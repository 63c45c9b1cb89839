"""A candidate for coordinator: it campaigns, leads, and campaigns again."""

from __future__ import annotations

import asyncio
import logging

from helios.coordinator.departures import Departures
from helios.coordinator.election import Leadership, campaign, keep, resign
from helios.coordinator.health import Watch
from helios.coordinator.leader_term import LeaderTerm
from helios.coordinator.maintenance import Maintenance
from helios.coordinator.publisher import Publisher
from helios.coordinator.term_context import TermContext
from helios.errors import StoreError, causes
from helios.model.settings import ClusterSettings
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.failpoints import OFF, Failpoints
from helios.ports.ids import new_id
from helios.ports.records import SETTINGS, read_record
from helios.ports.store import Store

logger = logging.getLogger(__name__)

_AFTER_FAILURE_S = 0.5


class Coordinator:
    """Runs forever; any number of processes may run one, and one of them at a time leads.

    `settings` are used as long as the store has none.
    """

    def __init__(
        self,
        store: Store,
        connector: Connector,
        clock: Clock,
        *,
        node_id: str,
        settings: ClusterSettings,
        failpoints: Failpoints = OFF,
    ) -> None:
        self._store = store
        self._connector = connector
        self._clock = clock
        self._node_id = node_id
        self._settings = settings
        self._failpoints = failpoints

    async def run(self) -> None:
        """Campaign and lead until cancelled; a store that is away is waited for."""
        while True:
            # In a task of its own: a cancellation that meets the end of a term by itself would be lost in its group.
            term = asyncio.create_task(self._campaign())
            try:
                await asyncio.wait({term})
            finally:
                term.cancel()
                await asyncio.wait({term})
                self._told(term)
            await asyncio.sleep(_AFTER_FAILURE_S)

    def _told(self, term: asyncio.Task[None]) -> None:
        if term.cancelled():
            return
        try:
            term.result()
        except* StoreError as errors:
            reasons = "; ".join(dict.fromkeys(map(str, causes(errors))))  # several tasks may have the same one
            logger.warning("term ended: node=%s reason=%s", self._node_id, reasons)

    async def _campaign(self) -> None:
        settings = await self._current_settings()
        leadership = await campaign(self._store, self._clock, self._node_id, settings.coordinator.lease_ttl)
        logger.info("elected: node=%s term=%d", self._node_id, leadership.term)
        await self._lead(leadership, settings)

    async def _lead(self, leadership: Leadership, settings: ClusterSettings) -> None:
        try:
            publisher = await Publisher.open(self._store, self._clock, leadership.term, leadership.term_version)
            context = TermContext(
                publisher,
                self._connector,
                self._clock,
                settings,
                lambda: new_id(self._clock),
                self._failpoints,
                leadership.lapse,
            )
            access, term = context.access, LeaderTerm(context)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keep(self._store, self._clock, leadership))
                tasks.create_task(term.run())
                tasks.create_task(publisher.keep_tidy())
                tasks.create_task(Maintenance(publisher, self._clock).run())
                tasks.create_task(Departures(publisher, access, self._clock).run())
                tasks.create_task(Watch(context, term.note).run())
        finally:
            # Whoever comes next need not wait for the lease to run out.
            try:
                await resign(self._store, leadership)
            except StoreError as error:
                logger.info("lease not given back: node=%s error=%s", self._node_id, error)

    async def _current_settings(self) -> ClusterSettings:
        record = await read_record(self._store, ClusterSettings, SETTINGS)
        return self._settings if record is None else record.value
