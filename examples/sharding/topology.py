"""Changing the topology: a node joins and leaves again while a program writes.

python examples/sharding/topology.py
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import redis

import helios


class Writer:
    """Writes some hundred orders a second, and remembers which of them were acknowledged."""

    def __init__(self, url: str) -> None:
        self.acknowledged: dict[str, str] = {}
        self.slowest_ms = 0.0
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            while not self._stop.wait(0.001):
                number = len(self.acknowledged)
                began = time.perf_counter()
                client.set(f"order:{number}", f"goods {number}")
                self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - began) * 1000)
                self.acknowledged[f"order:{number}"] = f"goods {number}"


def run(cluster: helios.LocalCluster) -> None:
    """Grow, drain, shrink, and count what is there."""
    admin = cluster.admin
    with Writer(cluster.url) as writer:
        while len(writer.acknowledged) < 500:
            time.sleep(0.01)

        # A node is started first and taken in then. What it would get can be asked before.
        address = cluster.start_node("shard-4")
        for move in admin.preview_add_node("shard-4", address):
            print(f"would move from {move.source_node}: about {move.keys:,} keys, {move.bytes:,} bytes")
        added = admin.wait(admin.add_node("shard-4", address), progress=show)
        print(f"shard-4 is in; commands for moving keys were held for {added.pause_ms:.0f} ms at most")

        # Drained, it gives all its keys away and stays, until it is brought back (`undrain`) or removed.
        admin.wait(admin.drain("shard-4"))
        (drained,) = (node for node in admin.list_nodes() if node.id == "shard-4")
        print(f"shard-4 is {drained.state}, and a node still: {drained.keys} keys")

        # Removed, it is drained first where that has not been done, and let go when it is empty.
        cluster.remove_node("shard-4")
        print("shard-4 is out again:", ", ".join(node.id for node in admin.list_nodes()))

    with redis.Redis.from_url(cluster.url, decode_responses=True) as client:
        found = dict(zip(writer.acknowledged, client.mget(list(writer.acknowledged)), strict=True))
    lost = sum(found[key] != value for key, value in writer.acknowledged.items())
    print(
        f"{len(found):,} writes were acknowledged meanwhile, the slowest after {writer.slowest_ms:.0f} ms; {lost} lost"
    )


def show(progress: helios.Progress) -> None:
    """How far a change is."""
    print(f"{progress.change.status}: {progress.keys_moved:,} of {progress.total_keys:,} keys ({progress.part:.0%})")


if __name__ == "__main__":
    with helios.LocalCluster(shards=3) as local:
        run(local)
