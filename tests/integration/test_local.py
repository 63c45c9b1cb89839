"""LocalCluster as its users have it, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from tests.certificates import Authority
from tests.waiting import blocking_until

import helios
from helios.local import LocalCluster
from helios.model.passwords import hashed
from helios.node.files import DataFolder, read_json
from helios.node.ports import free_ports
from helios.node.server import ADMIN_USER
from helios.ports.engine import SESSION_PREFIXES, UserRole

pytestmark = pytest.mark.processes

KEYS = 400


def processes_of(folder: Path) -> list[int]:
    """The processes whose command lines name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line:
            found.append(int(path.parent.name))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=2) as running:
        yield running
        folder = running.folder
        assert processes_of(folder)
    assert not processes_of(folder)
    assert not folder.exists()


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[redis.Redis]:
    """A Redis client at the first node; the cluster is empty."""
    cluster.flush()
    with redis.Redis.from_url(cluster.url) as connected:
        yield connected


def test_it_says_where_it_is(cluster: LocalCluster, client: redis.Redis) -> None:
    assert sorted(cluster.addresses) == ["shard-1", "shard-2"]
    assert cluster.addresses["shard-1"] == f"{cluster.host}:{cluster.port}"
    assert client.set("key", "value")
    second = int(cluster.addresses["shard-2"].rpartition(":")[2])
    assert redis.Redis(port=second).get("key") == b"value"
    assert (cluster.folder / "logs" / "shard-1.log").exists()
    assert cluster.rest.startswith("http://127.0.0.1:")
    assert "running at redis://" in repr(cluster)
    with pytest.raises(helios.Refused, match="runs already"):
        cluster.start()


def test_its_routers_use_the_sockets_of_its_servers(cluster: LocalCluster, client: redis.Redis) -> None:
    assert all(client.set(f"key:{number}", "value") for number in range(20))
    member = DataFolder(cluster.folder).node("shard-1").founder
    state = read_json(member.state)
    assert state is not None
    path = str(member.socket)
    with redis.Redis(unix_socket_path=path, username=ADMIN_USER, password=state["password"]) as administrator:
        clients = administrator.client_list()
    of_routers = [each for each in clients if each["user"].startswith(SESSION_PREFIXES[UserRole.ROUTER])]
    assert of_routers
    assert all(path in each["laddr"] for each in of_routers)


def test_nodes_come_and_go_and_keys_stay(cluster: LocalCluster, client: redis.Redis) -> None:
    keys = [f"user:{number}" for number in range(KEYS)]
    client.mset(dict.fromkeys(keys, "x"))
    foretold = helios.Ring(["shard-1", "shard-2"]).with_node("shard-3", 2.0).counts(keys)

    added = cluster.add_node(weight=2.0)

    assert (added.done, added.part) == (True, 1.0)
    assert added.keys_moved == foretold["shard-3"]
    assert {node.id: node.keys for node in cluster.admin.list_nodes()} == foretold
    with pytest.raises(helios.Refused, match="shard-3 runs already"):
        cluster.start_node("shard-3")
    assert cluster.remove_node("shard-3").done
    assert [node.id for node in cluster.admin.list_nodes()] == ["shard-1", "shard-2"]
    assert "shard-3" not in cluster.addresses
    assert client.dbsize() == KEYS
    with pytest.raises(helios.NotFound):
        cluster.stop_node("shard-3")


def test_a_move_by_pattern_and_its_undo(cluster: LocalCluster, client: redis.Redis) -> None:
    keys = [f"cart:{number}" for number in range(KEYS)]
    client.mset(dict.fromkeys(keys, "x"))
    placement = helios.Placement(["shard-1", "shard-2"])
    following = placement.moved("shard-1", "shard-2", "cart:1*")
    admin = cluster.admin
    (move,) = placement.moves(following, keys)

    assert admin.wait(admin.migrate("shard-1", "shard-2", "cart:1*")).keys_moved == move.keys

    rules = [(rule.source, rule.target, rule.patterns) for rule in following.rules]
    assert [(rule.source, rule.target, rule.patterns) for rule in admin.rules()] == rules
    assert all(admin.node_for_key(key).node_id == following.owner(key) for key in keys[:20])
    admin.wait(admin.migrate("shard-2", "shard-1", "cart:1*"))
    assert admin.rules() == []
    with pytest.raises(helios.NotFound, match="shard-9"):
        admin.migrate("shard-1", "shard-9")


def test_a_placement_computes_what_the_cluster_does(cluster: LocalCluster, client: redis.Redis) -> None:
    admin, ring = cluster.admin, helios.Ring(["shard-1", "shard-2"])
    # Uneven, so that points are given away.
    keys = [key for n in range(KEYS) if ring.owner(key := f"user:{n}") == "shard-1" or n % 3 == 0]
    client.mset(dict.fromkeys(keys, "x"))
    admin.wait(admin.rebalance(strategy="uniform"))
    admin.wait(admin.migrate("shard-1", "shard-2", "user:1*"))

    placement = admin.placement()

    assert placement.ring != ring
    assert placement.counts(keys) == {node.id: node.keys for node in admin.list_nodes()}
    assert all(placement.owner(key) == admin.node_for_key(key).node_id for key in keys[:50])
    assert asyncio.run(cluster.async_admin.placement()) == placement
    admin.wait(admin.migrate("shard-2", "shard-1", "user:1*"))
    assert admin.placement() != placement


