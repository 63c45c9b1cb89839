"""INFO and CONFIG GET: what clients and tools read of a server, said of the cluster."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from helios.errors import HeliosError
from helios.resp.encoding import bulk
from helios.router.commands.keyspace import count_keys
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.limits import MEMORY, SLOW_READER
from helios.router.pubsub.subscriptions import Kind
from helios.router.stats.latency import latency_of

# What is said as long as no server has been heard: the version that Valkey itself gives to Redis clients.
_REDIS_VERSION = "7.2.4"
_DEFAULT = (
    "server",
    "helios",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "cluster",
    "errorstats",
    "keyspace",
)
_EXTRA = ("commandstats", "latencystats")  # given where they are asked for
# Of this router's own clients: each router counts those that it has.
_SUBSCRIBED = {
    "pubsub_channels": Kind.CHANNEL,
    "pubsub_patterns": Kind.PATTERN,
    "pubsubshard_channels": Kind.SHARD,
}
Fields = dict[str, object]


def redis_version(router: RouterContext) -> str:
    """The Redis version that clients should act on, as the members report it."""
    return router.product.get(b"redis_version", _REDIS_VERSION.encode()).decode()


def _server(router: RouterContext) -> Fields:
    product = {name.decode(): value.decode() for name, value in router.product.items() if name != b"run_id"}
    uptime_s = int(router.clock.monotonic() - router.started_at)
    return {
        "redis_version": redis_version(router),
        **{name: value for name, value in sorted(product.items()) if name != "redis_version"},
        "redis_mode": "standalone",
        "helios_node": router.options.node,
        "helios_version": router.options.version,
        "os": sys.platform,
        "arch_bits": 64,
        "process_id": os.getpid(),
        "run_id": router.session_id.rjust(40, "0"),
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86400,
    }


def _helios(router: RouterContext) -> Fields:
    topology = router.topology
    return {
        "epoch": topology.epoch,
        "session": router.session_id,
        "sessions_total": router.sessions,
        "serving": 1 if router.reason() is None else 0,
        "shards": len(topology.shards),
        "lines": len(router.pool.dedicated),
        "held_clients": len(router.holding),
        "held_commands_total": router.holding.total,
        "unclean_shards": len(router.unclean),
    }


def _clients(router: RouterContext) -> Fields:
    return {
        "connected_clients": len(router.clients),
        "maxclients": router.options.clients,
        "client_longest_output_list": max((len(client.replies) for client in router.clients.values()), default=0),
        "blocked_clients": len(router.blocked) + len(router.holding),
        "tracking_clients": 0,
        "pubsub_clients": router.hub.topics.subscribers,
        "watching_clients": len(router.watches),
        "total_watched_keys": sum(len(watch.keys) for watch in router.watches),
        "total_blocking_keys": len({key for waiting in router.blocked for key in waiting.keys}),
    }


def _memory(router: RouterContext) -> Fields:
    used = resident_bytes()
    return {
        "used_memory": used,
        "used_memory_human": f"{used / (1 << 20):.2f}M",
        "used_memory_rss": used,
        "mem_clients_normal": router.client_limits.held_bytes,
        "maxmemory": 0,
        "maxmemory_policy": "noeviction",
    }


def resident_bytes() -> int:
    """The memory that this process occupies now; where the system does not say, the most that it has occupied."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _stats(router: RouterContext) -> Fields:
    return {
        "total_connections_received": router.clients_total,
        "total_commands_processed": router.commands,
        "instantaneous_ops_per_sec": round(router.rate_meter.per_s),
        "total_net_input_bytes": router.bytes_in,
        "total_net_output_bytes": router.bytes_out,
        "total_error_replies": sum(router.errors.values()),
        "evicted_clients": router.client_limits.ended[MEMORY],
        "rejected_connections": router.client_limits.refused.total(),
        "client_output_buffer_limit_disconnections": router.client_limits.ended[SLOW_READER],
        "acl_access_denied_auth": router.authenticator.logins.failed,
        **{field: router.hub.topics.number(kind) for field, kind in _SUBSCRIBED.items()},
    }


