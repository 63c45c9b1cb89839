"""Copies of each key: a leader is killed and another is promoted while a program writes.

python examples/sharding/failover.py
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import redis

import helios


class Writer:
    """Writes order after order, and remembers which of them were acknowledged, and what was not."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[int] = []
        self.refused: list[str] = []
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
        number = 0
        with redis.Redis.from_url(self._url) as client:
            while not self._stop.wait(0.001):
                number += 1
                try:
                    client.set(f"order:{number}", number)
                    self.acknowledged.append(number)
                except redis.RedisError as error:
                    self.refused.append(str(error))

    def goes_on(self) -> None:
        """Return when a hundred writes more were acknowledged."""
        enough = len(self.acknowledged) + 100
        until(lambda: len(self.acknowledged) >= enough)


def run(cluster: helios.LocalCluster) -> None:
    """Make copies, lose a leader, promote another, and count what is there."""
    admin = cluster.admin
    admin.change_setting("sharding.replication_factor", 3)
    admin.change_setting("replication.rebalance_leaders", "false")  # by hand here, to see it
    until(lambda: all(shard.status == "ok" for shard in admin.list_shards()))
    report(admin)

    with Writer(cluster.url) as writer:
        writer.goes_on()
        # The data server dies as it would of a fault. Another copy leads as soon as a majority agrees.
        os.kill(server_of(cluster, "shard-1"), signal.SIGKILL)
        until(lambda: leader(admin) != "shard-1")
        writer.goes_on()
        print(f"shard-1 is led by another node; {len(writer.refused)} writes were refused, or told as unknown")

        # Its agent starts it again. It follows, gets what it has missed, and can lead again.
        until(lambda: in_sync(admin, "shard-1"))
        refused = len(writer.refused)
        print(admin.promote("shard-1", "shard-1").message)
        writer.goes_on()
        print(f"{len(writer.refused) - refused} writes were refused by that")

    with redis.Redis.from_url(cluster.url) as client:
        found = client.mget([f"order:{number}" for number in writer.acknowledged])
    lost = sum(value != str(number).encode() for number, value in zip(writer.acknowledged, found, strict=True))
    print(f"{len(found):,} writes were acknowledged meanwhile; {lost} lost")
    report(admin)

    admin.change_setting("sharding.replication_factor", 1)
    until(lambda: all(len(shard.copies) == 1 for shard in admin.list_shards()))
    admin.change_setting("replication.rebalance_leaders", "true")


def server_of(cluster: helios.LocalCluster, node: str) -> int:
    """The process of a node's own data server."""
    note = cluster.folder / "nodes" / node / "member" / "member.lock"
    return int(json.loads(note.read_text())["pid"])


def leader(admin: helios.AdminClient) -> str:
    """The node that leads shard-1."""
    return admin.list_shards()[0].leader_node


def in_sync(admin: helios.AdminClient, node: str) -> bool:
    """Whether the node's copy of shard-1 follows, and counts."""
    copies = admin.list_shards()[0].copies
    return any(copy.node == node and copy.role == "replica" and copy.in_sync for copy in copies)


def report(admin: helios.AdminClient) -> None:
    """Who leads, and who follows."""
    for shard in admin.list_shards():
        names = sorted(copy.node for copy in shard.copies if copy.role == "replica")
        print(f"{shard.id} is led by {shard.leader_node}, followed by {', '.join(names)}")


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not condition():
        time.sleep(0.05)


if __name__ == "__main__":
    with helios.LocalCluster(shards=3) as local:
        run(local)
