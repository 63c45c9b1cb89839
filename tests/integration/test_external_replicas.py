"""External nodes whose keys have copies on supervised ones: what becomes of the keys when such a server goes."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import PATIENT, Cluster, ask, running_cluster
from tests.reckoning import topology_of
from tests.replicated_cluster import LONG_S, Writer, assert_kept, complete, fields, kill, leader, led_by_another
from tests.servers import Server, start_valkey
from tests.waiting import blocking_until

from helios.coordinator.access import FENCING_RIGHTS

pytestmark = pytest.mark.processes

E = "external"
TWO = ["--replication-factor", "2"]


@contextmanager
def clustered(folder: Path, server: Server, env: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Two nodes of Helios' own and the server as a third, each with a share of the keys, which have two copies each."""
    with running_cluster(folder, 2, env, TWO, checked=False) as cluster:
        join(cluster, server)
        blocking_until(lambda: complete(cluster), LONG_S)
        yield cluster


def join(cluster: Cluster, server: Server) -> None:
    """Take the server in, and give it its share of the keys."""
    cluster.externals[E] = server.port
    for words in (["ADDNODE", E, f"127.0.0.1:{server.port}"], ["REBALANCE"]):
        assert isinstance(said := cluster.command(*words, timeout_s=60.0), list), said
    blocking_until(lambda: at_rest(cluster), LONG_S)


def at_rest(cluster: Cluster) -> bool:
    """Whether no key moves."""
    return cluster.command("ACTIVEMIGRATIONS", timeout_s=30.0) == []


def empty(server: Server) -> None:
    """End the server at once, and start it with nothing, as one without a disk is."""
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir", ignore_errors=True)
    (server.folder / "dump.rdb").unlink(missing_ok=True)
    server.start()


def copies(cluster: Cluster, shard: str) -> dict[object, object]:
    """The roles of the nodes that have copies of a shard."""
    listed = cluster.command("LISTSHARDS", timeout_s=30.0)
    assert isinstance(listed, list)
    view = next(view for view in map(fields, listed) if view[b"id"] == shard.encode())
    assert isinstance(view[b"copies"], list)
    return {copy[b"node"]: copy[b"role"] for copy in map(fields, view[b"copies"])}


def found(cluster: Cluster) -> str:
    """What the cluster's own check finds."""
    return str(cluster.command("CHECK", timeout_s=30.0))


def test_what_a_killed_server_had_is_on_a_copy_which_leads(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "server") as server, clustered(tmp_path, server) as cluster:
        assert copies(cluster, E)[b"external"] == b"leader"
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            server.kill()
            led_by_another(cluster, E, f"{E}.0")
            writer.progresses()
            server.start()
            writer.progresses()
            blocking_until(lambda: set(copies(cluster, E)) == {b"shard-1", b"shard-2"}, LONG_S)
        assert "replaced_server" in found(cluster)
        assert_kept(cluster, writer)
        assert server_says(server, "ROLE")[0] == b"master"
        assert "`removenode external` gives the keys" in str(cluster.command("LISTNODES", timeout_s=30.0))
        removed = cluster.command("REMOVENODE", E, timeout_s=60.0)
        assert isinstance(removed, list), removed
        blocking_until(lambda: at_rest(cluster) and complete(cluster), LONG_S)
        assert_kept(cluster, writer)
        assert isinstance(said := cluster.command("ADDNODE", E, f"127.0.0.1:{server.port}", "FLUSH"), list), said
        blocking_until(lambda: copies(cluster, E).get(b"external") == b"leader" and complete(cluster), LONG_S)


def test_a_server_that_comes_back_empty_empties_nobody(tmp_path: Path) -> None:
    config = {"appendonly": "no"}
    with start_valkey(tmp_path / "server", config=config) as server, clustered(tmp_path, server) as cluster:
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            empty(server)
            led_by_another(cluster, E, f"{E}.0")
            writer.progresses()
        assert_kept(cluster, writer)
        assert server_says(server, "DBSIZE") == 0


