"""etcd is lost, and the nodes of many hosts (here data folders of their own) make the cluster again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.cluster import Cluster, HeliosProcess, ending
from tests.etcd_servers import has_etcd, started_etcd
from tests.ports import free_ports
from tests.topologies import cluster
from tests.waiting import blocking_until

from helios.model.codec import encode
from helios.node.files import write_json, write_private

pytestmark = [pytest.mark.processes, pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")]

NODES = ("shard-1", "shard-2")
KEYS = [f"key:{number}" for number in range(200)]
ADOPT = ("init", "--adopt", "nodes")


@contextmanager
def machines(tmp_path: Path) -> Iterator[list[Cluster]]:
    """A host for each node, with a data folder and a copy of the key of its own, and no store yet."""
    with ExitStack() as stack:
        hosts = [Cluster(tmp_path / node, 1, {"HELIOS_SHARDING__VIRTUAL_NODES": "40"}, ()) for node in NODES]
        for host in hosts:
            host.folder.mkdir()
            stack.enter_context(ending(host))
            host.env["HELIOS_SECURITY__CLUSTER_KEY_FILE"] = str(host.folder / "cluster.key")
        yield hosts


def agree_in(address: str, hosts: list[Cluster]) -> None:
    """Give the hosts an etcd as their store."""
    for host in hosts:
        host.env["HELIOS_STORE__URL"] = f"etcd://{address.removeprefix('http://')}/prod"


def node(host: Cluster) -> HeliosProcess:
    """The node of a host, which is ready."""
    node_id = host.folder.name
    process = host.helios("node", "--id", node_id, "--listen", f"127.0.0.1:{host.resp_ports[0]}")
    process.wait_ready()
    return process


def founded(hosts: list[Cluster]) -> list[HeliosProcess]:
    """A cluster with keys, some of which a rule has brought where they are."""
    first, second = hosts
    said = first.run("init")
    assert said.returncode == 0, said.stderr
    (second.folder / "cluster.key").write_bytes((first.folder / "cluster.key").read_bytes())
    (second.folder / "cluster.key").chmod(0o600)
    running = [node(first)]
    blocking_until(lambda: "shard-1" in str(first.command("LISTNODES")))
    running.append(node(second))
    first.command("ADDNODE", "shard-2", f"127.0.0.1:{second.resp_ports[0]}")
    blocking_until(lambda: "shard-2" in str(first.command("LISTNODES")))
    for key in KEYS:
        assert first.command("SET", key, "v") == b"OK"
    first.command("MIGRATE", "shard-1", "shard-2", "key:1*")
    blocking_until(lambda: first.command("ACTIVEMIGRATIONS") == [])
    return running


def refused(host: Cluster, *words: str) -> str:
    """What a command says that ends with an error."""
    done = host.run(*words)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout
    return done.stderr


def start(host: Cluster) -> tuple[str, ...]:
    return "node", "--id", host.folder.name, "--listen", f"127.0.0.1:{host.resp_ports[0]}"


def test_a_cluster_of_many_hosts_outlives_the_loss_of_etcd(tmp_path: Path) -> None:
    with machines(tmp_path) as hosts:
        first, second = hosts
        with started_etcd(tmp_path / "lost") as address:
            agree_in(address, hosts)
            running = founded(hosts)
            assert "shard-1 runs (process" in refused(first, *ADOPT)
            assert [process.terminate() for process in running] == [0, 0]
            for host in hosts:
                assert "nothing to adopt" in host.run(*ADOPT).stdout
        with started_etcd(tmp_path / "new") as address:
            agree_in(address, hosts)
            said = refused(second, *start(second))
            assert "knows of no cluster, but there is the cluster of shard-1, shard-2" in said
            assert "`helios init --adopt nodes` on the host of each" in said
            # What is fixed since the cluster was founded need not be said again, and must not be said otherwise.
            first.env["HELIOS_SHARDING__VIRTUAL_NODES"] = "50"
            assert "founded with sharding.virtual_nodes 40" in refused(first, *ADOPT)
            del first.env["HELIOS_SHARDING__VIRTUAL_NODES"]
            heard = first.run(*ADOPT)
            assert heard.returncode == 0, heard.stderr
            assert "still to be heard: shard-2" in heard.stdout
            assert "shard-2 is still to be heard" in refused(first, *start(first))
            heard = second.run(*ADOPT)
            assert heard.returncode == 0, heard.stderr
            assert "all nodes have been heard" in heard.stdout

            running = [node(host) for host in hosts]
            blocking_until(lambda: str(first.command("LISTNODES")).count("online") == len(NODES))
            assert [sum(host.command("GET", key) == b"v" for key in KEYS) for host in hosts] == [len(KEYS)] * 2
            assert "key:1*" in str(first.command("LISTRULES"))
            first.assert_checked()
            assert [process.terminate() for process in running] == [0, 0]


def remember(host: Cluster, cluster_id: str) -> None:
    """Leave what the node of a host that has ended remembers."""
    node_id = host.folder.name
    host.data.prepare()
    folder = host.data.node(node_id)
    folder.root.mkdir()
    write_json(folder.agent, {"node": node_id})
    write_json(host.data.cluster, {"cluster": cluster_id})
    write_private(folder.topology, encode(cluster(*NODES)).decode())


def test_hosts_that_do_not_go_together_are_told_so(tmp_path: Path) -> None:
    with machines(tmp_path) as (first, second), started_etcd(tmp_path / "new") as address:
        for host in (first, second):
            agree_in(address, [host])
            del host.env["HELIOS_SHARDING__VIRTUAL_NODES"]
        key, other = first.folder / "cluster.key", second.folder / "cluster.key"
        remember(first, "one")
        without_copy = first.data.node("shard-2")
        without_copy.root.mkdir()
        write_json(without_copy.agent, {"node": "shard-2"})
        assert "cluster.key (security.cluster_key_file) cannot be read" in refused(first, *ADOPT)
        write_private(key, "ab" * 32)
        write_private(other, "cd" * 32)
        assert "remembers a cluster: name the data folder of one" in refused(second, *ADOPT)
        remember(second, "two")
        assert "--lost names shard-9" in refused(first, *ADOPT, "--lost", "shard-9")
        assert "still to be heard: shard-2" in first.run(*ADOPT).stdout
        assert "is of the cluster two, and" in refused(second, *ADOPT)
        write_json(second.data.cluster, {"cluster": "one"})
        assert "has another key" in refused(second, *ADOPT)
        assert "shard-2 is still to be heard" in refused(second, "gateway", "--listen", f"127.0.0.1:{free_ports(1)}")
        assert "shard-2 is still to be heard" in refused(second, "init")
        assert "shard-2 is still to be heard" in refused(first, "init", "--adopt", "127.0.0.1:1")
        assert "--lost goes with --adopt nodes" in refused(first, "init", "--lost", "shard-2")
        assert "all nodes have been heard" in first.run(*ADOPT, "--lost", "shard-2").stdout
