"""Clusters with copies of each key as real processes: who leads, a client that remembers, and what must be there."""

from __future__ import annotations

import itertools
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster import Cluster, ask
from tests.waiting import blocking_until

from helios.node.files import MemberFolder
from helios.node.member_state import member_of

LONG_S = 120.0


def complete(cluster: Cluster) -> bool:
    """Whether the cluster's own check finds that nothing is missing; it cannot look while a shard has no leader."""
    try:
        said = cluster.command("CHECK", timeout_s=30.0)
    except OSError:
        return False
    return isinstance(said, list) and bool(fields(said)[b"clean"])


def in_sync(cluster: Cluster) -> bool:
    """Whether every shard has its leader, and copies that follow it closely."""
    listed = cluster.command("LISTSHARDS", timeout_s=30.0)
    if not isinstance(listed, list):
        return False
    shards = [fields(view) for view in listed]
    copies = [fields(copy) for shard in shards for copy in shard[b"copies"]]  # type: ignore[attr-defined]
    return all(shard[b"status"] == b"ok" for shard in shards) and all(copy[b"in_sync"] for copy in copies)


def fields(said: object) -> dict[object, object]:
    """The names and values of a flat list."""
    assert isinstance(said, list), said
    return dict(zip(said[::2], said[1::2], strict=True))


def leader(cluster: Cluster, shard: str) -> str:
    """The member that leads a shard."""
    nodes = cluster.command("LISTNODES", timeout_s=30.0)
    assert isinstance(nodes, list)
    by_id = {view[b"id"]: view[b"leader"] for view in map(fields, nodes)}
    found = by_id[shard.encode()]
    assert isinstance(found, bytes)
    return found.decode()


def keys_of(cluster: Cluster, shard: str) -> Iterator[str]:
    """Keys that the shard owns, without end."""
    for number in itertools.count():
        key = f"key:{number}"
        said = cluster.command("NODEFORKEY", key)
        assert isinstance(said, list), said
        if shard.encode() in said:
            yield key


def kill(cluster: Cluster, member_id: str) -> None:
    """End a data server at once."""
    process = member_of(folder_of(cluster, member_id))
    assert process is not None, member_id
    process.id.send(signal.SIGKILL)


def led_by_another(cluster: Cluster, shard: str, before: str) -> None:
    """Return when another member leads the shard."""
    blocking_until(lambda: leader(cluster, shard) != before, LONG_S)


class Writer:
    """A client that writes key after key, and remembers what was acknowledged."""

    def __init__(self, port: int) -> None:
        self.acknowledged: dict[str, str] = {}
        self.lately = 0
        self.refused: Counter[str] = Counter()
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._ended.is_set():
            number += 1
            try:
                said = ask(self._port, "SET", f"key:{number}", str(number), timeout_s=30.0)
            except OSError:
                continue
            if isinstance(said, Exception):
                self.refused[str(said).split(" ")[0]] += 1
            if said == b"OK":
                self.acknowledged[f"key:{number}"] = str(number)
                self.lately += 1

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the block ends."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def progresses(self) -> None:
        """Return when a hundred writes more were acknowledged."""
        self.lately = 0
        blocking_until(lambda: self.lately > 100, LONG_S)


def assert_kept(cluster: Cluster, writer: Writer) -> None:
    """Everything that was acknowledged is there."""
    keys = list(writer.acknowledged)
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        said = cluster.command("MGET", *some, timeout_s=60.0)
        assert said == [writer.acknowledged[key].encode() for key in some]


def folder_of(cluster: Cluster, member_id: str) -> MemberFolder:
    """Where the data server that a member is has its files."""
    return cluster.data.node(node_of(member_id)).member(member_id)


def node_of(member_id: str) -> str:
    """The node that a member is on."""
    return member_id.partition("@")[2] or member_id.rpartition(".")[0]
