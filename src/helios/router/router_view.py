"""What a router says of itself, for metrics and for those who watch it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from helios.admin.router_views import RouterShardView, RouterView, SlowCommandsView, SlowCommandView
from helios.router.context import RouterContext
from helios.router.fenced import fenced_shard
from helios.router.stats.latency import latency, together

# States of a link, the worst first: a shard's is the worst of those that are in use.
_STATES = ("down", "connecting", "closed", "ready", "idle")


def view(router: RouterContext) -> RouterView:
    """The router as it is now."""
    options, now = router.options, router.clock.monotonic()
    shards = list(_shards(router))
    held = len(router.holding)
    return RouterView(
        session=router.session_id,
        node=options.node,
        worker=options.worker,
        pid=os.getpid(),
        version=options.version,
        answers=True,
        error=router.reason(),
        epoch=router.topology.epoch,
        lease_left_s=round(max(router.lease.deadline - now, 0.0), 3),
        uptime_s=round(now - router.started_at, 3),
        sessions=router.keeper.sessions,
        clients=len(router.clients),
        clients_max=options.clients,
        clients_total=router.clients.total,
        clients_bytes=router.clients.limits.held_bytes,
        refused=dict(router.clients.limits.refused),
        disconnected=dict(router.clients.limits.ended),
        commands=router.totals.commands,
        commands_per_s=round(router.rate_meter.per_s, 1),
        bytes_in=router.totals.bytes_in,
        bytes_out=router.totals.bytes_out,
        held=held,
        held_total=router.holding.total,
        slowed_total=router.holding.delayed,
        replica_reads=router.pool.replicas.counts.served,
        replica_reads_by_leader=router.pool.replicas.counts.by_leader,
        errors=dict(sorted(router.totals.errors.items())),
        unanswered=sum(shard.unanswered for shard in shards),
        slow_commands=router.slowlog.total,
        stray_scripts=len(router.stray_scripts.found),
        latency=together([shard.latency for shard in shards]),
        shards=tuple(shards),
        hot_keys=router.hot_keys.hottest(),
    )


def slow_commands(router: RouterContext, count: int) -> SlowCommandsView:
    """Its last slow commands, the newest first."""
    options = router.options
    return SlowCommandsView(
        tuple(
            SlowCommandView(
                slow.at,
                round(slow.took_s, 6),
                options.node,
                options.worker,
                slow.client,
                _text(slow.name),
                tuple(map(_text, slow.arguments)),
            )
            for slow in router.slowlog.last(count)
        ),
        missing=(),
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _shards(router: RouterContext) -> Iterator[RouterShardView]:
    held = _held_by_shard(router)
    for shard in router.topology.shards:
        links = router.pool.of(shard.id)
        retired = router.pool.retired
        requests = list(retired.requests.get(shard.id, (0, 0, 0)))
        buckets = Counter(retired.buckets.get(shard.id, {}))
        total_ns = retired.total_ns[shard.id]
        for link in links:
            requests = [one + other for one, other in zip(requests, link.counts, strict=True)]
            buckets.update(dict(link.latencies.counted()))
            total_ns += link.latencies.total_ns
        states = {link.state.value for link in links}
        yield RouterShardView(
            shard=shard.id,
            state=next((state for state in _STATES if state in states), "idle"),
            unanswered=sum(link.issued - link.answered for link in links),
            queued_bytes=sum(link.queued_bytes for link in links),
            held=held[shard.id],
            reads=requests[0],
            writes=requests[1],
            others=requests[2],
            latency=latency(total_ns, buckets.items()),
        )


def _held_by_shard(router: RouterContext) -> Counter[str]:
    """The commands that wait for a fence to be lifted, by the shard that has had their keys."""
    held: Counter[str] = Counter()
    routes = router.routes
    if routes is None or not routes.has_fence:
        return held
    for caller in router.holding.callers():
        shard = fenced_shard(routes, caller.waiting[0][1]) if caller.waiting else ""
        if shard:
            held[shard] += 1
    return held
