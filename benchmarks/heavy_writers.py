"""A move under writers that are faster than the copy: `python -m benchmarks.heavy_writers [--keys N] [--pipeline P]`.

Two nodes as `helios up` runs them. redis-benchmark writes the keys of both at full speed through a router, while all
keys of the first move to the second. Printed: the writes a second that the servers carried out before, meanwhile and
after, by how much the moving keys were slowed, the pause, and whether the cluster's own check finds anything.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
from tests.cluster import Cluster, running_cluster

ENVIRONMENT = {"HELIOS_SHARDING__MIGRATION_RATE": "0"}
BEFORE_S = 5.0
AFTER_S = 5.0
MAX_S = 180.0
_CALLS = re.compile(rb"cmdstat_set:calls=(\d+)")


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="A move under writers that are faster than the copy.")
    parser.add_argument("--keys", type=int, default=100_000, help="keys that are written at random")
    parser.add_argument("--pipeline", type=int, default=16)
    parser.add_argument("--bytes", type=int, default=64)
    options = parser.parse_args()
    program = shutil.which("redis-benchmark")
    if program is None:
        raise SystemExit("redis-benchmark is not on PATH: install the tools of Redis or Valkey")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with (
        tempfile.TemporaryDirectory(prefix="helios-bench-") as folder,
        running_cluster(Path(folder), 2, ENVIRONMENT) as cluster,
    ):
        command = [program, "-p", str(cluster.resp_ports[0]), "-t", "set", "-c", "50", "-P", str(options.pipeline)]
        command += ["-r", str(options.keys), "-d", str(options.bytes), "-q"]
        # Every key is there before, as likely as not: so many are drawn that few are left out.
        subprocess.run([*command, "-n", str(5 * options.keys)], check=True, stdout=subprocess.DEVNULL)
        with writing([*command, "-n", "1000000000"]):
            measure(cluster)


@contextmanager
def writing(command: list[str]) -> Iterator[None]:
    """The writers run inside."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def measure(cluster: Cluster) -> None:
    """Move everything that shard-1 has, under way, and print."""
    before = _rate_over(cluster, BEFORE_S)
    began_s, began = time.monotonic(), _writes(cluster)
    migration = _ask(cluster, "MIGRATE", "shard-1", "shard-2", "*")
    print(f"{_ask(cluster, 'DBSIZE'):,} keys, those of shard-1 move to shard-2")
    shown = 0
    while migration[b"status"] in (b"pending", b"in_progress"):
        if time.monotonic() - began_s > MAX_S:
            raise SystemExit(f"it does not converge in {MAX_S:g} s: {migration}")
        time.sleep(0.1)
        migration = _ask(cluster, "MIGRATIONSTATUS", migration[b"id"])
        if migration[b"slowed_ms"] != shown:
            shown = migration[b"slowed_ms"]
            print(f"  after {time.monotonic() - began_s:4.1f} s: writes to the moving keys wait for {shown} ms")
    took_s = time.monotonic() - began_s
    during = (_writes(cluster) - began) / took_s
    after = _rate_over(cluster, AFTER_S)
    print(f"{migration[b'status'].decode()} in {took_s:.1f} s, {migration[b'keys_moved']:,} keys")
    print(f"slowed by up to {migration[b'slowed_ms']} ms, paused for {float(migration[b'pause_ms']):.0f} ms")
    print(f"writes/s: before {before:,.0f}, during {during:,.0f} ({during / before:.0%}), after {after:,.0f}")
    cluster.assert_checked()
    print("check: clean")


def _rate_over(cluster: Cluster, length_s: float) -> float:
    began_s, began = time.monotonic(), _writes(cluster)
    time.sleep(length_s)
    return (_writes(cluster) - began) / (time.monotonic() - began_s)


def _writes(cluster: Cluster) -> int:
    """SETs that the servers have carried out, all together."""
    total = 0
    for node in ("shard-1", "shard-2"):
        stats = cluster.member_command(node, "INFO", "commandstats")
        assert isinstance(stats, bytes)
        found = _CALLS.search(stats)
        total += int(found[1]) if found else 0
    return total


def _ask(cluster: Cluster, *words: str | bytes) -> Any:
    """The reply at the second node, whose router the writers do not use; maps as dictionaries."""
    reply = cluster.command(*words, port=cluster.resp_ports[1], timeout_s=60)
    if isinstance(reply, hiredis.ReplyError):
        raise SystemExit(f"{words}: {reply}")
    return dict(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else reply


if __name__ == "__main__":
    main()
