"""This release beside the one before in one cluster: `make upgrade-test`. HELIOS_BEFORE has the sources of that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import hiredis
import pytest
from tests.cluster import Cluster, HeliosProcess, ending
from tests.integration.test_rolling_restart import (
    LEAVE_RUNNING,
    LIMIT_S,
    NODES,
    Counting,
    all_in_sync,
    all_online,
    await_answers,
    counting,
    port_of,
    value,
)
from tests.waiting import blocking_until

BEFORE = os.environ.get("HELIOS_BEFORE", "")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not BEFORE, reason="make upgrade-test builds the release before"),
]
# What Python is told of where each release lies.
OLDER: Mapping[str, str] = {"PYTHONPATH": BEFORE}
NEWER: Mapping[str, str] = {}


def begin(cluster: Cluster, node: str, release: Mapping[str, str]) -> HeliosProcess:
    words = ["node", "--id", node, "--listen", f"localhost:{port_of(cluster, node)}", LEAVE_RUNNING]
    output = cluster.folder / "output"
    process = HeliosProcess([*words, "--data-dir", str(cluster.data_dir)], output, {**cluster.env, **release})
    process.wait_ready(LIMIT_S)
    return of_release(process, release)


def found(cluster: Cluster, release: Mapping[str, str]) -> HeliosProcess:
    """The first node, by the release that has founded the cluster, too."""
    own, cluster.env = cluster.env, {**cluster.env, **release}
    process = cluster.found(NODES[0], LEAVE_RUNNING)
    cluster.env = own
    return of_release(process, release)


def of_release(process: HeliosProcess, release: Mapping[str, str]) -> HeliosProcess:
    """The process, which runs what it is to run."""
    compiled = Path(f"/proc/{process.process.pid}/maps").read_text()
    assert (BEFORE in compiled) == (release is OLDER)
    return process


@contextmanager
def nodes_of(
    tmp_path: Path, releases: Mapping[str, Mapping[str, str]], copies: int = 1
) -> Iterator[tuple[Cluster, dict[str, HeliosProcess]]]:
    """A cluster whose nodes are of these releases; the first one founds it, and coordinates."""
    settings = {"HELIOS_SHARDING__AUTO_REBALANCE": "true", "HELIOS_SHARDING__REPLICATION_FACTOR": str(copies)}
    cluster = Cluster(tmp_path, len(NODES), settings, ())
    running: dict[str, HeliosProcess] = {}
    with ending(cluster):
        try:
            first, *others = NODES
            running[first] = found(cluster, releases[first])
            for node in others:
                running[node] = begin(cluster, node, releases[node])
                done(cluster, "ADDNODE", node, f"localhost:{port_of(cluster, node)}")
            blocking_until(lambda: all_online(cluster), LIMIT_S)
            yield cluster, running
        finally:
            for process in running.values():
                process.kill()


def done(cluster: Cluster, *words: str, port: int | None = None) -> object:
    """The reply to a command, which is no error."""
    reply = cluster.command(*words, port=port, timeout_s=60)
    assert not isinstance(reply, hiredis.ReplyError), reply
    return reply


def nothing_lost(cluster: Cluster, clients: list[Counting]) -> None:
    """Each count is there, and the cluster is in order."""
    for client in clients:
        client.end()
    told = {key: count for client in clients for key, count in client.told.items()}
    assert {key: count for key, count in told.items() if int(value(cluster, key)) < count} == {}
    cluster.assert_checked()


@pytest.mark.parametrize(("first", "others"), [(OLDER, NEWER), (NEWER, OLDER)], ids=["joined", "founded"])
def test_nodes_of_two_releases_move_keys_and_copies(
    tmp_path: Path, first: Mapping[str, str], others: Mapping[str, str]
) -> None:
    releases = dict.fromkeys(NODES, others) | {NODES[0]: first}
    with nodes_of(tmp_path, releases) as (cluster, _), counting(cluster.resp_ports) as clients:
        for port in cluster.resp_ports:
            done(cluster, "MIGRATE", "shard-1", "shard-2", f"count:{port}:1*", port=port)
            blocking_until(lambda: all_online(cluster), LIMIT_S)
            await_answers(clients)
        done(cluster, "DRAIN", "shard-3")
        blocking_until(lambda: all_online(cluster), LIMIT_S)
        done(cluster, "UNDRAIN", "shard-3")
        blocking_until(lambda: all_online(cluster), LIMIT_S)
        await_answers(clients)
        nothing_lost(cluster, clients)


def test_a_cluster_is_upgraded_node_by_node(tmp_path: Path) -> None:
    with nodes_of(tmp_path, dict.fromkeys(NODES, OLDER)) as (cluster, running), counting(cluster.resp_ports) as clients:
        for node in NODES:
            member = cluster.member(node)
            assert running[node].terminate() == 0
            running[node] = begin(cluster, node, NEWER)
            assert cluster.member(node) == member, "its data server has gone on"
            blocking_until(lambda: all_online(cluster), LIMIT_S)
            await_answers(clients)
            done(cluster, "MIGRATE", "shard-1", "shard-2", f"count:{cluster.resp_ports[0]}:{NODES.index(node)}*")
            blocking_until(lambda: all_online(cluster), LIMIT_S)
        nothing_lost(cluster, clients)


def test_a_cluster_with_copies_is_upgraded_node_by_node(tmp_path: Path) -> None:
    with nodes_of(tmp_path, dict.fromkeys(NODES, OLDER), copies=3) as (cluster, running):
        blocking_until(lambda: all_in_sync(cluster), LIMIT_S)
        with counting(cluster.resp_ports) as clients:
            for node, following in zip(NODES, (*NODES[1:], NODES[0]), strict=True):
                assert running[node].terminate() == 0
                running[node] = begin(cluster, node, NEWER)
                blocking_until(lambda: all_in_sync(cluster), LIMIT_S)
                # A leader of each release hands its shard to a copy, whose node is of the other one.
                done(cluster, "PROMOTE", NODES[0], following)
                blocking_until(lambda: all_in_sync(cluster), LIMIT_S)
                await_answers(clients)
            nothing_lost(cluster, clients)
