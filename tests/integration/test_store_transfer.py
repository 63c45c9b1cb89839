"""A cluster that has outgrown one machine takes its agreement from SQLite to etcd, and back, without losing a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster
from tests.etcd_servers import has_etcd, started_etcd
from tests.waiting import blocking_until

pytestmark = pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")

KEYS = {f"key:{number}".encode(): f"value {number}".encode() for number in range(2_000)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One that has not been started yet."""
    cluster = Cluster(tmp_path, 2, None, ())
    cluster.env.pop("HELIOS_STORE__URL", None)  # it begins in SQLite, whatever other tests run over
    yield cluster
    cluster.clean_up()


def fill(cluster: Cluster) -> None:
    for start in range(0, len(KEYS), 500):
        some = list(KEYS.items())[start : start + 500]
        assert cluster.command("MSET", *(part for pair in some for part in pair)) == b"OK"


def held(cluster: Cluster) -> dict[bytes, bytes]:
    values = cluster.command("MGET", *KEYS)
    assert isinstance(values, list)
    return {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}


def test_a_cluster_moves_to_etcd_and_back(cluster: Cluster, tmp_path: Path) -> None:
    file, back = tmp_path / "cluster.state", tmp_path / "again.state"
    with started_etcd(tmp_path / "etcd") as address:
        url = f"etcd://{address.removeprefix('http://')}/moved"
        cluster.start()
        fill(cluster)
        rule = cluster.command("MIGRATE", "shard-1", "shard-2", "key:1*")
        assert rule
        assert cluster.run("config", "set", "sharding.migration_rate", "4321").returncode == 0
        blocking_until(lambda: cluster.command("ACTIVEMIGRATIONS") == [])
        running = cluster.run("export-store", str(file))
        assert running.returncode == 2
        assert "the cluster runs" in running.stderr
        assert not file.exists()
        assert cluster.stop() == 0

        exported = cluster.run("export-store", str(file))
        assert exported.returncode == 0, exported.stderr
        imported = cluster.run("import-store", str(file), "--store", url)
        assert imported.returncode == 0, imported.stderr
        twice = cluster.run("import-store", str(file), "--store", url)
        assert twice.returncode == 2
        assert "the store is not empty" in twice.stderr

        cluster.data.store.rename(tmp_path / "helios.db.moved")
        cluster.flags = ["--store", url]
        cluster.start()
        assert held(cluster) == KEYS
        shown = cluster.run("config", "show", "sharding.migration_rate", "--store", url)
        assert "4321" in shown.stdout
        cluster.command("SET", "later", "too")
        cluster.assert_checked()
        assert not cluster.data.store.exists()
        assert cluster.stop() == 0
        assert cluster.run("export-store", str(back), "--store", url).returncode == 0
    assert cluster.run("import-store", str(back)).returncode == 0
    cluster.flags = []
    cluster.start()
    assert held(cluster) == KEYS
    assert cluster.command("GET", "later") == b"too"
    assert cluster.stop() == 0
