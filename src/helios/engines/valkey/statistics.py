"""What a server's own counters say of its load."""

from __future__ import annotations

from collections.abc import Mapping

# Commands of administration, of Helios itself and of copying: not what clients load a server with.
_NOT_COUNTED = frozenset(
    (
        *("acl", "auth", "bgrewriteaof", "bgsave", "client", "cluster", "command", "commandlog", "config", "dbsize"),
        *("debug", "dump", "echo", "failover", "function", "hello", "info", "lastsave", "latency", "memory", "module"),
        *(
            "object",
            "pexpiretime",
            "ping",
            "psync",
            "quit",
            "replconf",
            "replicaof",
            "reset",
            "restore",
            "role",
            "save",
        ),
        *("scan", "script", "select", "shutdown", "slowlog", "sync", "time", "wait", "waitaof"),
    )
)
# Of the commands for streams those that only read, or whose changes are named.
_STREAMS_NAMED = frozenset(
    (
        *(b"xadd", b"xdel", b"xtrim", b"xlen", b"xrange", b"xrevrange", b"xread", b"xpending"),
        *(b"xinfo|stream", b"xinfo|groups", b"xinfo|consumers", b"xinfo|help", b"xgroup|help"),
    )
)
# The counter of an access frequency begins here, and with the default lfu-log-factor of 10 each step upwards takes
# ten more accesses than the one before.
_FREQUENCY_OF_NEW_KEYS = 5
_ACCESSES_A_STEP = 10


def operations_in(info: Mapping[str, str]) -> int:
    """The commands since the server's start that INFO's commandstats count, without administration and copying."""
    counted = (name.removeprefix("cmdstat_") for name in info if name.startswith("cmdstat_"))
    return sum(_calls(info, name) for name in counted if name.partition("|")[0] not in _NOT_COUNTED)


def script_calls_in(info: Mapping[str, str]) -> int:
    """The calls of scripts and functions that may write, since the server's start."""
    return sum(_calls(info, name) for name in ("eval", "evalsha", "fcall"))


def stream_writes_in(commandstats: bytes) -> bytes:
    """The lines of all commands that may change a stream and name no key, as they stand; empty where there is none.

    Each call changes one of them, its count or the time that it took. So does CONFIG RESETSTAT, which counts itself.
    """
    counted = {line.partition(b":")[0]: line for line in commandstats.splitlines() if line.startswith(b"cmdstat_")}
    telling = (name for name in counted if name.startswith(b"cmdstat_x") or name == b"cmdstat_config|resetstat")
    lines = [counted[name] for name in sorted(telling) if name.removeprefix(b"cmdstat_") not in _STREAMS_NAMED]
    return b"\n".join([b"counted", *lines]) if counted else b""


def _calls(info: Mapping[str, str], command: str) -> int:
    calls = info.get(f"cmdstat_{command}", "").partition(",")[0].removeprefix("calls=")
    return int(calls) if calls.isdigit() else 0


def hits_behind(frequency: int) -> int:
    """About how many accesses lately are behind what OBJECT FREQ says, which grows as their root does."""
    steps = max(0, frequency - _FREQUENCY_OF_NEW_KEYS)
    return _ACCESSES_A_STEP * steps * steps // 2 + steps
