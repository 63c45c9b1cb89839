"""Every node is restarted, one after the other, as docs/MANY_MACHINES.md has it: clients only connect again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import hiredis
import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from tests.cluster import PATIENT, Cluster, HeliosProcess, ending
from tests.replicated_cluster import complete, in_sync
from tests.waiting import blocking_until

pytestmark = pytest.mark.processes
NODES = ("shard-1", "shard-2", "shard-3")
COUNTERS = 50
LEAVE_RUNNING = "--leave-running"
LIMIT_S = 120.0
# A router that is replaced is away for as long as a process takes to start.
CONNECT_AGAIN = Retry(ConstantBackoff(0.1), 600)


class Counting:
    """A client of redis-py at one node: it counts up, and remembers how far it was told to have come."""

    def __init__(self, port: int) -> None:
        self.told: dict[str, int] = {}
        self.answers = 0
        self.failure: Exception | None = None
        self.port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        # What RESP3's redis-py 8 asks for by itself: to be told when its router is about to go.
        wanted = MaintNotificationsConfig(enabled=True)
        client = redis.Redis(port=self.port, protocol=3, maint_notifications_config=wanted, retry=CONNECT_AGAIN)
        try:
            with closing(client):
                while not self._stop.is_set():
                    self.answers += 1
                    key = f"count:{self.port}:{self.answers % COUNTERS}"
                    self.told[key] = int(client.incr(key))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells
            self.failure = error

    def end(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT_S)


@contextmanager
def counting(ports: Sequence[int]) -> Iterator[list[Counting]]:
    """A client at each node, for as long as the block runs; none may have had an error."""
    clients = [Counting(port) for port in ports]
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.end()
    assert [client.failure for client in clients] == [None] * len(clients)


def begin(cluster: Cluster, node: str, *flags: str) -> HeliosProcess:
    process = cluster.helios("node", "--id", node, "--listen", f"localhost:{port_of(cluster, node)}", *flags)
    process.wait_ready()
    return process


@contextmanager
def nodes_apart(cluster: Cluster, *flags: str) -> Iterator[dict[str, HeliosProcess]]:
    """The nodes of a cluster, each started by a command of its own."""
    running: dict[str, HeliosProcess] = {}
    with ending(cluster):
        try:
            first, *others = NODES
            running[first] = cluster.found(first, *flags)
            for node in others:
                running[node] = begin(cluster, node, *flags)
                address = f"localhost:{port_of(cluster, node)}"
                assert not isinstance(cluster.command("ADDNODE", node, address), hiredis.ReplyError)
            blocking_until(lambda: all_online(cluster), LIMIT_S)
            yield running
        finally:
            for process in running.values():
                process.kill()


def all_online(cluster: Cluster) -> bool:
    """Whether the cluster has the nodes, all of them serve, and nothing moves."""
    listed, moves = cluster.command("LISTNODES"), cluster.command("ACTIVEMIGRATIONS")
    return str(listed).count("online") == len(NODES) and moves == []


def test_every_node_is_restarted_and_no_client_has_an_error(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, len(NODES), PATIENT | {"HELIOS_SHARDING__AUTO_REBALANCE": "true"}, ())
    with nodes_apart(cluster, LEAVE_RUNNING) as running, counting(cluster.resp_ports) as clients:
        # A setting that routers do not follow: each node replaces its router, as one of another release does.
        cluster.env["HELIOS_ROUTER__SESSION_TTL"] = "11s"
        for node in NODES:
            member, routers = cluster.member(node), cluster.routers(node)
            assert running[node].terminate() == 0
            assert (cluster.member(node), cluster.routers(node)) == (member, routers)
            running[node] = begin(cluster, node, LEAVE_RUNNING)
            assert cluster.member(node) == member
            assert cluster.routers(node) != routers
            blocking_until(lambda: all_online(cluster), LIMIT_S)
            await_answers(clients)
        assert_counted(cluster, clients)


def test_every_node_is_stopped_and_started_with_its_data_server_and_copies_serve_meanwhile(tmp_path: Path) -> None:
    copies = {"HELIOS_SHARDING__AUTO_REBALANCE": "true", "HELIOS_SHARDING__REPLICATION_FACTOR": "3"}
    cluster = Cluster(tmp_path, len(NODES), PATIENT | copies, ())
    with nodes_apart(cluster) as running:
        blocking_until(lambda: all_in_sync(cluster), LIMIT_S)
        with counting(cluster.resp_ports) as clients:
            for node in NODES:
                await_answers(clients)
                member = cluster.member(node)
                assert running[node].terminate() == 0
                # Whoever was a client of another node is served: nothing is led where nothing runs.
                await_answers([client for client in clients if client.port != port_of(cluster, node)])
                running[node] = begin(cluster, node)
                assert cluster.member(node) != member
                blocking_until(lambda: all_in_sync(cluster), LIMIT_S)
            assert_counted(cluster, clients)


def port_of(cluster: Cluster, node: str) -> int:
    return cluster.resp_ports[NODES.index(node)]


def all_in_sync(cluster: Cluster) -> bool:
    """Whether all nodes serve, and every shard has its leader and two copies that follow it closely."""
    return all_online(cluster) and complete(cluster) and in_sync(cluster)


def assert_counted(cluster: Cluster, clients: Sequence[Counting]) -> None:
    """End the clients, and find everything that they were told."""
    for client in clients:
        client.end()
    told = {key: count for client in clients for key, count in client.told.items()}
    # A command whose connection was lost is repeated by the client, so more may have been counted.
    behind = {key: count for key, count in told.items() if int(value(cluster, key)) < count}
    assert behind == {}


def await_answers(clients: Sequence[Counting]) -> None:
    """Return when each client has been answered anew, or has failed."""
    # The answer to what is under way may be of before.
    wanted = [client.answers + 2 for client in clients]
    blocking_until(lambda: all(c.failure or c.answers >= n for c, n in zip(clients, wanted, strict=True)), LIMIT_S)


def value(cluster: Cluster, key: str) -> bytes:
    found = cluster.command("GET", key)
    assert isinstance(found, bytes), found
    return found
