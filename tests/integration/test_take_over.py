"""A plain server that clients use is taken over with its keys where they are, is let go, and takes them all back."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster, ask
from tests.servers import Server, start_valkey
from tests.waiting import blocking_until

pytestmark = pytest.mark.processes

SHARDS = 2
KEYS = [f"key:{number}" for number in range(300)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A plain server with keys."""
    with start_valkey(tmp_path / "plain") as server:
        for key in KEYS:
            assert ask(server.port, "SET", key, "v") == b"OK"
        yield server


@pytest.fixture
def cluster(tmp_path: Path, server: Server) -> Iterator[Cluster]:
    """A new cluster that has adopted the server."""
    cluster = Cluster(tmp_path, SHARDS, None, ["--adopt", f"127.0.0.1:{server.port}"])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.clean_up()


def settle(cluster: Cluster) -> None:
    blocking_until(lambda: cluster.command("ACTIVEMIGRATIONS") == [])


def nodes(cluster: Cluster) -> list[str]:
    listed = cluster.command("LISTNODES")
    assert isinstance(listed, list)
    return [dict(zip(node[::2], node[1::2], strict=True))[b"id"].decode() for node in listed]


def test_a_server_is_taken_over_in_place_and_all_keys_can_leave_again(cluster: Cluster, server: Server) -> None:
    assert nodes(cluster) == ["adopted", "shard-1", "shard-2"]
    assert cluster.command("DBSIZE") == len(KEYS) == ask(server.port, "DBSIZE")
    assert {cluster.command("GET", key, port=port) for key in KEYS[:50] for port in cluster.resp_ports} == {b"v"}
    assert cluster.command("SET", "new", "1") == b"OK"
    assert ask(server.port, "GET", "new") == b"1"

    # Clients come over one by one, and while keys move none of their writes is lost.
    counted, stop = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not stop.is_set():
            assert cluster.command("INCR", "key:counter") == counted + 1
            counted += 1

    writer = threading.Thread(target=count)
    writer.start()
    cluster.command("REMOVENODE", "adopted")
    blocking_until(lambda: nodes(cluster) == ["shard-1", "shard-2"])
    stop.set()
    writer.join()
    assert counted > 0
    assert cluster.command("GET", "key:counter") == b"%d" % counted
    assert ask(server.port, "DBSIZE") == 0
    assert cluster.command("DBSIZE") == len(KEYS) + 2
    cluster.assert_checked()
    assert cluster.stop() == 0
    cluster.flags = []
    cluster.start()

    # The way out: the empty server joins, and the others leave but for the one whose routers are still needed.
    cluster.command("ADDNODE", "plain", f"127.0.0.1:{server.port}")
    settle(cluster)
    cluster.command("MIGRATE", "*", "plain", "*")
    settle(cluster)
    assert ask(server.port, "DBSIZE") == len(KEYS) + 2
    assert all(ask(server.port, "GET", key) == b"v" for key in KEYS)


def test_the_check_names_clients_that_go_past_helios(cluster: Cluster, server: Server) -> None:
    cluster.assert_checked()
    with socket.create_connection(("127.0.0.1", server.port)):
        found = str(cluster.command("CHECK", timeout_s=30))
        assert "direct_client" in found
        assert "clients that go past Helios" in found
    cluster.assert_checked()


def test_a_cluster_that_exists_adopts_no_server(cluster: Cluster, server: Server) -> None:
    assert cluster.stop() == 0
    again = cluster.start()
    assert f"adopted is the server at 127.0.0.1:{server.port}" in again.out
    assert cluster.stop() == 0
    refused = cluster.run(*cluster.words(), "--adopt", "127.0.0.1:1")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "a running server is adopted by a new one" in refused.stderr
