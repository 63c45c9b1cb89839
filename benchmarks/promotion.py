"""How long clients wait while the leadership of a shard moves: `python -m benchmarks.promotion`.

A cluster of three nodes with three copies of each key, and clients that write keys of one shard at a steady rate, at
every node. The shard is promoted from node to node; the longest gap between two replies to the same client, and the
longest time that a command took, are printed for each promotion. `--busy` has other processes with usual priority use
the machine meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from tests.cluster import Cluster, ask, running_cluster
from tests.replicated_cluster import complete, keys_of, leader, led_by_another
from tests.waiting import blocking_until

from helios.resp.wire import ReplySplitter, encode_command

NODES = ("shard-1", "shard-2", "shard-3")
SHARD = NODES[0]
KEYS = 200
TICK_S = 0.002
CONNECTIONS = 6
LONG_S = 120.0
SPIN = "while True: pass"


@dataclass
class Pause:
    """What clients saw of a while."""

    gap_ms: float = 0.0
    latency_ms: float = 0.0
    answered: int = 0
    errors: list[bytes] = field(default_factory=list)


class Writers(asyncio.Protocol):
    """One client's connection: what it has sent and when, and what comes back."""

    def __init__(self, seen: list[Pause]) -> None:
        self._seen = seen
        self._sent: deque[float] = deque()
        self._splitter = ReplySplitter()
        self._last = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The node has taken it."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def write(self, commands: list[bytes]) -> None:
        """Send some commands."""
        assert self._transport is not None
        now = time.perf_counter()
        if not self._sent:
            self._last = now
        self._sent.extend([now] * len(commands))
        self._transport.write(b"".join(commands))

    def data_received(self, data: bytes) -> None:
        """Replies have come."""
        now, pause = time.perf_counter(), self._seen[-1]
        replies = self._splitter.feed(data)
        if not replies:
            return
        pause.gap_ms = max(pause.gap_ms, (now - self._last) * 1000)
        self._last = now
        pause.latency_ms = max(pause.latency_ms, (now - self._sent[0]) * 1000)
        pause.answered += len(replies)
        for reply in replies:
            self._sent.popleft()
            if reply[:1] == b"-":
                pause.errors.append(reply)


async def _measure(cluster: Cluster, per_s: int, promotions: int) -> list[Pause]:
    seen = [Pause()]
    keys = await asyncio.to_thread(lambda: list(itertools.islice(keys_of(cluster, SHARD), KEYS)))
    commands = [encode_command([b"SET", key.encode(), b"x" * 64]) for key in keys]
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Writers(seen), "127.0.0.1", port))[1]
        for port, _ in zip(itertools.cycle(cluster.resp_ports), range(CONNECTIONS), strict=False)
    ]
    load = asyncio.create_task(_load(clients, commands, per_s))
    await asyncio.sleep(2.0)
    pauses = []
    for number in range(promotions):
        node = NODES[(number + 1) % len(NODES)]
        await asyncio.to_thread(blocking_until, lambda: complete(cluster), LONG_S)
        seen.append(Pause())
        await asyncio.sleep(1.0)
        quiet = seen[-1]
        seen.append(Pause())
        before = await asyncio.to_thread(leader, cluster, SHARD)
        said = await asyncio.to_thread(ask, cluster.resp_ports[0], "PROMOTE", SHARD, node)
        if isinstance(said, Exception):
            raise SystemExit(str(said))
        await asyncio.to_thread(led_by_another, cluster, SHARD, before)
        await asyncio.sleep(1.0)
        _show(node, quiet, seen[-1])
        pauses.append(seen[-1])
    load.cancel()
    return pauses


async def _load(clients: list[Writers], commands: list[bytes], per_s: int) -> None:
    began, sent = time.perf_counter(), 0
    turns = itertools.cycle(clients)
    source = itertools.cycle(commands)
    while True:
        due = round((time.perf_counter() - began) * per_s)
        count, sent = min(due - sent, 1000), due
        share = -(-count // len(clients))
        while count > 0:
            next(turns).write(list(itertools.islice(source, min(share, count))))
            count -= share
        await asyncio.sleep(TICK_S)


def _show(node: str, quiet: Pause, pause: Pause) -> None:
    print(
        f"to {node}: gap {pause.gap_ms:6.1f} ms, longest command {pause.latency_ms:6.1f} ms, "
        f"{pause.answered} answered, {len(pause.errors)} errors",
        f"(the second before: gap {quiet.gap_ms:.1f} ms, {quiet.answered} answered; load {os.getloadavg()[0]:.1f})",
        flush=True,
    )
    for error in pause.errors[:3]:
        print(f"  {error!r}")


@contextmanager
def _neighbours(count: int) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promotion", description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000, help="writes a second")
    parser.add_argument("--promotions", type=int, default=9)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="processes that use the machine meanwhile")
    options = parser.parse_args()
    flags = ["--replication-factor", "3"]
    with tempfile.TemporaryDirectory(prefix="promotion") as folder, ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(Path(folder), 3, flags=flags, checked=False))
        blocking_until(lambda: complete(cluster), LONG_S)
        stack.enter_context(_neighbours(options.busy))
        pauses = uvloop.run(_measure(cluster, options.rate, options.promotions))
        gaps = sorted(pause.gap_ms for pause in pauses)
        print(
            f"{options.rate} writes a second, {options.busy} neighbours, {len(os.sched_getaffinity(0))} processors: "
            f"gap median {statistics.median(gaps):.1f} ms, longest {gaps[-1]:.1f} ms"
        )


if __name__ == "__main__":
    main()
