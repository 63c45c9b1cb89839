"""External nodes whose keys have copies on supervised ones, and that a person drains and removes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster import PATIENT, Cluster, ask, running_cluster
from tests.replicated_cluster import LONG_S, Writer, assert_kept, complete, fields, keys_of
from tests.servers import Server, start_valkey
from tests.waiting import blocking_until

from helios.coordinator.access import OUR_PREFIXES

pytestmark = pytest.mark.processes

E = "external"


def found_on(server: Server) -> dict[str, object]:
    """What the server's owner set up, but for the one setting that Helios changes, and who follows it."""
    role, said = ask(server.port, "ROLE"), ask(server.port, "CONFIG", "GET", "*")
    assert isinstance(role, list)
    config = fields(said)
    del config[b"repl-backlog-ttl"]
    return {"role": role[0], "replicas": role[2], "users": ask(server.port, "ACL", "LIST"), "config": config}


def at_rest(cluster: Cluster) -> bool:
    """Whether no key moves."""
    return cluster.command("ACTIVEMIGRATIONS", timeout_s=30.0) == []


def copies(cluster: Cluster) -> set[object]:
    """The nodes that have a copy of the external node's keys, and count."""
    listed = cluster.command("LISTSHARDS", timeout_s=30.0)
    assert isinstance(listed, list)
    view = next(view for view in map(fields, listed) if view[b"id"] == E.encode())
    assert isinstance(view[b"copies"], list)
    return {copy[b"node"] for copy in map(fields, view[b"copies"]) if copy[b"role"] != b"learner"}


def files_of_copies(cluster: Cluster) -> list[Path]:
    """The folders of data servers that have copies of the external node's keys."""
    return [path for path in cluster.data_dir.glob("nodes/*/*") if f"{E}@" in path.name]


def done(cluster: Cluster, *words: str) -> None:
    """A change is asked for, and has ended."""
    said = cluster.command(*words, timeout_s=60.0)
    assert isinstance(said, list), said
    blocking_until(lambda: at_rest(cluster), LONG_S)


@pytest.mark.parametrize("factor", [2, 3])
def test_it_gives_its_keys_away_and_is_left_as_it_was_found(tmp_path: Path, factor: int) -> None:
    flags = ["--replication-factor", str(factor)]
    whole = factor == 2  # two nodes are left for three copies otherwise
    with (
        start_valkey(tmp_path / "server") as server,
        running_cluster(tmp_path, 2, PATIENT, flags, checked=whole) as cluster,
    ):
        before = found_on(server)
        cluster.externals[E] = server.port
        done(cluster, "ADDNODE", E, f"127.0.0.1:{server.port}")
        done(cluster, "REBALANCE")
        blocking_until(lambda: len(copies(cluster)) == factor, LONG_S)
        assert len(files_of_copies(cluster)) == 2 * (factor - 1)  # a folder each, and what is remembered beside it
        key = next(keys_of(cluster, E))
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            done(cluster, "DRAIN", E)
            writer.progresses()
            assert E not in str(cluster.command("NODEFORKEY", key))
            assert ask(server.port, "DBSIZE") == 0
            done(cluster, "REMOVENODE", E)
            blocking_until(lambda: E not in str(cluster.command("LISTNODES", timeout_s=30.0)), LONG_S)
            writer.progresses()
        assert not writer.refused
        assert_kept(cluster, writer)
        blocking_until(lambda: files_of_copies(cluster) == [], LONG_S)
        assert not any(f"{E}@" in line for line in cluster.leftovers().values())
        blocking_until(lambda: not any(prefix in str(ask(server.port, "ACL", "USERS")) for prefix in OUR_PREFIXES))
        blocking_until(lambda: found_on(server) == before)
        if whole:
            blocking_until(lambda: complete(cluster), LONG_S)
