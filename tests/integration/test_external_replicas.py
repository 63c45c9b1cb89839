"""What an external node is where each key is to have several copies: its own have one, and it has none of others."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from tests.cluster import ask, running_cluster
from tests.replicated_cluster import LONG_S, fields
from tests.servers import start_valkey
from tests.waiting import blocking_until

pytestmark = pytest.mark.processes


def test_keys_on_an_external_node_have_one_copy_and_that_is_said(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_valkey(tmp_path / "server"))
        cluster = stack.enter_context(running_cluster(tmp_path, 2, flags=["--replication-factor", "2"], checked=False))
        said = cluster.command("ADDNODE", "external", f"127.0.0.1:{server.port}")
        assert not isinstance(said, Exception)

        def shards() -> dict[object, dict[object, object]]:
            listed = cluster.command("LISTSHARDS", timeout_s=30.0)
            assert isinstance(listed, list)
            return {view[b"id"]: view for view in map(fields, listed)}

        def copied() -> bool:
            return {name: view[b"missing"] for name, view in shards().items()} == {
                b"shard-1": 0,
                b"shard-2": 0,
                b"external": 1,
            }

        blocking_until(copied, LONG_S)
        for name, view in shards().items():
            copies = view[b"copies"]
            assert isinstance(copies, list)
            nodes = {fields(copy)[b"node"] for copy in copies}
            assert nodes == ({b"external"} if name == b"external" else {b"shard-1", b"shard-2"})
        refused = cluster.command("PROMOTE", "external", "shard-1")
        assert "shard-1 has no copy of external: its copies are on external" in str(refused)
        found = str(cluster.command("CHECK", timeout_s=30.0))
        assert "since keys on an external node have one: `drain external` gives them" in found
        for number in range(50):
            assert ask(cluster.resp_ports[0], "SET", f"key:{number}", "1", timeout_s=30.0) == b"OK"
