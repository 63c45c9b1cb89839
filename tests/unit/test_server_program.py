"""Finding a server program, and the configuration that it is given."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from helios.errors import StartError
from helios.model.sections import AofFsync
from helios.node.server import (
    ServerConfig,
    ServerTls,
    find_server,
    inspect,
    on_path,
    packaged_server,
    render,
    speaks_tls,
)


def program(folder: Path, name: str, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


VALKEY = "Valkey server v=8.1.0 sha=00000000:0 malloc=libc bits=64 build=1"
REDIS = "Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1"
OLD = "Redis server v=6.2.7 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64 build=1"


def test_the_order_of_preference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = tmp_path / "bin"
    redis = program(on_path, "redis-server", REDIS)
    monkeypatch.setenv("PATH", f"{on_path}:/usr/bin:/bin")
    found = find_server()
    assert (found.path, found.product, found.version) == (redis, "redis", "7.2.4")
    valkey = program(on_path, "valkey-server", VALKEY)
    assert find_server().path == valkey
    other = program(tmp_path / "other", "valkey-server", VALKEY.replace("8.1.0", "9.0.1"))
    assert find_server(configured=str(redis), last="valkey 8.1.0").path == redis
    assert find_server(configured="redis-server").path == redis
    # A member goes on with what it ran with, or what is not older, wherever that stands.
    assert find_server(last="redis 7.2.4").path == redis
    assert find_server(last="redis 7.0.15").path == redis
    monkeypatch.setenv("PATH", f"{on_path}:{other.parent}:/usr/bin:/bin")
    assert find_server(last="valkey 9.0.1").path == other
    assert find_server(last="valkey 99.0.0").path == valkey
    assert (found.build, found.origin) == ("malloc=jemalloc-5.3.0 bits=64 build=1", "PATH")
    assert find_server(configured=str(other)).origin == "atlas.server"


def test_the_folder_that_one_stands_in_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "valkey-server", VALKEY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".::bin:/usr/bin:/bin")
    program(tmp_path, "own-server", VALKEY)
    assert find_server().path != tmp_path / "valkey-server"
    with pytest.raises(StartError, match="not there or not executable"):
        find_server(configured="own-server")
    own = program(tmp_path / "own", "valkey-server", VALKEY)
    assert find_server(configured="own/valkey-server").path == own
    assert on_path(["valkey-server"]) == [path for path in on_path(["valkey-server"]) if path.parent != tmp_path]


def test_old_and_foreign_programs_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = tmp_path / "bin"
    program(on_path, "valkey-server", "hello")
    old = program(on_path, "redis-server", OLD)
    monkeypatch.setenv("PATH", f"{on_path}:/usr/bin:/bin")
    packaged = packaged_server()
    assert packaged is not None
    assert find_server().path == packaged
    newer = program(tmp_path / "further", "redis-server", REDIS)
    monkeypatch.setenv("PATH", f"{on_path}:{newer.parent}:/usr/bin:/bin")
    assert find_server().path == newer
    with pytest.raises(StartError, match=r"Redis 6\.2\.7, and Helios needs 7 or newer"):
        find_server(configured=str(old))
    with pytest.raises(StartError, match="not there or not executable"):
        find_server(configured=str(tmp_path / "missing"))


def test_without_any_program_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = tmp_path / "bin"
    program(on_path, "redis-server", OLD)
    monkeypatch.setenv("PATH", f"{on_path}:/usr/bin:/bin")
    monkeypatch.setattr("helios.node.server.packaged_server", lambda: None)
    with pytest.raises(StartError, match=r"6\.2\.7.*install one, name it by atlas\.server"):
        find_server()


def test_the_packaged_server_says_what_it_is() -> None:
    packaged = packaged_server()
    assert packaged is not None
    found = inspect(packaged)
    assert not isinstance(found, str)
    assert found.product == "valkey"
    assert int(found.version.split(".")[0]) >= 7


@pytest.mark.parametrize(
    ("fsync", "word"), [(AofFsync.EVERY, "always"), (AofFsync.INTERVAL, "everysec"), (AofFsync.NO, "no")]
)
def test_the_configuration(fsync: AofFsync, word: str) -> None:
    folder = Path('/da ta/"x"')
    text = render(ServerConfig(folder, Path("/logs/m.log"), "127.0.0.1", 16379, "secret", fsync, maxmemory_bytes=7))
    lines = text.splitlines()
    assert f"appendfsync {word}" in lines
    assert "maxmemory 7" in lines
    assert "port 16379" in lines
    assert "bind 127.0.0.1" in lines
    assert "appendonly yes" in lines
    assert r'dir "/da ta/\"x\""' in lines
    assert next(line for line in lines if line.startswith("user default")).startswith("user default off ")
    assert f"user helios-admin on #{sha256(b'secret').hexdigest()} ~* &* +@all" in lines
    assert "secret" not in text
    assert "unixsocket" not in text


def test_the_configuration_of_one_with_a_socket() -> None:
    folder = Path('/da ta/"x"')
    config = ServerConfig(folder, folder / "log", "127.0.0.1", 16379, "secret", AofFsync.NO, socket=folder / "s.sock")
    lines = render(config).splitlines()
    assert r'unixsocket "/da ta/\"x\"/s.sock"' in lines
    assert "unixsocketperm 600" in lines


def test_the_configuration_of_one_with_tls() -> None:
    files = ServerTls(Path("/t/ca.pem"), Path("/t/cert.pem"), Path("/t/key.pem"))
    config = ServerConfig(Path("/d"), Path("/l"), "127.0.0.1", 7000, "secret", AofFsync.INTERVAL, tls=files)
    lines = render(config).splitlines()
    assert {"port 0", "tls-port 7000", 'tls-cert-file "/t/cert.pem"', "tls-replication yes"} <= set(lines)


def test_the_packaged_server_has_no_tls() -> None:
    path = packaged_server()
    assert path is not None
    program = inspect(path)
    assert not isinstance(program, str)
    assert not speaks_tls(program)
