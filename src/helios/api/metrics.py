"""What Prometheus reads: the cluster as its administration knows it, and the gateway's own requests."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helios.admin.history import FAILOVER
from helios.admin.service import AdminService
from helios.admin.shards import NO_LEADER, NO_MAJORITY
from helios.admin.views import HistoryView, MigrationView, ShardView, StatsView
from helios.api.router_metrics import RouterStats
from helios.errors import HeliosError
from helios.model.health import NodeStatus
from helios.model.migration import ChangeKind

# They would add a series to each counter, with the moment of its making.
disable_created_metrics()  # type: ignore[no-untyped-call]

_PAUSE_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"))
_PAIR = ("source", "target")
_NO_ROUTE = "none"
_HISTORY = 400  # all that is kept of changes and failovers: many leaders may be lost at once


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    What has happened to migrations is counted from scrape to scrape: one that comes and is cleaned up in
    between is missed. Counters start over with the gateway.
    """

    def __init__(self, admin: AdminService) -> None:
        self._admin = admin
        self._registry = CollectorRegistry()
        self._pauses = Histogram(
            "helios_migration_pause_seconds",
            "Time from fence to switch: how long clients of the keys waited",
            _PAIR,
            buckets=_PAUSE_BUCKETS_S,
            registry=self._registry,
        )
        self._moved = Counter(
            "helios_migration_keys_moved",
            "Keys copied by migrations, again where a copy had to start again",
            _PAIR,
            registry=self._registry,
        )
        self._ended = Counter(
            "helios_migrations_ended", "Migrations that have ended", ("status",), registry=self._registry
        )
        self._scripts = Counter(
            "helios_scripts_ended",
            "Scripts that kept a server for too long: ended (done), or beyond that since they have written (failed)",
            ("status",),
            registry=self._registry,
        )
        for status in ("done", "failed"):
            self._scripts.labels(status)  # from the start: else an increase could not see the first one
        self._failovers = Counter(
            "helios_failovers",
            "Lost leaders of a shard that another member has replaced",
            ("shard",),
            registry=self._registry,
        )
        self._changes: set[str] | None = None  # of the last scrape's history
        self._requests = Counter(
            "helios_gateway_requests",
            "Requests that the gateway has answered",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "helios_gateway_request_seconds",
            "Time from a request's arrival to the end of its answer",
            ("method", "route"),
            buckets=_REQUEST_BUCKETS_S,
            registry=self._registry,
        )
        self._known: dict[str, MigrationView] = {}

    async def render(self) -> bytes:
        """Everything in the text format; without the cluster's metrics where it does not answer."""
        try:
            stats: StatsView | None
            stats, shards = await self._admin.figures(exact=False)
            migrations = await self._admin.migrations()
            routers = await self._admin.routers()
            history = await self._admin.history(_HISTORY)
        except HeliosError:
            stats, migrations, routers, shards = None, [], [], []
        else:
            self._follow(migrations)
            self._follow_history(history, shards)
        now = CollectorRegistry()
        now.register(_Now(stats, migrations, shards))
        now.register(RouterStats(routers))
        return generate_latest(now) + generate_latest(self._registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request of the gateway."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(seconds)

    def _follow(self, migrations: Sequence[MigrationView]) -> None:
        for after in migrations:
            before = self._known.get(after.id)
            pair = (after.source_node, after.target_node)
            moved = after.keys_moved - (before.keys_moved if before else 0)
            if moved > 0:
                self._moved.labels(*pair).inc(moved)
            if after.pause_ms is not None and (before is None or before.pause_ms is None):
                self._pauses.labels(*pair).observe(after.pause_ms / 1000)
            if after.end_time is not None and (before is None or before.end_time is None):
                self._ended.labels(after.status).inc()
        self._known = {migration.id: migration for migration in migrations}

    def _follow_history(self, history: Sequence[HistoryView], shards: Sequence[ShardView]) -> None:
        for shard in shards:
            self._failovers.labels(shard.id)
        # What is older than this gateway is nothing new.
        known = self._changes
        self._changes = {entry.change for entry in history}
        for entry in history:
            if known is None or entry.change in known:
                continue
            if entry.kind == ChangeKind.END_SCRIPT:
                self._scripts.labels(entry.status).inc()
            elif entry.kind == FAILOVER:
                self._failovers.labels(entry.shard).inc()


class _Now(Collector):
    """Gauges for one scrape."""

    def __init__(
        self, stats: StatsView | None, migrations: Sequence[MigrationView], shards: Sequence[ShardView]
    ) -> None:
        self._stats = stats
        self._shards = shards
        self._migrations = migrations

    def collect(self) -> Iterable[Metric]:
        """The gauges; only that the cluster cannot be asked, where it cannot."""
        stats = self._stats
        yield _gauge("helios_cluster_up", "Whether the cluster's state could be read", float(stats is not None))
        if stats is None:
            return
        yield _gauge("helios_epoch", "The topology's version", stats.epoch)
        yield _gauge("helios_nodes", "Nodes of the cluster", stats.total_nodes)
        yield _gauge("helios_nodes_online", "Nodes that were heard from just now", stats.online_nodes)
        yield _gauge("helios_coordinator_up", "Whether there is a coordinator", float(stats.coordinator is not None))
        yield _gauge("helios_rules", "Placement rules", stats.rules)
        yield _gauge("helios_migrations_active", "Migrations that are under way", stats.active_migrations)
        yield _gauge("helios_migrations_pending", "Migrations that wait for their turn", stats.pending_migrations)
        keys = GaugeMetricFamily(
            "helios_node_keys",
            "Keys of a node; missing where it does not answer or a move makes it hold others' too",
            labels=["node"],
        )
        online = GaugeMetricFamily("helios_node_online", "Whether a node was heard from just now", labels=["node"])
        writable = GaugeMetricFamily(
            "helios_node_writable", "Whether a node was heard from just now and takes writes", labels=["node"]
        )
        share = GaugeMetricFamily("helios_node_ring_share", "A node's part of the ring, 0 to 1", labels=["node"])
        carried = {
            "bytes": GaugeMetricFamily("helios_node_bytes", "What a node's keys occupy, estimated", labels=["node"]),
            "ops": GaugeMetricFamily("helios_node_ops", "Operations a second of a node", labels=["node"]),
            "deviation": GaugeMetricFamily(
                "helios_node_deviation", "How far a node is from its share: 0.3 is 30 % more", labels=["node"]
            ),
        }
        for node in stats.nodes:
            for field, family in carried.items():
                if (value := getattr(node, field)) is not None:
                    family.add_metric([node.id], value)
            if node.keys is not None:
                keys.add_metric([node.id], node.keys)
            online.add_metric([node.id], float(NodeStatus(node.status).heard))
            writable.add_metric([node.id], float(node.status == NodeStatus.ONLINE))
            share.add_metric([node.id], node.ring_share)
        yield from (keys, online, writable, share, *carried.values())
        yield from self._under_way()
        yield from self._copies()

    def _copies(self) -> Iterable[Metric]:
        missing = GaugeMetricFamily("helios_shard_missing_copies", "Copies that a shard lacks", labels=["shard"])
        fenced = GaugeMetricFamily("helios_shard_leaderless", "Whether a shard has no leader now", labels=["shard"])
        alone = GaugeMetricFamily(
            "helios_shard_without_majority",
            "Whether so few members of a shard follow its leader that what waits for a majority waits in vain",
            labels=["shard"],
        )
        figures = {
            "in_sync": GaugeMetricFamily(
                "helios_replica_in_sync", "Whether a copy receives what its leader writes", labels=["shard", "node"]
            ),
            "lag_bytes": GaugeMetricFamily(
                "helios_replica_lag_bytes", "What its leader has written and a copy lacks", labels=["shard", "node"]
            ),
            "lag_s": GaugeMetricFamily(
                "helios_replica_lag_seconds", "Time since a copy last told how far it is", labels=["shard", "node"]
            ),
        }
        for shard in self._shards:
            missing.add_metric([shard.id], shard.missing)
            fenced.add_metric([shard.id], float(shard.status == NO_LEADER))
            alone.add_metric([shard.id], float(shard.status == NO_MAJORITY))
            for copy in shard.copies[1:]:
                for field, family in figures.items():
                    if (value := getattr(copy, field)) is not None:
                        family.add_metric([shard.id, copy.node], float(value))
        yield from (missing, fenced, alone, *figures.values())

    def _under_way(self) -> Iterable[Metric]:
        running = [migration for migration in self._migrations if migration.status == "in_progress"]
        for name, text, value in (
            ("keys_copied", "Keys copied so far by a migration under way", lambda m: m.keys_moved),
            (
                "keys_expected",
                "Keys that a migration under way has to copy, as far as is known",
                lambda m: m.total_keys,
            ),
            (
                "slowed_seconds",
                "Delay of each write to keys that change faster than they copy",
                lambda m: m.slowed_ms / 1000,
            ),
            ("paused", "Whether a migration under way waits because somebody has paused it", lambda m: float(m.paused)),
        ):
            family = GaugeMetricFamily(f"helios_migration_{name}", text, labels=_PAIR)
            for migration in running:
                family.add_metric([migration.source_node, migration.target_node], value(migration))
            yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


class RequestMeter:
    """ASGI middleware that tells `metrics` of every request, by the route that took it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        status = 500  # what becomes of a request that ends in an unforeseen error

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # The path that was asked for would give every key a time series of its own.
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            self._metrics.answered(scope["method"], route, status, time.perf_counter() - began_s)
