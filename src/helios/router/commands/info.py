"""INFO and CONFIG GET: what clients and tools read of a server, said of the cluster."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helios.errors import HeliosError, Unavailable
from helios.resp.encoding import verbatim
from helios.router.commands.keyspace import count_keys, decoded
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.limits import MEMORY, SLOW_READER
from helios.router.pubsub.subscriptions import Kind
from helios.router.stats.latency import latency_of
from helios.router.stats.merged_info import Info, Section, merged, parsed

# What is said as long as no server has been heard: the version that Valkey itself gives to Redis clients.
_REDIS_VERSION = "7.2.4"
# How long a server may take to say its part; one that does not is left out and named.
_REQUEST_TIMEOUT_S = 1.0
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


def product(router: RouterContext) -> tuple[str, str]:
    """The servers' product and its version, as HELLO gives them; a Redis of old as long as none has been heard."""
    told = router.product
    if b"valkey_version" in told:
        return told.get(b"server_name", b"valkey").decode(), told[b"valkey_version"].decode()
    return "redis", redis_version(router)


async def learn_product(router: RouterContext) -> None:
    """See to it that the product is known, where a server says it."""
    if not router.product and router.reason() is None:
        await _told(router, ["server"])


def _server(router: RouterContext) -> Fields:
    now, uptime_s = router.clock.wall(), int(router.clock.monotonic() - router.started_at)
    port = router.port
    return {
        "redis_version": redis_version(router),
        "redis_mode": "standalone",
        "helios_node": router.options.node,
        "helios_version": router.options.version,
        "os": " ".join(os.uname()[i] for i in (0, 2, 4)),
        "process_id": os.getpid(),
        "process_supervised": "no",
        "run_id": router.session_id.rjust(40, "0"),
        "tcp_port": port,
        "server_time_usec": int(now * 1_000_000),
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s // 86400,
        "executable": sys.executable,
        "config_file": "",
        "listener0": f"name=tcp,bind=*,port={port}",
    }


def _helios(router: RouterContext) -> Fields:
    topology = router.topology
    return {
        "epoch": topology.epoch,
        "session": router.session_id,
        "sessions_total": router.keeper.sessions,
        "lease_renewal_gap_max_ms": round(router.keeper.longest_gap_s * 1000),
        "serving": 1 if router.reason() is None else 0,
        "shards": len(topology.shards),
        "dedicated_connections": len(router.pool.dedicated),
        "held_clients": len(router.holding),
        "held_commands_total": router.holding.total,
        "replica_reads_total": router.pool.replicas.counts.served,
        "replica_reads_by_leader_total": router.pool.replicas.counts.by_leader,
        "unclean_shards": len(router.unclean),
        "stray_scripts": len(router.stray_scripts.found),
        "router_memory_rss": resident_bytes(),
    }


def _clients(router: RouterContext) -> Fields:
    return {
        "connected_clients": len(router.clients),
        "maxclients": router.options.clients,
        "client_longest_output_list": max((len(client.replies) for client in router.clients.values()), default=0),
        "blocked_clients": len(router.blocked) + len(router.holding),
        "tracking_clients": len(router.tracker),
        "pubsub_clients": router.hub.topics.subscribers,
        "watching_clients": len(router.watches),
        "total_watched_keys": sum(len(watch.keys) for watch in router.watches),
        "total_blocking_keys": len({key for waiting in router.blocked for key in waiting.keys}),
    }


def _memory(router: RouterContext) -> Fields:
    return {"mem_clients_normal": router.clients.limits.held_bytes}


def resident_bytes() -> int:
    """The memory that this process occupies now; where the system does not say, the most that it has occupied."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _stats(router: RouterContext) -> Fields:
    return {
        "total_connections_received": router.clients.total,
        "total_commands_processed": router.totals.commands,
        "instantaneous_ops_per_sec": round(router.rate_meter.per_s),
        "total_net_input_bytes": router.totals.bytes_in,
        "total_net_output_bytes": router.totals.bytes_out,
        "total_error_replies": sum(router.totals.errors.values()),
        "evicted_clients": router.clients.limits.ended[MEMORY],
        "rejected_connections": router.clients.limits.refused.total(),
        "client_output_buffer_limit_disconnections": router.clients.limits.ended[SLOW_READER],
        "tracking_total_keys": len(router.tracker.interests),
        "tracking_total_items": router.tracker.interests.items,
        "tracking_total_prefixes": len(router.tracker.prefixes),
        "acl_access_denied_auth": router.authenticator.logins.failed,
        **{field: router.hub.topics.number(kind) for field, kind in _SUBSCRIBED.items()},
    }


def _persistence(router: RouterContext) -> Fields:
    # Whoever asks whether a server is still reading its data can use a router at once: errors name shards that do.
    return {"loading": 0, "async_loading": 0}


def _cpu(router: RouterContext) -> Fields:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"router_cpu_sys": f"{used.ru_stime:.6f}", "router_cpu_user": f"{used.ru_utime:.6f}"}


def _replication(router: RouterContext) -> Fields:
    """Of a server without replicas: to clients, a router is one."""
    return {
        "role": "master",
        "connected_slaves": 0,
        "replicas_waiting_psync": 0,
        "master_failover_state": "no-failover",
        "master_replid": "0" * 40,
        "master_replid2": "0" * 40,
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 0,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    }


def _cluster(router: RouterContext) -> Fields:
    return {"cluster_enabled": 0}


def _errorstats(router: RouterContext) -> Fields:
    return {f"errorstat_{name}": f"count={count}" for name, count in sorted(router.totals.errors.items())}


def _commandstats(router: RouterContext) -> Fields:
    fields: Fields = {}
    for name, kind in sorted(router.totals.kinds.items()):
        calls = sum(count for _, count in kind.latencies.counted())
        if calls or kind.rejected:
            usec = kind.latencies.total_ns // 1000
            fields[f"cmdstat_{name}"] = (
                f"calls={calls},usec={usec},usec_per_call={usec / max(calls, 1):.2f},"
                f"rejected_calls={kind.rejected},failed_calls={kind.failed}"
            )
    return fields


def _latencystats(router: RouterContext) -> Fields:
    fields: Fields = {}
    for name, kind in sorted(router.totals.kinds.items()):
        view = latency_of(kind.latencies)
        if view.count:
            shown = (f"p{part:g}={(view.at(part / 100) or 0.0) * 1e6:.3f}" for part in (50, 99, 99.9))
            fields[f"latency_percentiles_usec_{name}"] = ",".join(shown)
    return fields


def _nothing(router: RouterContext) -> Fields:
    return {}


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of INFO: what the router says itself, over what its servers say where that is asked for."""

    title: str
    own: Callable[[RouterContext], Fields] = _nothing
    told: bool = True  # whether servers are asked for it
    usual: bool = True  # whether it is given where none is named