def test_users_that_its_owner_has_saved_let_nobody_follow_an_empty_server(tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text("user default on nopass ~* &* +@all\n")
    config = {"appendonly": "no", "aclfile": str(tmp_path / "users.acl"), "repl-diskless-sync-delay": "0"}
    with start_valkey(tmp_path / "server", config=config) as server, clustered(tmp_path, server) as cluster:
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
        assert server_says(server, "ACL", "SAVE") == b"OK"
        with without_agents(cluster):
            empty(server)
            assert any(user.startswith(b"helios-r-") for user in server_says(server, "ACL", "USERS"))
            blocking_until(lambda: was_asked(server), LONG_S)
        led_by_another(cluster, E, f"{E}.0")
        assert_kept(cluster, writer)


@contextmanager
def without_agents(cluster: Cluster) -> Iterator[None]:
    """Nobody decides anything meanwhile."""
    agents = [agent for node in ("shard-1", "shard-2") if (agent := cluster.agent(node)) is not None]
    assert len(agents) == 2
    try:
        for agent in agents:
            agent.send(signal.SIGSTOP)
        yield
    finally:
        for agent in agents:
            agent.send(signal.SIGCONT)


def was_asked(server: Server) -> bool:
    """Whether somebody has tried to follow it, and was let in, or was not twice."""
    said = server_says(server, "INFO", "stats", "replication").decode()
    denied = int(said.partition("acl_access_denied_auth:")[2].split()[0])
    return denied > 1 or "connected_slaves:0" not in said


def test_a_server_that_hangs_is_replaced_and_nobody_believes_it_when_it_goes_on(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "server") as server, clustered(tmp_path, server) as cluster:
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            server.stop()
            led_by_another(cluster, E, f"{E}.0")
            writer.progresses()
            server.cont()
            assert server_says(server, "SET", "past-helios", "1") == b"OK"
            writer.progresses()
        assert_kept(cluster, writer)
        assert cluster.command("GET", "past-helios") is None


def test_a_copy_that_loses_its_connection_goes_on(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "server") as server, clustered(tmp_path, server) as cluster:
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            for _ in range(3):
                writer.progresses()
                # What was on its way may have been acknowledged, and the copy not be back.
                blocking_until(lambda: server_says(server, "CLIENT", "KILL", "TYPE", "REPLICA") == 1, LONG_S)
            writer.progresses()
        blocking_until(lambda: complete(cluster), LONG_S)
        assert leader(cluster, E) == f"{E}.0"
        assert_kept(cluster, writer)


def test_a_person_has_a_copy_lead_and_nobody_gets_an_error(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "server") as server, clustered(tmp_path, server, PATIENT) as cluster:
        copy = next(node for node, role in copies(cluster, E).items() if role == b"replica")
        assert isinstance(copy, bytes)
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            promoted = cluster.command("PROMOTE", E, copy, timeout_s=60.0)
            assert isinstance(promoted, list), promoted
            led_by_another(cluster, E, f"{E}.0")
            writer.progresses()
            blocking_until(lambda: set(copies(cluster, E)) == {b"shard-1", b"shard-2"}, LONG_S)
        assert not writer.refused
        assert leader(cluster, E) == f"{E}@{copy.decode()}"
        back = cluster.command("PROMOTE", E, E)
        assert "does not lead again" in str(back)
        assert_kept(cluster, writer)


def test_a_server_without_which_too_little_is_left_goes_on_if_it_was_not_restarted(tmp_path: Path) -> None:
    with (
        start_valkey(tmp_path / "server") as server,
        running_cluster(tmp_path, 2, flags=["--replication-factor", "3"], checked=False) as cluster,
    ):
        join(cluster, server)
        blocking_until(lambda: has_settled(cluster, 2), LONG_S)
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            server.stop()
            kill(cluster, f"{E}@shard-2")
            blocking_until(lambda: status(cluster, E) == b"no leader", LONG_S)
            server.cont()
            blocking_until(lambda: has_settled(cluster, 2), LONG_S)
            assert leader(cluster, E) == f"{E}.0"
            writer.progresses()
            kill(cluster, f"{E}@shard-2")
            empty(server)
            blocking_until(lambda: status(cluster, E) == b"no leader", LONG_S)
            accepted = cluster.command("PROMOTE", E, E, "ACCEPT-LOSS", timeout_s=60.0)
            assert "does not lead again" in str(accepted)
            accepted = cluster.command("PROMOTE", E, "shard-1", "ACCEPT-LOSS", timeout_s=60.0)
            assert not isinstance(accepted, Exception), accepted
            led_by_another(cluster, E, f"{E}.0")
            writer.progresses()
        assert leader(cluster, E) == f"{E}@shard-1"
        kept = [cluster.command("GET", key, timeout_s=30.0) for key in list(writer.acknowledged)[:100]]
        assert None not in kept


def has_settled(cluster: Cluster, count: int) -> bool:
    """Whether so many copies count, and no members of before any more, which could do without the last to come."""
    shard = asyncio.run(topology_of(cluster)).shard(E)
    return shard is not None and not shard.outgoing and len(shard.members) == 1 + count


def status(cluster: Cluster, shard: str) -> object:
    """What listshards says of a shard."""
    listed = cluster.command("LISTSHARDS", timeout_s=30.0)
    assert isinstance(listed, list)
    return next(view[b"status"] for view in map(fields, listed) if view[b"id"] == shard.encode())


def test_copies_go_when_they_are_not_wanted_any_more(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "server") as server, clustered(tmp_path, server) as cluster:
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            assert cluster.run("config", "set", "sharding.replication_factor", "1").returncode == 0
            blocking_until(lambda: copies(cluster, E) == {b"external": b"leader"}, LONG_S)
            writer.progresses()
        assert_kept(cluster, writer)
        server.kill()
        server.start()
        # What a client was told as unknown may be there, too.
        blocking_until(lambda: keys_in(cluster) >= len(writer.acknowledged), LONG_S)


def keys_in(cluster: Cluster) -> int:
    """How many keys the cluster has; 0 as long as it does not say."""
    said = ask(cluster.resp_ports[0], "DBSIZE", timeout_s=30.0)
    return said if isinstance(said, int) else 0


@pytest.mark.parametrize(
    ("config", "rights", "reason"),
    [({}, "-acl", FENCING_RIGHTS), ({"databases": "20"}, "", "has 20 databases, and a copy 16")],
)
def test_why_a_server_has_no_copies_is_said(tmp_path: Path, config: dict[str, str], rights: str, reason: str) -> None:
    with (
        start_valkey(tmp_path / "server", config=config) as server,
        running_cluster(tmp_path, 2, PATIENT, checked=False) as cluster,
    ):
        join(cluster, server)
        for number in range(50):
            assert ask(cluster.resp_ports[0], "SET", f"key:{number}", "1", timeout_s=30.0) == b"OK"
        if rights:
            assert server_says(server, "ACL", "SETUSER", "default", rights) == b"OK"
        assert cluster.run("config", "set", "sharding.replication_factor", "2").returncode == 0
        blocking_until(lambda: reason in found(cluster), LONG_S)
        for number in range(50):
            assert ask(cluster.resp_ports[0], "INCR", f"key:{number}", timeout_s=30.0) == 2


def test_an_adopted_server_gets_copies(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "server") as server:
        for number in range(1000):
            server_says(server, "SET", f"old:{number}", str(number))
        with running_cluster(tmp_path, 2, flags=["--adopt", f"127.0.0.1:{server.port}"], checked=False) as cluster:
            assert cluster.run("config", "set", "sharding.replication_factor", "2").returncode == 0
            blocking_until(lambda: complete(cluster), LONG_S)
            empty(server)
            asked = [f"old:{number}" for number in range(1000)]
            expected = [str(number).encode() for number in range(1000)]
            blocking_until(lambda: cluster.command("MGET", *asked, timeout_s=60.0) == expected, LONG_S)


def server_says(server: Server, *words: str) -> Any:
    """The server's own reply, past Helios."""
    return ask(server.port, *words)
