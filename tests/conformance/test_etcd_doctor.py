"""What `helios doctor` says of an etcd, in order and out of order."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.etcd_servers import EtcdServers, etcd_servers, has_etcd

from helios.model.sections import StoreSettings
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.runtime.doctor_store import store_findings
from helios.runtime.findings import Verdict

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
        assert agreement[0] is Verdict.FAIL
        assert "does not agree on anything" in agreement[1]


def test_a_store_that_is_a_file_is_named(tmp_path: Path) -> None:
    (finding,) = store_findings(Settings(), DataFolder(tmp_path))
    assert (finding.verdict, finding.found) == (Verdict.OK, f"{tmp_path / 'helios.db'}, which is made at the start")
