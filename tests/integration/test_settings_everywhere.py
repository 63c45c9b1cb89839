"""A settings file that is edited beside a running cluster: every process takes it up."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import Cluster, running_cluster
from tests.waiting import blocking_until

pytestmark = pytest.mark.processes

BEGUN = "sharding:\n  migration_rate: 500\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "helios.yaml"
    path.write_text(BEGUN)
    return path


@pytest.fixture(scope="module")
def cluster(file: Path) -> Iterator[Cluster]:
    with running_cluster(file.parent, shards=2, flags=["--config", str(file)]) as cluster:
        yield cluster


def edit(file: Path, text: str) -> None:
    """Replace the file, as editors do."""
    beside = file.with_suffix(".new")
    beside.write_text(text)
    beside.replace(file)


def value(cluster: Cluster, name: str, port: int) -> str:
    reply = cluster.command("SETTING", name, port=port)
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))[b"value"].decode()  # type: ignore[no-any-return]


def logs(cluster: Cluster) -> dict[str, str]:
    """The logs of Helios' own processes, by name."""
    paths = [path for path in cluster.data.logs.glob("*.log") if not path.stem.endswith(".0")]
    return {path.stem: path.read_text() for path in paths}


def test_every_process_takes_up_an_edit(cluster: Cluster, file: Path) -> None:
    assert cluster.up is not None
    edit(
        file, "sharding:\n  migration_rate: 600\nrouter:\n  hold_timeout: 9s\natlas:\n  maxmemory: 96mb\n  server: /x\n"
    )
    changes = [
        "setting changed: name=sharding.migration_rate old=500 new=600",
        "setting changed: name=router.hold_timeout old=5s new=9s",
        "setting changed: name=atlas.maxmemory old=0 new=96mb",
    ]
    blocking_until(lambda: all(change in text for text in logs(cluster).values() for change in changes))
    names = {"up", "gateway", "shard-1", "shard-1-router-0", "shard-2", "shard-2-router-0"}
    assert logs(cluster).keys() == names
    for port in cluster.resp_ports:
        assert value(cluster, "router.hold_timeout", port) == "9s"
    for node in ("shard-1", "shard-2"):
        blocking_until(
            lambda node=node: (  # type: ignore[misc]
                cluster.member_command(node, "CONFIG", "GET", "maxmemory") == [b"maxmemory", b"%d" % (96 << 20)]
            )
        )
    with urllib.request.urlopen(f"{cluster.api}/api/v1/shards/settings/history", timeout=10) as answer:
        (change,) = json.load(answer)["changes"]
    assert change["by"] == f"helios up, {file}"
    assert len(change["altered"]) == 3
    blocking_until(lambda: "atlas.server /x waits for a restart" in cluster.up.out)  # type: ignore[union-attr]
    # What is broken is told where helios up runs, and changes nothing.
    edit(file, "sharding:\n  migration_rate: 600\n  speed: 1\n")
    blocking_until(lambda: f"{file}:3: sharding.speed is not a setting" in cluster.up.out)  # type: ignore[union-attr]
    assert value(cluster, "router.hold_timeout", cluster.resp_ports[0]) == "9s"
    edit(file, "sharding:\n  migration_rate: 600\nrouter:\n  hold_timeout: 9s\n")
    cluster.up.process.send_signal(signal.SIGHUP)
    blocking_until(lambda: value(cluster, "atlas.maxmemory", cluster.resp_ports[1]) == "0")
    assert cluster.up.process.poll() is None
    assert cluster.command("SET", "a", "1") == b"OK"