def _persistence(router: RouterContext) -> Fields:
    # Whoever asks whether a server is still reading its data can use a router at once: errors name shards that do.
    return {"loading": 0, "async_loading": 0}


def _cpu(router: RouterContext) -> Fields:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"used_cpu_sys": f"{used.ru_stime:.6f}", "used_cpu_user": f"{used.ru_utime:.6f}"}


def _replication(router: RouterContext) -> Fields:
    return {"role": "master", "connected_slaves": 0, "master_repl_offset": 0}


def _cluster(router: RouterContext) -> Fields:
    return {"cluster_enabled": 0}


def _errorstats(router: RouterContext) -> Fields:
    return {f"errorstat_{name}": f"count={count}" for name, count in sorted(router.errors.items())}


def _commandstats(router: RouterContext) -> Fields:
    fields: Fields = {}
    for name, kind in sorted(router.kinds.items()):
        calls = sum(count for _, count in kind.latencies.counted())
        if calls:
            usec = kind.latencies.total_ns // 1000
            fields[f"cmdstat_{name}"] = f"calls={calls},usec={usec},usec_per_call={usec / calls:.2f}"
    return fields


def _latencystats(router: RouterContext) -> Fields:
    fields: Fields = {}
    for name, kind in sorted(router.kinds.items()):
        view = latency_of(kind.latencies)
        if view.count:
            shown = (f"p{part:g}={(view.at(part / 100) or 0.0) * 1e6:.3f}" for part in (50, 99, 99.9))
            fields[f"latency_percentiles_usec_{name}"] = ",".join(shown)
    return fields


_SECTIONS = {
    "server": _server,
    "helios": _helios,
    "clients": _clients,
    "memory": _memory,
    "persistence": _persistence,
    "stats": _stats,
    "replication": _replication,
    "cpu": _cpu,
    "cluster": _cluster,
    "commandstats": _commandstats,
    "errorstats": _errorstats,
    "latencystats": _latencystats,
}


async def reply(router: RouterContext, protocol: int, wanted: list[str]) -> bytes:
    """The INFO reply with the sections that are wanted; the usual ones where none is named."""
    usual = not wanted or {"all", "everything", "default"} & set(wanted)
    names = [name for name in _DEFAULT if usual or name in wanted]
    names += [name for name in _EXTRA if name in wanted or {"all", "everything"} & set(wanted)]
    parts: list[str] = []
    for name in names:
        fields = await _keyspace(router) if name == "keyspace" else _SECTIONS[name](router)
        lines = "".join(f"{field}:{value}\r\n" for field, value in fields.items())
        parts.append(f"# {name.capitalize()}\r\n{lines}")
    text = "\r\n".join(parts).encode()
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else bulk(text)


async def _keyspace(router: RouterContext) -> Fields:
    """The number of keys; nothing where a shard does not say."""
    try:
        keys = await count_keys(router)
    except (ErrorReply, HeliosError):
        return {}
    return {"db0": f"keys={keys},expires=0,avg_ttl=0"} if keys else {}


def parameters(router: RouterContext) -> dict[str, str]:
    """What CONFIG GET knows: what clients and benchmarks ask servers for."""
    limits = router.options.limits
    return {
        "appendonly": "yes",
        "bind": "",
        "cluster-enabled": "no",
        "databases": "1",
        "maxclients": str(router.options.clients),
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "notify-keyspace-events": "",
        "proto-max-bulk-len": str(limits.bulk_bytes),
        "save": "",
        "slowlog-log-slower-than": str(round(router.options.slow_s * 1e6) or -1),
        "slowlog-max-len": str(router.options.slow_entries),
        "tcp-keepalive": str(round(router.options.keepalive_s)),
        "timeout": str(round(router.options.idle_timeout_s)),
    }
