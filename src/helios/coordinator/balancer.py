"""Making plans to even the cluster out: when somebody asks for it, and unasked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from helios.control.rebalance import RebalancePolicy, Rebalancing, decide, outcome, propose
from helios.coordinator.collector import Collector
from helios.coordinator.history import History
from helios.coordinator.publisher import Publisher
from helios.errors import Unavailable
from helios.model.balancing import quiet_hours_of
from helios.model.migration import Change, ChangeKind, Origin
from helios.model.settings import ClusterSettings
from helios.placement.load import Load
from helios.ports.clock import Clock

logger = logging.getLogger(__name__)

_LONGEST_NAP_S = 5.0


class Balancer:
    """Plans by the load as it is measured at that moment, under the settings as they are."""

    def __init__(
        self,
        publisher: Publisher,
        collector: Collector,
        history: History,
        clock: Clock,
        settings: Callable[[], ClusterSettings],
    ) -> None:
        self._publisher = publisher
        self._collector = collector
        self._history = history
        self._clock = clock
        self._settings = settings

    async def plan(self, change: Change) -> tuple[Rebalancing | None, str]:
        """What a rebalance is to do now, None where nothing is worth it, and a sentence that says so.

        One that nobody has asked for keeps to quiet hours and rest. Raises Unavailable where a silent node keeps
        it from being planned.
        """
        load = await self._collector.snapshot(change.id)
        policy = self._policy(change)
        if change.origin is Origin.USER:
            made = propose(self._publisher.topology, load, policy)
        else:
            made = await self._decide(load, policy)
        return made, outcome(made, load, self._publisher.topology, policy)

    async def run(self, submit: Callable[[Change], Awaitable[None]]) -> None:
        """Look each `rebalance_interval`, forever, and submit a rebalance where one is due. Raises StoreError."""
        impeded = False  # and that has been said
        while True:
            await self._nap()
            sharding = self._settings().sharding
            topology = self._publisher.topology
            if not sharding.auto_rebalance or not topology.sharding_enabled or topology.transition is not None:
                continue
            wish = Change(
                "",
                ChangeKind.REBALANCE,
                strategy=sharding.rebalance_strategy,
                by=sharding.rebalance_by,
                origin=Origin.AUTOMATIC,
            )
            try:
                due, reason = await self.plan(wish)
            except Unavailable as error:
                if not impeded:
                    logger.warning("automatic rebalance not decided, and tried again each interval: %s", error)
                impeded = True
                continue
            impeded = False
            # Measuring takes a while, in which it may have been turned off.
            if due is not None and self._settings().sharding.auto_rebalance:
                logger.info("automatic rebalance: %s", reason)
                await submit(wish)

    async def _decide(self, load: Load, policy: RebalancePolicy) -> Rebalancing | None:
        local = time.localtime(self._clock.wall())
        return decide(
            self._publisher.topology,
            load,
            policy,
            now_s=self._clock.monotonic(),
            minute_of_day=local.tm_hour * 60 + local.tm_min,
            rested=await self._history.rested_s(),
        )

    async def _nap(self) -> None:
        """Sleep for a `rebalance_interval`, also if that is changed meanwhile."""
        began_s = self._clock.monotonic()
        while True:
            left_s = began_s + self._settings().sharding.rebalance_interval - self._clock.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(min(left_s, _LONGEST_NAP_S))

    def _policy(self, change: Change) -> RebalancePolicy:
        sharding = self._settings().sharding
        return RebalancePolicy(
            strategy=change.strategy,
            by=change.by,
            threshold=sharding.rebalance_threshold,
            rest_s=sharding.rebalance_rest,
            quiet=quiet_hours_of(sharding.quiet_hours),
        )
