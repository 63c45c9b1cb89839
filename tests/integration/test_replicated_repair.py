"""A cluster with copies of each key loses machines, files and ports, and nothing acknowledged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster import Cluster, ask, ending, running_cluster
from tests.given import given
from tests.replicated_cluster import (
    LONG_S,
    Writer,
    assert_kept,
    complete,
    fields,
    folder_of,
    kill,
    leader,
    led_by_another,
    node_of,
)
from tests.waiting import blocking_until

from helios.model.ids import founder_id, replica_id
from helios.node.member_state import member_of
from helios.node.ports import taken as port_taken

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400)]

FACTOR = ["--replication-factor", "3"]
SOON = {"HELIOS_REPLICATION__FAILOVER_TIMEOUT": "2"}
NODES = ("shard-1", "shard-2", "shard-3")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of three, whose shards have all their members."""
    with running_cluster(tmp_path, 3, SOON, FACTOR) as cluster:
        blocking_until(lambda: complete(cluster), LONG_S)
        yield cluster


@contextmanager
def absent(cluster: Cluster, node: str) -> Iterator[None]:
    """The node's agent stands still, and sees and mends nothing."""
    agent = cluster.agent(node)
    assert agent is not None
    agent.send(signal.SIGSTOP)
    try:
        yield
    finally:
        agent.send(signal.SIGCONT)


def gone(cluster: Cluster, member: str) -> None:
    """Kill a data server, and return when it is dead."""
    process = member_of(folder_of(cluster, member))
    assert process is not None
    kill(cluster, member)
    blocking_until(lambda: not process.running(), LONG_S)


def is_back(cluster: Cluster, member: str) -> None:
    """Return when the data server runs and the cluster misses nothing."""
    blocking_until(lambda: has_all(cluster, member), LONG_S)
    blocking_until(lambda: complete(cluster), LONG_S)


def has_all(cluster: Cluster, member: str) -> bool:
    """Whether a data server follows the leader of its shard and has everything, or leads it."""
    try:
        said = cluster.server_command(member, "INFO", "replication")
    except OSError:
        return False
    return isinstance(said, bytes) and (b"master_link_status:up" in said or b"role:master" in said)


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        ("leader", "lost"),
        ("replica", "corrupt"),
        pytest.param("leader", "corrupt", marks=pytest.mark.crashes),
        pytest.param("replica", "lost", marks=pytest.mark.crashes),
    ],
)
def test_files_of_one_member_are_made_anew_from_the_others(cluster: Cluster, which: str, damage: str) -> None:
    writer = Writer(cluster.resp_ports[0])
    led = founder_id("shard-2")
    member = led if which == "leader" else replica_id("shard-2", "shard-3")
    with writer.writing():
        writer.progresses()
        with absent(cluster, node_of(member)):
            gone(cluster, member)
            files = folder_of(cluster, member).root / "appendonlydir"
            if damage == "lost":
                shutil.rmtree(files)
            else:
                for path in files.glob("*.aof"):
                    path.write_bytes(b"!" * 200)
            if which == "leader":
                led_by_another(cluster, "shard-2", led)
                writer.progresses()
        is_back(cluster, member)
        writer.progresses()
        # What was made anew is good enough to lead.
        before = leader(cluster, "shard-2")
        with absent(cluster, node_of(before)):
            gone(cluster, before)
            led_by_another(cluster, "shard-2", before)
            writer.progresses()
        is_back(cluster, before)
    assert_kept(cluster, writer)


@pytest.mark.parametrize("which", [pytest.param("replica", marks=pytest.mark.crashes), "leader"])
def test_a_member_whose_port_is_taken_gets_another(cluster: Cluster, which: str) -> None:
    writer = Writer(cluster.resp_ports[0])
    led = founder_id("shard-2")
    member = led if which == "leader" else replica_id("shard-2", "shard-3")
    with writer.writing(), socket.socket() as taken:
        writer.progresses()
        port = cluster.server_port(member)
        with absent(cluster, node_of(member)):
            gone(cluster, member)
            # A killed process is dead before the last of its threads lets go of what it listened on.
            blocking_until(lambda: port_taken("127.0.0.1", port) is None, LONG_S)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
        blocking_until(lambda: cluster.server_port(member) != port, LONG_S)
        is_back(cluster, member)
        writer.progresses()
    assert_kept(cluster, writer)


@contextmanager
def small_disk(cluster: Cluster, member: str) -> Iterator[Path]:
    """A disk of its own for a data server that has not been started yet."""
    root = folder_of(cluster, member).root
    root.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", root], check=False)
    if not given(mounted.returncode == 0, "a disk of its own needs root"):
        pytest.skip("a disk of its own needs root")
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a disk; gives the file that takes it."""
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(4096))
    finally:
        os.close(descriptor)
    return ballast


def reason_of(cluster: Cluster, node: str) -> str:
    """What is said of a node that is not well."""
    nodes = cluster.command("LISTNODES", timeout_s=30.0)
    assert isinstance(nodes, list)
    found = next(view for view in map(fields, nodes) if view[b"id"] == node.encode())[b"status_reason"]
    assert isinstance(found, bytes)
    return found.decode()


@pytest.mark.crashes
@pytest.mark.parametrize("which", ["leader", "replica"])
def test_the_disk_of_one_member_is_full_and_the_others_go_on(tmp_path: Path, which: str) -> None:
    settings = {**SOON, "HELIOS_COORDINATOR__HEALTH_TIMEOUT": "6"}
    cluster = Cluster(tmp_path, 3, settings, FACTOR)
    led = founder_id("shard-2")
    member = led if which == "leader" else replica_id("shard-2", "shard-3")
    with small_disk(cluster, member) as disk, ending(cluster):
        cluster.start()
        blocking_until(lambda: complete(cluster), LONG_S)
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            ballast = fill(disk)
            if which == "leader":
                led_by_another(cluster, "shard-2", led)
            # It follows, or followed, and cannot take down what comes from its leader: it is out until there is room.
            blocking_until(lambda: "make room" in reason_of(cluster, node_of(member)), LONG_S)
            blocking_until(lambda: not complete(cluster), LONG_S)
            writer.progresses()  # what was under way before may be told as unknown
            writer.refused.clear()
            writer.progresses()
            assert not writer.refused
            ballast.unlink()
            is_back(cluster, member)
            writer.progresses()
        assert_kept(cluster, writer)


def test_everything_is_killed_and_started_in_another_order(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, SOON, FACTOR) as cluster:
        blocking_until(lambda: complete(cluster), LONG_S)
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            led = leader(cluster, "shard-1")
            kill(cluster, led)
            led_by_another(cluster, "shard-1", led)
            writer.progresses()
        cluster.clean_up()
        for node in reversed(NODES):
            port = cluster.resp_ports[NODES.index(node)]
            started = cluster.helios("node", "--id", node, "--listen", f"localhost:{port}")
            # The first serves nothing yet: a majority of each shard is missing.
            blocking_until(lambda node=node: cluster.agent(node) is not None, LONG_S)  # type: ignore[misc]
            assert started.process.poll() is None
        blocking_until(lambda: served(cluster.resp_ports[2]), LONG_S)
        blocking_until(lambda: complete(cluster), LONG_S)
        assert_kept(cluster, writer)


def served(port: int) -> bool:
    """Whether a router takes writes."""
    try:
        return ask(port, "SET", "again", "1", timeout_s=30.0) == b"OK"
    except OSError:
        return False
