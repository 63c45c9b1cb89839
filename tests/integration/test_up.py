"""`helios up` and its relatives as people and init systems use them: real processes on real ports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import HELIOS, Cluster, ask, ending, running_cluster
from tests.cluster_store import ON_ETCD
from tests.etcd_servers import has_etcd, started_etcd
from tests.ports import free_ports
from tests.reckoning import at_rest
from tests.waiting import blocking_until

from helios.node.locks import holder_of

pytestmark = pytest.mark.processes

KEYS = [f"key:{number}" for number in range(60)]
# An end takes a second here; the limit leaves room for a busy machine, and is far below what would be a kill.
END_S = 8.0


SHARDS = 2  # as few as make a cluster: to start a process takes a second of processor time


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster."""
    with running_cluster(tmp_path, SHARDS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster for tests that leave it whole."""
    with running_cluster(tmp_path_factory.mktemp("lasting"), SHARDS) as cluster:
        yield cluster
        assert cluster.stop() == 0
        assert cluster.leftovers() == {}


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that has not been started yet."""
    cluster = Cluster(tmp_path, SHARDS, None, ())
    yield cluster
    cluster.clean_up()


def test_modules_of_the_folder_that_it_is_started_in_are_not_run(stopped: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "output"  # where it is started
    folder.mkdir()
    for name in ("uvloop", "json", "uvicorn"):
        (folder / f"{name}.py").write_text("from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n")
    stopped.start()
    assert stopped.stop() == 0
    assert list(folder.glob("*.ran")) == []


def served(cluster: Cluster, port: int | None = None) -> bool:
    """Whether a node answers for the keys of every shard."""
    try:
        return all(cluster.command("GET", key, port=port, timeout_s=2) == b"v" for key in KEYS[:20])
    except OSError:
        return False


def fill(cluster: Cluster) -> None:
    for number, key in enumerate(KEYS):
        assert cluster.command("SET", key, "v", port=cluster.resp_ports[number % SHARDS]) == b"OK"


def one_line(text: str) -> bool:
    return text.startswith("helios: ") and text.count("\n") == 1 and "Traceback" not in text


def nodes(cluster: Cluster) -> dict[str, str]:
    """The nodes of the cluster by REST, with their states."""
    with urllib.request.urlopen(f"{cluster.api}/api/v1/shards/nodes", timeout=10) as answer:
        return {node["id"]: node["state"] for node in json.load(answer)["nodes"]}


def test_a_cluster_serves_ends_and_has_its_data_again(cluster: Cluster) -> None:
    assert cluster.up is not None
    lines = cluster.up.out.splitlines()
    assert lines[0] == f"starting shard-1, shard-2 in {cluster.data_dir}"
    assert lines[1].split() == ["NODE", "CLIENTS", "DATA", "SERVER"]
    assert [line.split()[:2] for line in lines[2:4]] == [
        [f"shard-{n + 1}", f"127.0.0.1:{port}"] for n, port in enumerate(cluster.resp_ports)
    ]
    assert f"REST  {cluster.api}" in lines
    assert lines[-1] == "ready"
    fill(cluster)
    assert [cluster.command("DBSIZE", port=port) for port in cluster.resp_ports] == [60, 60]
    counts = [cluster.member_command(f"shard-{n}", "DBSIZE") for n in (1, 2)]
    assert all(isinstance(count, int) and count > 0 for count in counts), counts
    assert nodes(cluster) == {"shard-1": "active", "shard-2": "active"}

    began = time.monotonic()
    assert cluster.stop() == 0
    assert time.monotonic() - began < END_S
    assert cluster.leftovers() == {}
    assert cluster.up.err == ""

    cluster.start()
    blocking_until(lambda: all(served(cluster, port) for port in cluster.resp_ports))
    assert [cluster.member_command(f"shard-{n}", "DBSIZE") for n in (1, 2)] == counts


def test_an_end_during_the_start_leaves_nothing(stopped: Cluster) -> None:
    up = stopped.begin()
    blocking_until(lambda: stopped.member("shard-2"))
    up.process.send_signal(signal.SIGTERM)
    assert up.wait(END_S) == 0
    assert "ready" not in up.out
    assert up.err == ""
    assert stopped.leftovers() == {}


def test_a_second_start_is_refused_and_sigterm_ends_the_first(cluster: Cluster) -> None:
    assert cluster.up is not None
    second = cluster.run("up", "--port", str(free_ports(SHARDS)), "--api-port", str(free_ports(1)))
    assert (second.returncode, second.stdout) == (2, "")
    assert one_line(second.stderr), second.stderr
    assert f"process {cluster.up.process.pid}" in second.stderr
    again = cluster.run("node", "--id", "shard-1", "--listen", f"127.0.0.1:{free_ports(1)}")
    assert again.returncode == 2
    assert one_line(again.stderr), again.stderr
    agent = cluster.agent("shard-1")
    assert agent is not None
    assert f"process {agent.pid}" in again.stderr
    assert cluster.command("PING") == b"PONG"
    assert len(cluster.leftovers()) == 1 + 3 * SHARDS + 1  # up, agents with a server and a router each, the gateway
    cluster.up.process.send_signal(signal.SIGTERM)
    assert cluster.up.wait(END_S) == 0
    assert cluster.leftovers() == {}


@pytest.mark.parametrize("which", ["node", "rest"])
def test_a_taken_port_stops_the_start(stopped: Cluster, which: str) -> None:
    port = stopped.resp_ports[1] if which == "node" else stopped.api_port
    with socket.create_server(("127.0.0.1", port)):
        up = stopped.begin()
        assert up.wait() == 2
    assert one_line(up.err), up.err
    assert f"port {port} on 127.0.0.1 is taken" in up.err
    assert up.out == ""
    assert stopped.leftovers() == {}
    assert stopped.data.node_ids() == []


def test_a_folder_that_cannot_be_written(stopped: Cluster) -> None:
    stopped.data_dir.parent.mkdir(exist_ok=True)
    stopped.data_dir.write_text("a file in the way")
    up = stopped.begin()
    assert up.wait() == 2
    assert one_line(up.err), up.err
    assert "cannot write in the data folder" in up.err


def test_a_cluster_that_cannot_come_back_says_why_and_leaves_nothing(cluster: Cluster) -> None:
    fill(cluster)
    assert cluster.stop() == 0
    cluster.env["HELIOS_SHARDING__VIRTUAL_NODES"] = "7"
    up = cluster.begin()
    assert up.wait() == 2
    assert one_line(up.err), up.err
    assert "founded with sharding.virtual_nodes 150" in up.err
    assert cluster.leftovers() == {}

    del cluster.env["HELIOS_SHARDING__VIRTUAL_NODES"]
    [log] = (cluster.data.node("shard-2").founder.root / "appendonlydir").glob("*.incr.aof")
    content = log.read_bytes()
    log.write_bytes(content[:60] + b"!" * 100 + content[160:])
    up = cluster.begin()
    assert up.wait(30) == 2
    assert up.err.startswith("helios: shard-2 could not start: the data server of shard-2.0 ended"), up.err
    assert "Bad file format reading the append only file" in up.err
    assert "Traceback" not in up.err
    assert cluster.leftovers() == {}


def test_a_killed_agent_leaves_its_node_serving_and_comes_back(lasting: Cluster) -> None:
    fill(lasting)
    agent, member, routers = lasting.agent("shard-1"), lasting.member("shard-1"), lasting.routers("shard-1")
    assert agent is not None
    agent.send(signal.SIGKILL)
    blocking_until(lambda: not agent.alive())
    assert served(lasting)
    blocking_until(lambda: lasting.agent("shard-1") not in (None, agent))
    assert lasting.up is not None
    up = lasting.up
    blocking_until(lambda: "shard-1 is back" in up.out)
    assert served(lasting)
    assert lasting.member("shard-1") == member
    assert lasting.routers("shard-1") == routers


def test_a_killed_server_router_and_gateway_come_back(lasting: Cluster) -> None:
    fill(lasting)
    member, [router] = lasting.member("shard-2"), lasting.routers("shard-2")
    gateway = holder_of(lasting.data.gateway_lock)
    assert member is not None
    assert gateway is not None
    for process in (member, router, gateway.process):
        process.send(signal.SIGKILL)
    blocking_until(lambda: lasting.member("shard-2") not in (None, member))
    blocking_until(lambda: lasting.routers("shard-2") not in ([], [router]))
    blocking_until(lambda: served(lasting, lasting.resp_ports[1]))
    blocking_until(lambda: _healthy(lasting))
    again = holder_of(lasting.data.gateway_lock)
    assert again is not None
    assert again.process != gateway.process


def _healthy(cluster: Cluster) -> bool:
    try:
        with urllib.request.urlopen(f"{cluster.api}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_the_death_of_up_ends_its_children(cluster: Cluster) -> None:
    fill(cluster)
    assert cluster.up is not None
    cluster.up.kill()
    cluster.start()  # at once, on the same folder: it waits for those that are ending
    assert served(cluster)
    assert cluster.up is not None
    cluster.up.kill()
    blocking_until(lambda: cluster.leftovers() == {}, END_S)


def test_after_a_massacre_the_survivors_are_taken_over(cluster: Cluster) -> None:
    """`up` and all agents are killed at once: servers and routers go on, and the next start adopts them."""
    fill(cluster)
    assert cluster.up is not None
    agents = [cluster.agent(f"shard-{n}") for n in (1, 2)]
    members = [cluster.member(f"shard-{n}") for n in (1, 2)]
    cluster.up.process.send_signal(signal.SIGSTOP)  # lest it restarts what dies first
    for agent in agents:
        assert agent is not None
        agent.send(signal.SIGKILL)
    cluster.up.kill()
    assert served(cluster)
    cluster.start()
    assert [cluster.member(f"shard-{n}") for n in (1, 2)] == members
    assert served(cluster)
    assert cluster.stop() == 0
    assert cluster.leftovers() == {}


def test_a_node_of_its_own_joins_and_comes_back_with_the_cluster(cluster: Cluster) -> None:
    fill(cluster)
    port = free_ports(1)
    node = cluster.helios("node", "--id", "shard-4", "--listen", f"localhost:{port}")
    try:
        node.wait_ready()
        assert f"helios-cli addnode shard-4 localhost:{port}" in node.out
        assert cluster.command("ADDNODE", "shard-4", f"localhost:{port}")
        blocking_until(lambda: "shard-4" in nodes(cluster))
        blocking_until(lambda: served(cluster, port))
        assert node.terminate() == 0
    finally:
        node.kill()
    assert cluster.stop() == 0
    up = cluster.start()
    assert f"localhost:{port}" in up.out
    blocking_until(lambda: served(cluster, port))


def test_a_node_alone_founds_a_cluster(tmp_path: Path) -> None:
    lone = Cluster(tmp_path, 1, None, ())
    with ending(lone):
        node = lone.found("a")
        blocking_until(lambda: lone.command("SET", "key:1", "v") == b"OK")
        # A start of the whole leaves alone what somebody runs already.
        up = lone.helios("up", "--api-port", str(lone.api_port))
        up.wait_ready()
        assert "(started elsewhere)" in up.out
        assert _healthy(lone)
        assert up.terminate() == 0
        assert lone.command("GET", "key:1") == b"v"
        assert node.terminate() == 0
        assert node.err == ""
        assert lone.leftovers() == {}


def test_several_workers_share_a_port(tmp_path: Path) -> None:
    with running_cluster(tmp_path, shards=1, flags=["--workers", "2"]) as cluster:
        assert len(cluster.routers("shard-1")) == 2
        assert all(ask(cluster.resp_ports[0], "PING") == b"PONG" for _ in range(10))


def test_signals_twice_kill_what_is_left(cluster: Cluster) -> None:
    assert cluster.up is not None
    agent = cluster.agent("shard-1")
    assert agent is not None
    agent.send(signal.SIGSTOP)
    cluster.up.process.send_signal(signal.SIGINT)
    blocking_until(lambda: cluster.agent("shard-2") is None)
    cluster.up.process.send_signal(signal.SIGINT)
    assert cluster.up.wait(END_S) == 1
    blocking_until(lambda: cluster.leftovers() == {})


def test_the_commands_run_from_an_installed_package() -> None:
    assert HELIOS[1:] == ("-P", "-m", "helios.cli.main")
    assert os.access(Path(HELIOS[0]).parent / "helios", os.X_OK)


def test_a_cluster_changes_its_ports_and_its_number_of_nodes_where_a_flag_says_so(cluster: Cluster) -> None:
    fill(cluster)
    assert cluster.stop() == 0
    old, first = cluster.resp_ports, free_ports(4)
    refused = cluster.run("up", "--port", str(first), "--api-port", str(cluster.api_port))
    assert refused.returncode == 2
    assert "--move-ports" in refused.stderr

    cluster.resp_ports, cluster.shards, cluster.flags = [first, first + 1, first + 2], 3, ["--move-ports"]
    up = cluster.start()
    assert "shard-3 has joined the cluster and gets its share of the keys now" in up.out
    blocking_until(lambda: all(served(cluster, port) for port in cluster.resp_ports))
    listed = str(cluster.command("LISTNODES"))
    assert all(f":{port}'" in listed for port in cluster.resp_ports)
    assert not any(f":{port}'" in listed for port in old)
    blocking_until(lambda: cluster.command("ACTIVEMIGRATIONS") == [])
    assert cluster.stop() == 0

    cluster.flags, cluster.shards = [], 1
    up = cluster.start()
    assert "staying, whatever --shards says: shard-2, shard-3" in up.out
    blocking_until(lambda: served(cluster, first + 2))


@pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")
def test_a_cluster_agrees_in_etcd_and_outlives_its_absence(stopped: Cluster, tmp_path: Path) -> None:
    with started_etcd(tmp_path / "etcd") as address:
        url = f"etcd://{address.removeprefix('http://')}/tests/one"
        stopped.flags = ["--store", url]
        stopped.start()
        fill(stopped)
        assert not stopped.data.store.exists()
        listen = f"127.0.0.1:{free_ports(1)}"
        node = stopped.helios("node", "--id", "shard-9", "--listen", listen, "--store", url)
        node.wait_ready()
        stopped.command("ADDNODE", "shard-9", listen)
        asyncio.run(at_rest(stopped))
        assert served(stopped)
        assert node.terminate() == 0
        assert stopped.stop() == 0
        stopped.start()
        assert served(stopped)
        assert stopped.stop() == 0
    away = stopped.run("up", *stopped.flags)
    assert away.returncode == 2
    assert "no endpoint of etcd is within reach" in away.stderr


@pytest.mark.skipif(ON_ETCD, reason="it is about the file of SQLite")
def test_a_store_elsewhere_is_used_by_all_processes(stopped: Cluster, tmp_path: Path) -> None:
    (tmp_path / "agreement").mkdir(mode=0o700)
    store = tmp_path / "agreement" / "cluster.db"
    stopped.flags = ["--store", f"sqlite://{store}"]
    stopped.start()
    fill(stopped)
    assert store.exists()
    assert not stopped.data.store.exists()
    assert stopped.run("config", "set", "sharding.migration_rate", "77", "--store", str(store)).returncode == 0
    assert stopped.stop() == 0
    stopped.flags = []
    forgotten = stopped.run("up")
    assert forgotten.returncode != 0
    assert "by --store" in forgotten.stderr
    stopped.env["HELIOS_STORE__URL"] = str(store)
    stopped.start()
    assert served(stopped)
    shown = stopped.run("config", "show", "sharding.migration_rate", "--json")
    assert json.loads(shown.stdout)["value"] == "77"
    assert stopped.stop() == 0