async def test_the_same_from_an_event_loop(cluster: LocalCluster) -> None:
    admin = cluster.async_admin
    change = await admin.migrate("shard-1", "shard-2", "nothing:*")
    shown = [progress async for progress in admin.follow(change)]
    assert shown[-1].done
    await admin.wait(await admin.migrate("shard-2", "shard-1", "nothing:*"))
    assert (await admin.check()).clean
    stats, nodes = await asyncio.gather(admin.stats(), admin.list_nodes())
    assert [node.id for node in stats.nodes] == [node.id for node in nodes]


def test_reads_that_replicas_may_answer_are_counted(cluster: LocalCluster, client: redis.Redis) -> None:
    before = cluster.admin.stats()
    with client.client() as reader:
        reader.execute_command("READONLY")
        for number in range(5):
            reader.get(f"user:{number}")
    after = cluster.admin.stats()
    # No shard has a replica here.
    assert after.replica_reads_by_leader == before.replica_reads_by_leader + 5
    assert after.replica_reads == before.replica_reads == 0


def test_settings_are_those_that_were_given(cluster: LocalCluster) -> None:
    # Moves are not slowed down unless that is wanted.
    assert cluster.admin.setting("sharding.migration_rate").value == "0"
    with pytest.raises(helios.StartError, match=r"router\.workers is 0"):
        LocalCluster(settings={"router.workers": 0}).start()


def test_a_port_that_somebody_takes_meanwhile_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = [other.getsockname()[1]]
        monkeypatch.setattr("helios.local.free_ports", lambda _: taken.pop() if taken else free_ports(2))
        with LocalCluster(shards=1) as cluster, redis.Redis.from_url(cluster.url) as client:
            assert client.ping()


def test_a_cluster_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr("helios.local.free_ports", lambda _: port)
        with pytest.raises(helios.StartError, match=f"{port} .*is taken by another process"):
            LocalCluster(shards=1).start()


def test_users_and_tls_are_for_clusters_of_ones_own_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    settings = {
        "security.users": {"ada": {"role": "admin", "password_hash": hashed(b"secret", os.urandom(16))}},
        "security.tls_cert_file": cert,
        "security.tls_key_file": key,
    }
    entry = helios.Entry("ada", "secret", tls=True, cacert=str(authority.path))
    with LocalCluster(shards=1, settings=settings, entry=entry) as cluster:
        assert cluster.url.startswith("rediss://127.0.0.1:")
        assert cluster.rest.startswith("https://127.0.0.1:")
        with redis.Redis.from_url(
            cluster.url, username="ada", password="secret", ssl_ca_certs=str(authority.path)
        ) as client:
            assert client.mset({f"k:{number}": "v" for number in range(100)})
            assert cluster.add_node().done
            assert client.dbsize() == 100
        assert cluster.admin.history(1)[0].user == "ada"
        assert asyncio.run(cluster.async_admin.stats()).total_keys == 100
        cluster.flush()
        with pytest.raises(helios.NotAuthenticated, match="lets in its users only"):
            helios.AdminClient(*cluster.addresses.values(), entry=replace(entry, user="", password="")).stats()


def test_what_does_not_run_says_so() -> None:
    idle = LocalCluster()
    with pytest.raises(helios.Refused, match="does not run"):
        _ = idle.port
    with pytest.raises(helios.InvalidInput):
        LocalCluster(shards=0)
    idle.close()


def test_nothing_is_left_when_the_interpreter_is_killed(tmp_path: Path) -> None:
    program = (
        "import helios, time\n"
        "cluster = helios.LocalCluster(shards=1).start()\n"
        "cluster.start_node()\n"
        "print(cluster.folder, flush=True)\n"
        "time.sleep(600)\n"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env) as running:
        try:
            assert running.stdout is not None
            folder = Path(running.stdout.readline().strip())
            assert len(processes_of(folder)) > 4
        finally:
            running.send_signal(signal.SIGKILL)
    blocking_until(lambda: not processes_of(folder) and not folder.exists())
    assert not list(tmp_path.iterdir())


def test_applications_get_the_fixtures_by_installing_helios(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(scope='session')\ndef helios_options(): return {'shards': 1}\n"
    )
    (tmp_path / "test_application.py").write_text(
        "import redis\n"
        "def test_one(helios_cluster): redis.Redis(port=helios_cluster.port).set('key', 'value')\n"
        "def test_two(empty_helios_cluster):\n"
        "    assert len(empty_helios_cluster.addresses) == 1\n"
        "    assert redis.Redis(port=empty_helios_cluster.port).get('key') is None\n"
    )
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=env, check=False, timeout=120)
    assert "2 passed" in result.stdout, result.stdout + result.stderr
    assert not list(tmp_path.glob("helios-*"))
