"""A cluster with copies of each key, as people start it: leaders are killed, and the whole is started again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster, ask, running_cluster
from tests.replicated_cluster import LONG_S, Writer, assert_kept, complete, kill, leader, led_by_another
from tests.waiting import blocking_until

from helios.model.ids import founder_id

pytestmark = pytest.mark.processes


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of three, whose shards have all their members."""
    with running_cluster(tmp_path, 3, flags=["--replication-factor", "3"]) as cluster:
        blocking_until(lambda: complete(cluster), LONG_S)
        yield cluster


def test_leaders_are_killed_one_after_the_other_and_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    writer = Writer(cluster.resp_ports[2])
    with writer.writing():
        for shard in ("shard-1", "shard-2"):
            writer.progresses()
            killed = leader(cluster, shard)
            kill(cluster, killed)
            led_by_another(cluster, shard, killed)
            writer.progresses()
            blocking_until(lambda: complete(cluster), LONG_S)
    assert_kept(cluster, writer)


def test_a_cluster_that_was_stopped_has_everything_when_it_is_started_again(cluster: Cluster) -> None:
    writer = Writer(cluster.resp_ports[0])
    with writer.writing():
        writer.progresses()
        killed = leader(cluster, "shard-1")
        assert killed == founder_id("shard-1")
        kill(cluster, killed)
        led_by_another(cluster, "shard-1", killed)
        writer.progresses()
    blocking_until(lambda: complete(cluster), LONG_S)
    assert cluster.stop() == 0
    assert cluster.leftovers() == {}
    cluster.start()
    blocking_until(lambda: ask(cluster.resp_ports[0], "SET", "again", "1", timeout_s=30.0) == b"OK", LONG_S)
    blocking_until(lambda: complete(cluster), LONG_S)
    assert_kept(cluster, writer)


def test_copies_come_and_go_while_the_cluster_is_used(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 2) as cluster:
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            assert cluster.run("config", "set", "sharding.replication_factor", "2").returncode == 0
            blocking_until(lambda: "under_replicated" not in str(cluster.command("CHECK", timeout_s=30.0)), LONG_S)
            blocking_until(lambda: complete(cluster), LONG_S)
            writer.progresses()
            assert cluster.run("config", "set", "sharding.replication_factor", "1").returncode == 0
            blocking_until(lambda: len(servers(cluster)) == 2, LONG_S)
            writer.progresses()
        assert_kept(cluster, writer)


def test_a_node_that_leads_for_another_can_be_removed(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 3, flags=["--replication-factor", "2"]) as cluster:
        # Else a slow machine may have the leader go home before its guest is asked for.
        assert cluster.run("config", "set", "replication.rebalance_leaders", "false").returncode == 0
        blocking_until(lambda: complete(cluster), LONG_S)
        writer = Writer(cluster.resp_ports[0])
        with writer.writing():
            writer.progresses()
            killed = founder_id("shard-1")
            kill(cluster, killed)
            led_by_another(cluster, "shard-1", killed)
            blocking_until(lambda: complete(cluster), LONG_S)
            guest = leader(cluster, "shard-1").partition("@")[2]
            said = cluster.command("REMOVENODE", guest, timeout_s=30.0)
            assert not isinstance(said, Exception), said
            blocking_until(lambda: guest not in str(cluster.command("LISTNODES", timeout_s=30.0)), LONG_S)
            assert not leader(cluster, "shard-1").endswith(f"@{guest}")
            blocking_until(lambda: complete(cluster), LONG_S)
            writer.progresses()
        assert_kept(cluster, writer)


def servers(cluster: Cluster) -> list[str]:
    """The command lines of the data servers that run."""
    return [line for line in cluster.leftovers().values() if "valkey-server" in line.split(" ")[0]]
