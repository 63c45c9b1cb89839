"""TLS between Helios and its data servers, where these were built with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.cluster import Cluster, ending
from tests.servers import start_valkey, tls_binary
from tests.waiting import blocking_until

from helios.node.sockets import fits

BINARY = tls_binary()
KEYS = 200

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
needs_tls = pytest.mark.skipif(BINARY is None, reason="no valkey-server or redis-server with TLS on PATH")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of two nodes that does not run yet. Routers find no sockets: paths of that length cannot be any."""
    made = Cluster(tmp_path / ("x" * 90), 2, None, ())
    assert not fits(made.data.node("shard-1").founder.socket)
    with ending(made):
        yield made


def tls_settings(authority: Authority, server: Path | None) -> Mapping[str, str]:
    cert, key = authority.issue()
    files = {"CA": authority.path, "CERT": cert, "KEY": key}
    env = {f"HELIOS_ATLAS__TLS_{name}_FILE": str(path) for name, path in files.items()}
    return env if server is None else {**env, "HELIOS_ATLAS__SERVER": str(server)}


def fill(cluster: Cluster) -> None:
    for number in range(KEYS):
        assert cluster.command("SET", f"user:{number}", str(number)) == b"OK"


def served(cluster: Cluster) -> bool:
    return all(
        cluster.command("GET", f"user:{number}", port=cluster.resp_ports[number % 2]) == b"%d" % number
        for number in range(KEYS)
    )


def done(cluster: Cluster, *words: str) -> None:
    """Have helios-cli do something to the cluster, to its end."""
    cli = str(Path(sys.executable).with_name("helios-cli"))
    argv = [cli, "-p", str(cluster.resp_ports[0]), *words, "--wait"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


@needs_tls
def test_a_cluster_speaks_tls_with_its_servers_and_can_begin_and_end_that(
    cluster: Cluster, authority: Authority
) -> None:
    cluster.env.update(tls_settings(authority, BINARY))
    up = cluster.start()
    assert up.out.count(", TLS") == 2
    fill(cluster)
    assert f"rediss://{cluster.member_address('shard-2')}" in str(cluster.command("LISTNODES"))
    done(cluster, "migrate", "shard-1", "shard-2", "*")
    assert served(cluster)
    cluster.assert_checked()
    assert cluster.stop() == 0
    files = [name for name in cluster.env if "_TLS_" in name]
    kept = {name: cluster.env.pop(name) for name in files}
    assert ", TLS" not in cluster.start().out
    # The servers answer elsewhere, so to speak: routers are told so a moment after the start.
    blocking_until(lambda: served(cluster))
    assert cluster.stop() == 0
    cluster.env.update(kept)
    assert cluster.start().out.count(", TLS") == 2
    blocking_until(lambda: served(cluster))
    cluster.assert_checked()


@needs_tls
def test_copies_follow_and_acknowledge_over_tls(cluster: Cluster, authority: Authority) -> None:
    cluster.env.update(tls_settings(authority, BINARY))
    cluster.env["HELIOS_SHARDING__REPLICATION_FACTOR"] = "2"
    cluster.start()
    blocking_until(lambda: str(cluster.command("LISTSHARDS")).count("b'ok'") == 2)
    fill(cluster)  # a write is answered when both of its copies have it
    assert served(cluster)
    cluster.assert_checked()


@needs_tls
def test_an_external_server_with_tls_is_a_node(cluster: Cluster, authority: Authority, tmp_path: Path) -> None:
    cluster.env["HELIOS_ATLAS__TLS_CA_FILE"] = str(authority.path)
    cert, key = authority.issue("external")
    config = {"tls-cert-file": str(cert), "tls-key-file": str(key), "tls-auth-clients": "no"}
    cluster.start()
    fill(cluster)
    with start_valkey(tmp_path / "external", config=config, binary=BINARY) as server:
        refused = cluster.command("ADDNODE", "ext", f"127.0.0.1:{server.port}", timeout_s=60)
        assert "UNAVAILABLE" in str(refused)
        done(cluster, "addnode", "ext", f"rediss://127.0.0.1:{server.port}")
        done(cluster, "migrate", "shard-1", "ext", "*")
        assert f"rediss://127.0.0.1:{server.port}" in str(cluster.command("LISTNODES"))
        assert served(cluster)
        done(cluster, "removenode", "ext")
        assert served(cluster)


@needs_tls
def test_a_server_with_a_certificate_of_strangers_is_not_used(
    cluster: Cluster, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "strangers").mkdir()
    cert, key = Authority(tmp_path / "strangers").issue()
    config = {"tls-cert-file": str(cert), "tls-key-file": str(key), "tls-auth-clients": "no"}
    cluster.env["HELIOS_ATLAS__TLS_CA_FILE"] = str(authority.path)
    cluster.start()
    with start_valkey(tmp_path / "external", config=config, binary=BINARY) as server:
        refused = cluster.command("ADDNODE", "ext", f"rediss://127.0.0.1:{server.port}", timeout_s=60)
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused)


def test_a_server_that_was_built_without_tls_is_said_to_have_none(cluster: Cluster, authority: Authority) -> None:
    cluster.env.update(tls_settings(authority, None))
    cluster.env["PATH"] = "/nonexistent"  # so that the server of the package is taken
    up = cluster.start()
    assert up.out.count("(has no TLS)") == 2
    assert "is not encrypted: this build of the server has no TLS" in cluster.data.log("shard-1").read_text()
    fill(cluster)
    assert served(cluster)


def test_files_of_tls_that_cannot_be_used_are_named(cluster: Cluster, authority: Authority, tmp_path: Path) -> None:
    cluster.env.update(tls_settings(authority, None))
    cluster.env["HELIOS_ATLAS__TLS_CA_FILE"] = str(tmp_path / "none.pem")
    ended = cluster.run(*cluster.words()[:-2])
    assert ended.returncode != 0
    assert "the files of TLS to data servers (atlas.tls_*) cannot be used" in ended.stderr
    assert "never awaited" not in ended.stderr
