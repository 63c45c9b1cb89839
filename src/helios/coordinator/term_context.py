"""What a coordinator has to hand throughout its term."""

from __future__ import annotations

from collections.abc import Callable

from helios.control.silence import Lapse
from helios.coordinator.access import Access
from helios.coordinator.counts import Counts
from helios.coordinator.fencing import Fencing
from helios.coordinator.publisher import Publisher
from helios.coordinator.rate import RateLimit
from helios.coordinator.sessions import Sessions
from helios.model.settings import ClusterSettings
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.failpoints import OFF, Failpoints


class TermContext:
    """The store, the servers, the settings as they are now, and the speed that all moves share."""

    def __init__(
        self,
        publisher: Publisher,
        connector: Connector,
        clock: Clock,
        settings: ClusterSettings,
        new_id: Callable[[], str],
        failpoints: Failpoints = OFF,
        lapse: Lapse | None = None,
    ) -> None:
        self.publisher = publisher
        self.clock = clock
        self.settings = settings
        self.new_id = new_id
        self.failpoints = failpoints
        self.lapse = lapse  # of the coordinator before
        self.access = Access(connector, publisher)
        self.rate = RateLimit(clock, lambda: self.settings.sharding.migration_rate)
        self.bandwidth = RateLimit(clock, lambda: self.settings.sharding.migration_bandwidth)
        self.refusing: set[str] = set()  # members whose servers take no writes, by their own word
        self.counts = Counts()
        self.sessions = Sessions(publisher, clock, lambda: self.settings.router.session_ttl)

    @property
    def fencing(self) -> Fencing:
        """What waits for routers, for as long as the settings say now."""
        return Fencing(self.publisher, self.sessions, ack_timeout_s=self.settings.coordinator.fence_ack_timeout)
