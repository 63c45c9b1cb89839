"""A plain server that clients use is taken over with its keys where they are, is let go, and takes them all back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from tests.cluster import Cluster, HeliosProcess, ask
from tests.cluster_store import ON_ETCD
from tests.ports import free_ports
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


def listed(cluster: Cluster, field: bytes) -> list[str]:
    """One field of every node, as an administrator sees it."""
    replies = cluster.command("LISTNODES")
    assert isinstance(replies, list)
    return [dict(zip(node[::2], node[1::2], strict=True))[field].decode() for node in replies]


def nodes(cluster: Cluster) -> list[str]:
    return listed(cluster, b"id")


def test_a_server_is_taken_over_in_place_and_all_keys_can_leave_again(cluster: Cluster, server: Server) -> None:
    assert nodes(cluster) == ["adopted", "shard-1", "shard-2"]
    assert listed(cluster, b"status") == ["online"] * 3
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


def assert_direct_writes_move(cluster: Cluster, server: Server, folder: Path) -> None:
    """A node joins an adopted server; what clients change past Helios before a key has moved moves with it."""
    with start_valkey(folder / "joining") as joining:
        address = f"127.0.0.1:{joining.port}"
        cluster.command("SETTING", "sharding.migration_rate", "10")
        cluster.command("SETTING", "sharding.auto_rebalance", "true")
        assert b"joining" in str(cluster.command("PREVIEW", "ADDNODE", "joining", address)).encode()
        cluster.command("ADDNODE", "joining", address)
        blocking_until(lambda: moving(cluster))
        cluster.command("PAUSEMIGRATION", moving(cluster)[0])  # so that no key has moved yet
        with direct(server) as execute:
            assert "direct_client" in str(cluster.command("CHECK", timeout_s=30))
            for key in KEYS[:100]:
                assert execute("SET", key, "changed") in (True, b"OK")
            assert [execute("DEL", key) for key in KEYS[100:200]] == [1] * 100
            for number in range(100):
                assert execute("SET", f"fresh:{number}", "f") in (True, b"OK")
        cluster.assert_checked()  # the last client that goes past Helios has left, so keys may move
        cluster.command("SETTING", "sharding.migration_rate", "0")
        cluster.command("RESUMEMIGRATION", moving(cluster)[0])
        settle(cluster)
        values = [cluster.command("GET", key) for key in KEYS]
        assert values == [b"changed"] * 100 + [None] * 100 + [b"v"] * 100
        assert {cluster.command("GET", f"fresh:{number}") for number in range(100)} == {b"f"}
        assert cluster.command("DBSIZE") == 300
        moved = ask(joining.port, "DBSIZE")
        assert isinstance(moved, int)
        assert 0 < moved < 300
        cluster.assert_checked()
        cluster.command("REMOVENODE", "joining")
        blocking_until(lambda: "joining" not in nodes(cluster))


def moving(cluster: Cluster) -> list[bytes]:
    """The ids of the moves under way."""
    moves = cluster.command("ACTIVEMIGRATIONS")
    assert isinstance(moves, list)
    return [dict(zip(move[::2], move[1::2], strict=True))[b"id"] for move in moves]


@contextmanager
def direct(server: Server) -> Iterator[Callable[..., object]]:
    """A client of the server that knows nothing of Helios and keeps its connection."""
    with redis.Redis(port=server.port, protocol=2) as client:
        client.ping()
        yield client.execute_command


def test_what_is_written_past_helios_moves_with_its_keys(cluster: Cluster, server: Server, tmp_path: Path) -> None:
    assert_direct_writes_move(cluster, server, tmp_path)


@pytest.mark.skipif(ON_ETCD, reason="after `helios init` the first node that runs owns all keys")
def test_a_first_node_is_adopted_by_addnode(tmp_path: Path, server: Server) -> None:
    lone = Cluster(tmp_path, 1, None, [])
    try:
        node = lone.helios("node", "--id", "a", "--listen", f"127.0.0.1:{lone.resp_ports[0]}")
        node.wait_ready()
        address = f"127.0.0.1:{server.port}"
        refused = [lone.command(*preview, "ADDNODE", "old", address, timeout_s=30) for preview in ([], ["PREVIEW"])]
        assert len({*map(str, refused)}) == 1, "a preview says what the call would say"
        assert f"holds {len(KEYS)} keys already: add it with --adopt" in str(refused[0])
        assert "owns every key" in str(lone.command("ADDNODE", "old", address, "ADOPT", timeout_s=30))
        assert (nodes(lone), listed(lone, b"status")) == (["old"], ["online"])
        assert [lone.command("GET", key) for key in KEYS] == [b"v"] * len(KEYS)
        assert_direct_writes_move(lone, server, tmp_path)
        assert node.terminate() == 0
        assert ask(server.port, "DBSIZE") == len(KEYS)
    finally:
        lone.clean_up()


def test_a_cluster_whose_nodes_have_hosts_of_their_own_is_founded_with_a_server(tmp_path: Path, server: Server) -> None:
    lone = Cluster(tmp_path, 1, None, [])
    try:
        nobody = lone.run("init", "--adopt", f"127.0.0.1:{free_ports(1)}")
        assert nobody.returncode == 2 and "nothing that Helios can use answers" in nobody.stderr
        founded = lone.run("init", "--adopt", f"127.0.0.1:{server.port}")
        assert founded.returncode == 0, founded.stderr
        assert f"founds it with the server at 127.0.0.1:{server.port}, as its node adopted" in founded.stdout
        node = lone.helios("node", "--id", "a", "--listen", f"127.0.0.1:{lone.resp_ports[0]}")
        node.wait_ready()
        blocking_until(lambda: nodes(lone) == ["a", "adopted"])
        blocking_until(lambda: "its node adopted owns all keys, a none yet" in node.out)
        assert [lone.command("GET", key) for key in KEYS] == [b"v"] * len(KEYS)
        assert ask(server.port, "DBSIZE") == len(KEYS)
        assert node.terminate() == 0
        again = lone.helios("node", "--id", "a", "--listen", f"127.0.0.1:{lone.resp_ports[0]}")
        again.wait_ready()
        lone.assert_checked()
        assert again.terminate() == 0
    finally:
        lone.clean_up()


def test_clients_come_in_where_all_nodes_are_external(tmp_path: Path, server: Server) -> None:
    lone = Cluster(tmp_path, 1, None, [])
    whole = lone.words()
    try:
        lone.flags = ["--adopt", f"127.0.0.1:{server.port}"]
        up = lone.start()
        assert lone.command("REMOVENODE", "shard-1") != []
        settle(lone)
        blocking_until(lambda: nodes(lone) == ["adopted"])
        blocking_until(lambda: "shard-1 has left the cluster" in up.out)
        assert "it takes clients all the same" in up.out
        assert lone.stop() == 0

        lone.up = again = HeliosProcess(["up", *whole[3:]], tmp_path / "again", lone.env)  # without --shards
        again.wait_ready()
        assert "shard-1 is no node of this cluster and holds no keys; it takes clients all the same" in again.out
        assert (nodes(lone), listed(lone, b"status")) == (["adopted"], ["online"])
        assert [lone.command("GET", key) for key in KEYS] == [b"v"] * len(KEYS)
        lone.assert_checked()
        agent = lone.agent("shard-1")
        assert agent is not None
        agent.send(signal.SIGKILL)
        blocking_until(lambda: "shard-1 is back" in again.out)
        assert lone.command("SET", KEYS[0], "w") == b"OK"
        assert lone.stop() == 0

        # Asked for by its number it is a node again.
        grown = lone.start()
        assert "shard-1 has joined the cluster" in grown.out
        assert nodes(lone) == ["adopted", "shard-1"]
        assert lone.stop() == 0
    finally:
        lone.clean_up()


def test_the_check_names_clients_that_go_past_helios(cluster: Cluster, server: Server) -> None:
    cluster.assert_checked()
    with direct(server) as execute:
        assert execute("GET", KEYS[0]) == b"v"
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
