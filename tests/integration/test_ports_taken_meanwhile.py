"""A test's cluster whose ports somebody else was quicker to take."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.cluster import Cluster, ending


@pytest.mark.processes
def test_a_cluster_starts_on_other_ports_where_its_own_are_taken(tmp_path: Path) -> None:
    """Also where its node was founded before the gateway found its port taken."""
    cluster = Cluster(tmp_path, 1, None, [])
    with ending(cluster):
        cluster.start()
        cluster.stop()
        with socket.create_server(("127.0.0.1", cluster.api_port)):
            first = cluster.resp_ports
            cluster.start_anywhere()
        assert cluster.resp_ports != first
        assert cluster.command("SET", "a", "1") == b"OK"