_SECTIONS = {
    section.title.replace(" ", "").lower(): section
    for section in (
        _Section("Server", _server),
        _Section("Helios", _helios, told=False),
        _Section("Clients", _clients),
        _Section("Memory", _memory),
        _Section("Persistence", _persistence),
        _Section("Stats", _stats),
        _Section("Replication", _replication, told=False),
        _Section("CPU", _cpu),
        _Section("Modules"),
        _Section("Commandstats", _commandstats, told=False, usual=False),
        _Section("Errorstats", _errorstats, told=False),
        _Section("Latencystats", _latencystats, told=False, usual=False),
        _Section("Cluster", _cluster, told=False),
        _Section("Scripting Engines", usual=False),
        _Section("Keyspace"),
    )
}


async def reply(router: RouterContext, protocol: int, wanted: list[str]) -> bytes:
    """The INFO reply with the sections that are wanted; the usual ones where none is named."""
    everything = bool({"all", "everything"} & set(wanted))
    usual = not wanted or "default" in wanted
    named = [name for name, section in _SECTIONS.items() if everything or (usual and section.usual) or name in wanted]
    told: Info = {}
    silent: list[str] = []
    if any(_SECTIONS[name].told for name in named):
        told, silent = await _told(router, [name for name in named if _SECTIONS[name].told])
    parts: list[str] = []
    for name in named:
        section = _SECTIONS[name]
        fields: Fields = {**told.get(name, {}), **section.own(router)}
        if name == "keyspace":
            fields = await _keyspace(router, told.get(name, {}))
        elif name == "server" and silent:
            fields["silent_shards"] = ",".join(silent)
        parts.append(f"# {section.title}\r\n" + "".join(f"{field}:{value}\r\n" for field, value in fields.items()))
    return verbatim("\r\n".join(parts).encode(), protocol)


async def last_save(router: RouterContext) -> int:
    """When the servers had last written a snapshot, all of them; in Unix seconds. Raises Unavailable."""
    told, silent = await _told(router, ["persistence"])
    saved = told.get("persistence", {}).get("rdb_last_save_time")
    if saved is None or silent:
        raise Unavailable(f"{', '.join(silent) or 'no server'} does not say when it was saved; try again")
    return int(saved)


async def _told(router: RouterContext, sections: list[str]) -> tuple[Info, list[str]]:
    """What the servers say together, and the shards that say nothing."""
    if router.reason() is not None:
        return {}, []
    command = [b"INFO", *(name.encode() for name in sections)]
    asked = {shard.id: router.pool.ask(shard.id, command) for shard in router.topology.shards}
    if asked:
        await asyncio.wait(asked.values(), timeout=_REQUEST_TIMEOUT_S)
    texts = {shard: decoded(reply.result()) for shard, reply in asked.items() if _is_heard(reply)}
    silent = [shard for shard in asked if shard not in texts]
    return merged([parsed(text) for text in texts.values()]), silent


def _is_heard(reply: asyncio.Future[bytes]) -> bool:
    return reply.done() and reply.result()[:1] == b"$"


async def _keyspace(router: RouterContext, told: Section) -> Fields:
    """The number of keys, each counted where it is owned; nothing where a shard does not say."""
    try:
        keys = await count_keys(router)
    except (ErrorReply, HeliosError):
        return {}
    if not keys:
        return {}
    others = dict(part.partition("=")[::2] for part in told.get("db0", "expires=0,avg_ttl=0").split(","))
    # Copies that are not owned yet, or no longer, count among the servers' expires.
    others |= {"keys": str(keys), "expires": str(min(int(others["expires"]), keys))}
    return {"db0": ",".join(f"{name}={value}" for name, value in {"keys": "", **others}.items())}


# What programs look at that test or tune how values are kept; the same on every server that Helios starts.
_ENCODING = ("hash-max-", "list-max-", "list-compress-", "set-max-", "zset-max-", "stream-node-", "hll-sparse-", "lfu-")


async def encodings(router: RouterContext) -> dict[str, str]:
    """What a server says to CONFIG GET of how it keeps values; nothing where none answers."""
    if router.reason() is not None or router.routes is None:
        return {}
    patterns = [f"{name}*".encode() for name in _ENCODING]
    reply = await router.pool.ask(router.routes.home, [b"CONFIG", b"GET", *patterns], 2)
    if reply[:1] != b"*":
        return {}
    flat = [part.decode("latin-1") for part in decoded(reply)]
    said = {name.lower(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return {name: value for name, value in said.items() if name.startswith(_ENCODING)}


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
