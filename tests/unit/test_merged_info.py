"""The INFO of several servers as that of one."""

from __future__ import annotations

import pytest

from helios.router.stats.merged_info import human, merged, parsed

ONE = b"""# Server\r
redis_version:7.2.4\r
hz:10\r
\r
# Memory\r
used_memory:1000\r
used_memory_human:1000B\r
used_memory_peak:2000\r
used_memory_peak_perc:50.00%\r
used_memory_rss:4000\r
mem_fragmentation_ratio:4.00\r
maxmemory:5000\r
maxmemory_policy:noeviction\r
\r
# Persistence\r
aof_enabled:1\r
rdb_last_save_time:20\r
rdb_last_bgsave_status:ok\r
rdb_last_bgsave_time_sec:-1\r
\r
# CPU\r
used_cpu_sys:0.500000\r
\r
# Scripting Engines\r
engine_0:name=LUA\r
\r
# Keyspace\r
db0:keys=3,expires=1,avg_ttl=70\r
"""
OTHER = (
    ONE.replace(b"used_memory:1000", b"used_memory:3000")
    .replace(b"used_memory_rss:4000", b"used_memory_rss:8000")
    .replace(b"maxmemory:5000", b"maxmemory:0")
    .replace(b"aof_enabled:1", b"aof_enabled:0")
    .replace(b"status:ok", b"status:err")
    .replace(b"time_sec:-1", b"time_sec:3")
    .replace(b"save_time:20", b"save_time:10")
    .replace(b"keys=3,expires=1,avg_ttl=70", b"keys=4,expires=2,avg_ttl=50")
)


def test_sums_and_what_cannot_be_added_up() -> None:
    whole = merged([parsed(ONE), parsed(OTHER)])
    assert list(whole) == ["server", "memory", "persistence", "cpu", "scriptingengines", "keyspace"]
    assert whole["server"] == {"redis_version": "7.2.4", "hz": "10"}
    assert whole["memory"] == {
        "used_memory": "4000",
        "used_memory_human": "3.91K",
        "used_memory_peak": "4000",
        "used_memory_peak_perc": "100.00%",
        "used_memory_rss": "12000",
        "mem_fragmentation_ratio": "3.00",
        "maxmemory": "0",
        "maxmemory_policy": "noeviction",
    }
    assert whole["persistence"] == {
        "aof_enabled": "0",
        "rdb_last_save_time": "10",
        "rdb_last_bgsave_status": "err",
        "rdb_last_bgsave_time_sec": "3",
    }
    assert whole["cpu"] == {"used_cpu_sys": "1.000000"}
    assert whole["keyspace"] == {"db0": "keys=7,expires=3,avg_ttl=70"}


def test_one_server_is_told_as_it_is() -> None:
    assert merged([parsed(ONE)]) == parsed(ONE)
    assert merged([]) == {}


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0B"), (1023, "1023B"), (1067736, "1.02M"), (25325268992, "23.59G"), (1 << 60, "1024.00P")]
)
def test_bytes_for_people(size: int, shown: str) -> None:
    assert human(size) == shown
