"""What `helios doctor` says of an etcd, in order and out of order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.etcd_servers import EtcdServers, etcd_servers, has_etcd

from helios.model.health import NodeHealth, NodeStatus
from helios.model.ids import Address
from helios.model.sections import StoreSettings
from helios.model.settings import Settings
from helios.node.claim import this_process
from helios.node.files import DataFolder, write_json
from helios.ports.records import CLUSTER, FORMAT, HEALTH, RUNNING, ClusterRecord, HealthRecord, put_record, read_record
from helios.ports.store import Put
from helios.runtime.backends import locate
from helios.runtime.doctor_cluster import cluster_findings
from helios.runtime.doctor_store import store_findings
from helios.runtime.findings import Verdict
from helios.runtime.init import run_init
from helios.runtime.settings import SettingsRead

pytestmark = pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")


def found(servers: EtcdServers, folder: Path) -> list[tuple[Verdict, str]]:
    places = ",".join(address.removeprefix("http://") for address in servers.addresses)
    settings = Settings(store=StoreSettings(url=f"etcd://{places}/prod"))
    return [(finding.verdict, finding.found) for finding in store_findings(settings, DataFolder(folder))]


def test_every_endpoint_is_looked_at_and_whether_they_agree(tmp_path: Path) -> None:
    with etcd_servers(tmp_path, 3) as servers:
        *endpoints, agreement = found(servers, tmp_path)
        assert len(endpoints) == 3
        for _, said in endpoints:
            assert said.startswith("version 3.")
            assert "a round trip takes " in said
            assert " of 2gb used (" in said
        assert agreement[0] is Verdict.OK
        assert agreement[1].endswith("is empty; 3 of 3 endpoints answer")
        servers.kill(0)
        verdicts = [verdict for verdict, _ in found(servers, tmp_path)]
        assert verdicts[0] is Verdict.WARN
        assert verdicts[-1] is Verdict.OK
        servers.kill(1)
        *_, alone, agreement = found(servers, tmp_path)
        assert alone[0] is Verdict.WARN
        assert "alarms" not in alone[1]
        assert "no leader" in alone[1]
        assert agreement[0] is Verdict.FAIL
        assert "does not agree on anything" in agreement[1]


def test_a_store_that_is_a_file_is_named(tmp_path: Path) -> None:
    (finding,) = store_findings(Settings(), DataFolder(tmp_path))
    assert (finding.verdict, finding.found) == (Verdict.OK, f"{tmp_path / 'helios.db'}, which is made at the start")


def of_cluster(settings: Settings, data: DataFolder) -> dict[str, tuple[Verdict, str]]:
    return {finding.check: (finding.verdict, finding.found) for finding in cluster_findings(settings, data)}


async def test_whether_the_cluster_there_is_that_of_this_host_is_said(etcd: str, tmp_path: Path) -> None:
    place = etcd.removeprefix("http://")
    key = tmp_path / "cluster.key"
    settings = Settings.of(
        {
            "store": {"url": f"etcd://{place}/{tmp_path.name}"},
            "atlas": {"data_dir": str(tmp_path / "data")},
            "security": {"cluster_key_file": str(key)},
        }
    )
    data = DataFolder(tmp_path / "data")

    async def found(settings: Settings = settings) -> dict[str, tuple[Verdict, str]]:
        return await asyncio.to_thread(of_cluster, settings, data)

    assert await found() == {}  # nobody has founded one, so there is no key yet
    await run_init(SettingsRead(settings, {}))
    store = await locate(settings, data).open()
    try:
        said = await found()
        assert said["cluster"][0] is Verdict.OK
        await asyncio.to_thread(key.rename, tmp_path / "moved.key")
        assert (await found())["cluster"] == (
            Verdict.FAIL,
            f"{key} (security.cluster_key_file) cannot be read (No such file or directory): copy it from a host of the "
            "cluster, where `helios init` has made it",
        )
        await asyncio.to_thread((tmp_path / "moved.key").rename, key)
        data.prepare()
        await asyncio.to_thread(write_json, data.cluster, {"cluster": "another"})
        verdict, words = (await found())["cluster"]
        assert verdict is Verdict.FAIL and "is of the cluster another" in words
        elsewhere = Settings.of({"store": {"url": f"etcd://{place}/{tmp_path.name}-misspelt"}})
        empty = await locate(elsewhere, data).open()
        await empty.commit([Put("/a", b"1")])
        await empty.close()
        verdict, words = (await found(elsewhere))["cluster"]
        assert verdict is Verdict.FAIL and "knows of no cluster: check --store" in words
        await asyncio.to_thread(data.cluster.unlink)
        record = await read_record(store, ClusterRecord, CLUSTER)
        assert record is not None
        await store.commit([put_record(CLUSTER, replace(record.value, format=FORMAT + 1, version="9.1.0"))])
        verdict, words = (await found())["cluster"]
        assert verdict is Verdict.FAIL and "since Helios 9.1.0 runs on them" in words
    finally:
        await store.close()


async def test_a_node_that_runs_on_another_host_is_named_and_how_all_are(etcd: str, tmp_path: Path) -> None:
    settings = Settings.of({"store": {"url": f"etcd://{etcd.removeprefix('http://')}/{tmp_path.name}"}})
    data = DataFolder(tmp_path / "data")
    data.prepare()
    await asyncio.to_thread(data.node("shard-1").root.mkdir)
    await asyncio.to_thread(write_json, data.node("shard-1").agent, {})
    mine = this_process("shard-1", Address("10.0.0.1", 6379), data.node("shard-1"))
    store = await locate(settings, data).open()
    try:
        await run_init(SettingsRead(settings, {}))
        lease = await store.grant(30.0)
        await store.commit([put_record(RUNNING + "shard-1", mine, lease)])
        await store.commit([put_record(HEALTH, HealthRecord((NodeHealth("shard-1", NodeStatus.ONLINE, 0.0),)))])
        said = await asyncio.to_thread(of_cluster, settings, data)
        assert said["nodes"] == (Verdict.OK, "1 are online")
        assert "shard-1" not in said
        await store.commit([put_record(RUNNING + "shard-1", replace(mine, boot="another", host="db7"), lease)])
        verdict, words = (await asyncio.to_thread(of_cluster, settings, data))["shard-1"]
        assert verdict is Verdict.WARN and words.startswith("the node shard-1 runs on db7 at 10.0.0.1:6379 (process ")
    finally:
        await store.close()
