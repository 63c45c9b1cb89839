"""INFO and CONFIG GET: what clients and tools read of a server, said of the cluster."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from helios.errors import HeliosError
from helios.resp.encoding import bulk
from helios.router.keyspace import count_keys
from helios.router.refusals import ErrorReply

if TYPE_CHECKING:
    from helios.router.core import Router

# What is said as long as no server has been heard: the version that Valkey itself gives to Redis clients.
_REDIS_VERSION = "7.2.4"
_DEFAULT = ("server", "helios", "clients", "memory", "stats", "replication", "cluster", "keyspace")
Fields = dict[str, object]


def redis_version(router: Router) -> str:
    """The Redis version that clients should act on, as the members report it."""
    return router.product.get(b"redis_version", _REDIS_VERSION.encode()).decode()


def _server(router: Router) -> Fields:
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


def _helios(router: Router) -> Fields:
    topology = router.topology
    return {
        "epoch": topology.epoch,
        "session": router.session_id,
        "sessions_total": router.sessions,
        "serving": 1 if router.reason() is None else 0,
        "shards": len(topology.shards),
        "lines": len(router.pool.lines),
        "held_clients": len(router.holding),
        "held_commands_total": router.holding.total,
        "unclean_shards": len(router.unclean),
    }


def _clients(router: Router) -> Fields:
    return {
        "connected_clients": len(router.clients),
        "maxclients": router.options.clients,
        "blocked_clients": len(router.blocked) + len(router.holding),
    }


def _memory(router: Router) -> Fields:
    return {"maxmemory": 0, "maxmemory_policy": "noeviction"}


def _stats(router: Router) -> Fields:
    return {
        "total_connections_received": router.clients_total,
        "total_commands_processed": router.commands,
        "rejected_connections": router.clients_refused,
        "acl_access_denied_auth": router.gate.logins.failed,
        "client_output_buffer_limit_disconnections": router.slow_readers,
    }


def _replication(router: Router) -> Fields:
    return {"role": "master", "connected_slaves": 0, "master_repl_offset": 0}


def _cluster(router: Router) -> Fields:
    return {"cluster_enabled": 0}


_SECTIONS = {
    "server": _server,
    "helios": _helios,
    "clients": _clients,
    "memory": _memory,
    "stats": _stats,
    "replication": _replication,
    "cluster": _cluster,
}


async def reply(router: Router, protocol: int, wanted: list[str]) -> bytes:
    """The INFO reply with the sections that are wanted; the usual ones where none is named."""
    names = [
        name for name in _DEFAULT if not wanted or name in wanted or {"all", "everything", "default"} & set(wanted)
    ]
    parts: list[str] = []
    for name in names:
        fields = await _keyspace(router) if name == "keyspace" else _SECTIONS[name](router)
        lines = "".join(f"{field}:{value}\r\n" for field, value in fields.items())
        parts.append(f"# {name.capitalize()}\r\n{lines}")
    text = "\r\n".join(parts).encode()
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else bulk(text)


async def _keyspace(router: Router) -> Fields:
    """The number of keys; nothing where a shard does not say."""
    try:
        keys = await count_keys(router)
    except (ErrorReply, HeliosError):
        return {}
    return {"db0": f"keys={keys},expires=0,avg_ttl=0"} if keys else {}


def parameters(router: Router) -> dict[str, str]:
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
        "slowlog-log-slower-than": "-1",
        "tcp-keepalive": "300",
        "timeout": "0",
    }
