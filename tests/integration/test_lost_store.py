"""A cluster whose store is lost, or put back from an old backup, with the data of its nodes still there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster, running_cluster
from tests.cluster_store import ON_ETCD
from tests.waiting import blocking_until

pytestmark = [pytest.mark.processes, pytest.mark.skipif(ON_ETCD, reason="it is about the file of SQLite")]

SHARDS = 2
KEYS = [f"key:{number}" for number in range(200)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A running cluster with keys, some of which a rule has brought where they are."""
    with running_cluster(tmp_path, SHARDS) as cluster:
        for key in KEYS:
            assert cluster.command("SET", key, "v") == b"OK"
        moved(cluster, "shard-1", "shard-2", "key:1*")
        yield cluster


def moved(cluster: Cluster, source: str, target: str, pattern: str) -> None:
    cluster.command("MIGRATE", source, target, pattern)
    blocking_until(lambda: cluster.command("ACTIVEMIGRATIONS") == [])


def lose(cluster: Cluster) -> None:
    """The store's file is empty, as after a full disk or a slip of the hand."""
    for path in cluster.data_dir.glob("helios.db*"):
        path.write_bytes(b"") if path.name == "helios.db" else path.unlink()


def there(cluster: Cluster) -> int:
    return sum(cluster.command("GET", key) == b"v" for key in KEYS)


def test_an_empty_store_founds_no_cluster_over_the_data_of_another(cluster: Cluster) -> None:
    assert cluster.stop() == 0
    lose(cluster)
    refused = cluster.run(*cluster.words())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "knows of no cluster, but there is the cluster of shard-1, shard-2" in refused.stderr
    assert "--adopt nodes" in refused.stderr
    # A cluster with an id of its own in this folder would stand in the way of that.
    refused = cluster.run("init")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "knows of no cluster, but there is the cluster of shard-1, shard-2" in refused.stderr

    cluster.flags = ["--adopt", "nodes"]
    assert "the cluster of shard-1, shard-2 is as its nodes last knew it" in cluster.start().out
    assert there(cluster) == cluster.command("DBSIZE") == len(KEYS)
    assert cluster.command("LISTRULES") != []
    cluster.assert_checked()
    assert cluster.stop() == 0
    assert "nothing to adopt" in cluster.start().out
    assert there(cluster) == len(KEYS)


def test_a_store_from_an_old_backup_is_not_trusted(cluster: Cluster) -> None:
    assert cluster.stop() == 0
    backup = cluster.data_dir.parent / "backup.db"
    shutil.copy(cluster.data_dir / "helios.db", backup)
    cluster.start()
    moved(cluster, "shard-2", "shard-1", "key:*")
    assert cluster.stop() == 0
    for path in cluster.data_dir.glob("helios.db*"):
        path.unlink()
    shutil.copy(backup, cluster.data_dir / "helios.db")

    refused = cluster.run(*cluster.words())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is older (epoch " in refused.stderr

    cluster.flags = ["--adopt", "nodes"]
    cluster.start()
    assert there(cluster) == cluster.command("DBSIZE") == len(KEYS)
    cluster.assert_checked()


def test_nodes_without_a_copy_are_not_founded_anew_while_they_hold_keys(cluster: Cluster) -> None:
    assert cluster.stop() == 0
    lose(cluster)
    for path in cluster.data_dir.glob("nodes/*/topology.json"):
        path.unlink()
    refused = cluster.run(*cluster.words())
    assert refused.returncode == 2
    assert "the store knows of no cluster: a new one would not find them" in refused.stderr
    assert cluster.leftovers() == {}
