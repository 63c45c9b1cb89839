"""The routers as Prometheus metrics, as they are at one scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from helios.admin.router_views import LatencyView, RouterView

_ROUTER = ("node", "worker")
# Bounds of the buckets, in seconds: those that routers count by are many, and each costs a series for each shard.
BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

_GAUGES: tuple[tuple[str, str, Callable[[RouterView], float]], ...] = (
    ("epoch", "The topology that the router goes by", lambda r: r.epoch),
    ("serving", "Whether the router serves keys", lambda r: float(r.error is None)),
    ("lease_left_seconds", "How long the router may serve if the store goes away now", lambda r: r.lease_left_s),
    ("uptime_seconds", "Time since the router's start", lambda r: r.uptime_s),
    ("clients", "Connections of clients", lambda r: r.clients),
    ("clients_max", "Connections that the router takes", lambda r: r.clients_max),
    ("clients_bytes", "What clients are owed and have sent that is not carried out", lambda r: r.clients_bytes),
    ("held_commands", "Commands that wait for their keys to be handed over", lambda r: r.held),
    ("stray_scripts", "Scripts that were seen to write keys of other nodes", lambda r: r.stray_scripts),
    ("unanswered_commands", "Commands sent to servers and not answered", lambda r: r.unanswered),
)
_COUNTERS: tuple[tuple[str, str, Callable[[RouterView], float]], ...] = (
    ("commands", "Commands taken from clients", lambda r: r.commands),
    ("connections", "Connections of clients that were taken", lambda r: r.clients_total),
    ("received_bytes", "Bytes from clients", lambda r: r.bytes_in),
    ("sent_bytes", "Bytes to clients", lambda r: r.bytes_out),
    ("held", "Commands that had to wait for their keys to be handed over", lambda r: r.held_total),
    ("slowed", "Writes that were delayed because their keys change faster than they copy", lambda r: r.slowed_total),
    ("replica_reads", "Reads that replicas answered, for clients that let them", lambda r: r.replica_reads),
    (
        "replica_reads_by_leader",
        "Reads of such clients that the leader answered, since no replica was known to be fresh enough",
        lambda r: r.replica_reads_by_leader,
    ),
    ("sessions", "Sessions that the router has had", lambda r: r.sessions),
    ("slow_commands", "Commands that took as long as the slow log's threshold", lambda r: r.slow_commands),
)
_BY_NAME: tuple[tuple[str, str, str, Callable[[RouterView], Mapping[str, int]]], ...] = (
    ("errors", "error", "Error replies to clients, by their first word", lambda r: r.errors),
    ("clients_refused", "reason", "Connections that were not taken", lambda r: r.refused),
    ("clients_disconnected", "reason", "Clients that were over a limit", lambda r: r.disconnected),
)
_LINK_STATES = ("ready", "connecting", "down", "closed", "idle")


class RouterStats(Collector):
    """Every router that has a session; of one that does not answer only that."""

    def __init__(self, routers: Sequence[RouterView]) -> None:
        self._all = routers
        self._routers = [router for router in routers if router.answers]

    def collect(self) -> Iterable[Metric]:
        """The metrics of all routers, labelled by node and worker."""
        up = GaugeMetricFamily("helios_router_up", "Whether a router with a session answers", labels=_ROUTER)
        for router in self._all:
            up.add_metric(_labels(router), float(router.answers))
        yield up
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(f"helios_router_{name}", text, labels=_ROUTER)
            for router in self._routers:
                gauge.add_metric(_labels(router), value(router))
            yield gauge
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(f"helios_router_{name}", text, labels=_ROUTER)
            for router in self._routers:
                counter.add_metric(_labels(router), value(router))
            yield counter
        yield from self._by_name()
        yield from self._by_shard()

    def _by_name(self) -> Iterable[Metric]:
        for name, label, text, counts in _BY_NAME:
            counter = CounterMetricFamily(f"helios_router_{name}", text, labels=(*_ROUTER, label))
            for router in self._routers:
                for word, count in counts(router).items():
                    counter.add_metric([*_labels(router), word], count)
            yield counter

    def _by_shard(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "helios_router_requests",
            "Commands sent to a shard, by whether they read, write, or are others",
            labels=(*_ROUTER, "shard", "class"),
        )
        took = HistogramMetricFamily(
            "helios_router_request_seconds",
            "Time from a command's arrival at the router to the shard's reply",
            labels=(*_ROUTER, "shard"),
        )
        state = GaugeMetricFamily(
            "helios_router_link", "1 for the state of the connection to a shard", labels=(*_ROUTER, "shard", "state")
        )
        held = GaugeMetricFamily(
            "helios_router_shard_held_commands", "Commands that wait for a shard's keys", labels=(*_ROUTER, "shard")
        )
        waiting = GaugeMetricFamily(
            "helios_router_shard_unanswered_commands",
            "Commands sent to a shard and not answered",
            labels=(*_ROUTER, "shard"),
        )
        for router in self._routers:
            for shard in router.shards:
                labels = [*_labels(router), shard.shard]
                for group, count in (("read", shard.reads), ("write", shard.writes), ("other", shard.others)):
                    requests.add_metric([*labels, group], count)
                took.add_metric(labels, buckets(shard.latency), shard.latency.total_s)
                for each in _LINK_STATES:
                    state.add_metric([*labels, each], float(each == shard.state))
                held.add_metric(labels, shard.held)
                waiting.add_metric(labels, shard.unanswered)
        yield from (requests, took, state, held, waiting)


def buckets(latency: LatencyView) -> list[tuple[str, float]]:
    """The counts of a histogram, cumulative. What was counted by finer bounds falls under the next one."""
    found = [
        (f"{bound_s:g}", float(sum(count for longest_s, count in latency.buckets if longest_s <= bound_s)))
        for bound_s in BOUNDS_S
    ]
    return [*found, ("+Inf", float(latency.count))]


def _labels(router: RouterView) -> list[str]:
    return [router.node, str(router.worker)]
