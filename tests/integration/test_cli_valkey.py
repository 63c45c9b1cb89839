"""helios-cli against a real server: what a dump holds comes back as it was."""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from tests.servers import Server, start_valkey

from helios.cli.client import cli

pytestmark = pytest.mark.processes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with start_valkey(tmp_path / "server") as started:
        yield started


def run(server: Server, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--port", str(server.port), *arguments])


def test_every_type_and_time_to_live_survives_dump_and_load(server: Server, tmp_path: Path) -> None:
    target = str(tmp_path / "all.jsonl.gz")
    with Redis(port=server.port) as redis:
        soon_ms = int(time.time() * 1000) + 1_000_123
        redis.set("text", "Grüße")
        redis.set("bytes", bytes(range(256)), pxat=soon_ms)
        redis.hset("hash", mapping={"a": "1", "b": os.urandom(100)})
        redis.pexpireat("hash", soon_ms + 1)
        redis.rpush("list", *range(500))
        redis.sadd("set", *range(100))
        redis.zadd("zset", {"a": 1.5, "b": -2})
        redis.xadd("stream", {"field": "value"}, id="5-1")
        redis.set("", "an empty key")
        redis.set(b"\xff\n\t", b"")
        names = sorted(redis.keys())
        before = [(redis.dump(name), redis.pexpiretime(name)) for name in names]

        dumped = run(server, "dump", target)
        assert (dumped.exit_code, dumped.stderr) == (0, "")
        redis.flushall()
        redis.set("text", "another value, which the load replaces")
        loaded = run(server, "load", target)
        assert (loaded.exit_code, loaded.stderr) == (0, "")

        assert sorted(redis.keys()) == names
        assert [(redis.dump(name), redis.pexpiretime(name)) for name in names] == before


def test_entries_that_have_ended_leave_no_key(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with Redis(port=server.port) as redis:
        redis.rpush("list", 1)
        payload = redis.dump("list")
        assert isinstance(payload, bytes)
        redis.set("ended", "of before")
        dump = b64encode(payload).decode()
        path.write_text(
            f'{{"key":"ended","value":"v","expire_at_ms":5}}\n{{"key":"list","dump":"{dump}","expire_at_ms":5}}\n'
        )
        assert run(server, "load", str(path)).exit_code == 0
        assert redis.exists("ended", "list") == 0


def test_thousands_of_pairs_go_in_and_come_out(server: Server, tmp_path: Path) -> None:
    lines = sorted(f"key:{i}\tvalue \\ {i}" for i in range(20_000))
    source = tmp_path / "in.tsv"
    source.write_text("\n".join(lines) + "\n")
    assert run(server, "load", str(source)).exit_code == 0
    with Redis(port=server.port) as redis:
        assert redis.dbsize() == len(lines)
        assert redis.get("key:7") == b"value \\ 7"
    target = tmp_path / "out.tsv"
    assert run(server, "dump", str(target)).exit_code == 0
    _header, *dumped = target.read_text().splitlines()
    assert sorted(line.replace("\\\\", "\\") for line in dumped) == lines


def test_keys_one_by_one(server: Server) -> None:
    assert run(server, "set", "k", "v", "100").stdout == "OK\n"
    assert run(server, "get", "k").stdout_bytes == b"v"
    assert 50 < int(run(server, "ttl", "k").stdout) <= 100
    assert run(server, "expire", "k", "50").exit_code == 0
    assert 0 < int(run(server, "ttl", "k").stdout) <= 50
    assert run(server, "del", "k").stdout == "1\n"
    assert run(server, "get", "k").exit_code == 1
