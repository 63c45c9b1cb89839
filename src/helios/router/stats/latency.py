"""How long commands take, as it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from helios.admin.router_views import LatencyView
from helios.router._fast_path import Latencies


def latency(total_ns: int, buckets: Iterable[tuple[int, int]]) -> LatencyView:
    """Counts of commands by their longest time, in nanoseconds, as they are shown."""
    ordered = sorted(buckets)
    return LatencyView(
        sum(count for _, count in ordered), total_ns / 1e9, tuple((bound / 1e9, count) for bound, count in ordered)
    )


def latency_of(latencies: Latencies) -> LatencyView:
    """The same of one kind of command."""
    return latency(latencies.total_ns, latencies.counted())


def together(views: Iterable[LatencyView]) -> LatencyView:
    """All of them as one."""
    buckets: Counter[float] = Counter()
    count, total_s = 0, 0.0
    for each in views:
        count += each.count
        total_s += each.total_s
        buckets.update(dict(each.buckets))
    return LatencyView(count, total_s, tuple(sorted(buckets.items())))
