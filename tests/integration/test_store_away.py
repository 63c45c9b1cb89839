"""Processes that start while etcd is away: they wait, say so, and go on by themselves."""

from __future__ import annotations

import contextlib
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster, HeliosProcess, ask, ending
from tests.etcd_servers import EtcdServers, etcd_servers, has_etcd
from tests.ports import free_ports
from tests.waiting import blocking_until

from helios.model.passwords import hashed

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH"),
]

_LIMIT_S = 120.0
_WAITS, _GOES_ON = "waiting for the store: ", "the store answers: going on"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServers]:
    with etcd_servers(tmp_path / "etcd") as servers:
        yield servers


@pytest.fixture
def cluster(tmp_path: Path, etcd: EtcdServers) -> Iterator[Cluster]:
    """A cluster in etcd that has been founded and of which nothing runs."""
    # One of the names is known to nobody yet, as that of a host that has never been up.
    places = f"etcd.invalid:2379,{etcd.addresses[0].removeprefix('http://')}"
    made = Cluster(tmp_path, 1, {"HELIOS_STORE__URL": f"etcd://{places}/prod"}, ())
    founded = made.run("init")
    assert founded.returncode == 0, founded.stderr
    with ending(made):
        yield made


def wait_for(process: HeliosProcess, words: str) -> None:
    """Return when a process has printed the words; fails if it ends before."""

    def printed() -> bool:
        assert process.process.poll() is None, f"{process.out}\n{process.err}"
        return words in process.out

    blocking_until(printed, _LIMIT_S)


def test_what_starts_before_etcd_waits_for_it(cluster: Cluster, etcd: EtcdServers) -> None:
    etcd.kill(0)
    port = free_ports(2)
    node = cluster.helios("node", "--id", "shard-1", "--listen", f"127.0.0.1:{port}")
    gateway = cluster.helios("gateway", "--listen", f"127.0.0.1:{port + 1}")
    other = cluster.helios("node", "--id", "shard-2", "--listen", f"127.0.0.1:{free_ports(1)}")
    for process in (node, gateway, other):
        wait_for(process, _WAITS)
    assert "etcd.invalid:2379: " in node.out
    assert other.terminate() == 0  # who waits can be ended
    etcd.start(0)
    wait_for(node, "shard-1 is the first node of the cluster")
    wait_for(gateway, _GOES_ON)

    def healthy() -> bool:
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{port + 1}/healthz"
            return bool(urllib.request.urlopen(url, timeout=5).status == 200)
        return False

    blocking_until(healthy, _LIMIT_S)
    for process in (node, gateway):
        assert process.out.count(_WAITS) == process.out.count(_GOES_ON) > 0
        assert process.terminate() == 0


def test_a_node_says_where_other_hosts_find_it_and_whether_they_do(cluster: Cluster) -> None:
    port = free_ports(1)
    words = ("node", "--id", "shard-1", "--listen", f"127.0.0.1:{port}")
    alone = cluster.helios(*words)
    wait_for(alone, f"no other host finds shard-1 at 127.0.0.1:{port}: where the cluster has several")
    alone.wait_ready()
    assert alone.terminate() == 0
    found = cluster.helios(*words, "--advertise", f"db.example.net:{port}")
    found.wait_ready()
    assert f"node shard-1 serves at db.example.net:{port}; its data server is " in found.out
    assert f" at db.example.net:{port + 10_000}\n" in found.out
    assert "no other host finds" not in found.out
    assert found.terminate() == 0


def test_a_node_whose_settings_have_other_users_than_the_cluster_says_so(tmp_path: Path, etcd: EtcdServers) -> None:
    place = etcd.addresses[0].removeprefix("http://")
    made = Cluster(tmp_path, 1, {"HELIOS_STORE__URL": f"etcd://{place}/users"}, ())
    for name in ("boss", "chief"):
        users = f'{{{name}: {{role: admin, password_hash: "{hashed(b"secret", b"sixteen bytes ok")}"}}}}'
        (tmp_path / name).write_text(f"security:\n  users: {users}\n")
    with ending(made):
        assert made.run("init", "--config", str(tmp_path / "boss")).returncode == 0
        for name in ("boss", "chief"):
            words = ("--listen", f"127.0.0.1:{free_ports(1)}", "--config", str(tmp_path / name))
            node = made.helios("node", "--id", "shard-1", *words)
            node.wait_ready()
            assert ("security.users here are not those that the cluster has" in node.out) is (name == "chief")
            assert node.terminate() == 0


def test_what_dies_while_etcd_is_away_is_started_again_and_waits_for_it(cluster: Cluster, etcd: EtcdServers) -> None:
    port = free_ports(1)
    node = cluster.helios("node", "--id", "shard-1", "--listen", f"127.0.0.1:{port}")
    wait_for(node, "shard-1 is the first node of the cluster")
    # The router may not have heard of the founding yet.
    blocking_until(lambda: ask(port, "SET", "a", "1") == b"OK", _LIMIT_S)
    etcd.kill(0)
    member = cluster.member("shard-1")
    assert member is not None
    for process in (member, *cluster.routers("shard-1")):
        process.send(signal.SIGKILL)
    for log in (cluster.data.log("shard-1-router-0"), cluster.data.log("shard-1")):
        blocking_until(lambda log=log: _WAITS in log.read_text(), _LIMIT_S)  # type: ignore[misc]
    restarted = cluster.member("shard-1")
    assert restarted is not None and restarted != member
    etcd.start(0)

    def served() -> bool:
        with contextlib.suppress(OSError):
            return ask(port, "GET", "a") == b"1"
        return False

    blocking_until(served, _LIMIT_S)
    assert cluster.member("shard-1") == restarted  # it was not ended for want of the store
    assert node.terminate() == 0
