"""redis-cli at a router: what it prints, and that it is the same as at one server."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.programs import find_program
from tests.routers import RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.model.passwords import hashed
from helios.model.users import Role, User
from helios.resp.wire import encode_command

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")
WAIT_S = 30


@dataclass(frozen=True)
class Ended:
    """What a run of the program wrote, and its exit code."""

    out: str
    error: str
    code: int


@dataclass(frozen=True)
class Cli:
    """The program, at one port."""

    port: int

    async def begin(self, *words: str, stdin: int = DEVNULL, stdout: int = PIPE) -> Process:
        program = find_program("redis-cli")
        assert program is not None
        command = [program, "-h", "127.0.0.1", "-p", str(self.port), *words]
        return await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=stdout, stderr=PIPE)

    async def run(self, *words: str, stdin: bytes | str = b"") -> Ended:
        process = await self.begin(*words, stdin=PIPE if stdin else DEVNULL)
        async with asyncio.timeout(WAIT_S):
            given = stdin.encode() if isinstance(stdin, str) else stdin
            out, error = await process.communicate(given or None)
        assert process.returncode is not None
        return Ended(out.decode("latin-1").strip(), error.decode().strip(), process.returncode)

    async def said(self, *words: str, stdin: bytes | str = b"") -> str:
        """What it wrote, where it had nothing to complain of."""
        ended = await self.run(*words, stdin=stdin)
        assert (ended.error, ended.code) == ("", 0)
        return ended.out


@pytest.fixture
def cli(lab: RouterLab) -> Cli:
    return Cli(lab.port)


async def ended(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    await process.communicate()


TYPED = """
set a 1
get a
mset a 1 b 2 c 3
mget a none c
incr a
append b "two words\\r\\n"
get b
hset h field value other "\\x00\\xff"
hgetall h
rpush {t}l one two three
lrange {t}l 0 -1
blpop {t}l {t}m 1
rename {t}l {t}m
sadd s x
smembers s
zadd z 1.5 a 2 b
zrange z 0 -1 withscores
zscore z a
xadd x 1-1 field value
xrange x - +
xread count 1 streams x 0
geoadd g 13.361389 38.115556 p
geopos g p q
lpush a wrong
nosuch command
get
set a 'unbalanced
object encoding a
type h
exists a b none
config get maxmemory-policy
multi
set {t}1 1
incr {t}1
get {t}1
exec
multi
set {t}1
exec
eval "return {KEYS[1], ARGV[1], {1, 2}, false}" 1 a x
eval "return redis.error_reply('MINE is no good')" 0
publish nobody hello
echo hello
role
dbsize
"""


@pytest.mark.parametrize("flags", [[], ["-3"], ["--csv"], ["--no-raw"], ["-3", "--no-raw"]], ids=" ".join)
async def test_a_session_looks_as_at_one_server(cli: Cli, plain: Server, flags: list[str]) -> None:
    at_server = Cli(plain.port)
    await at_server.said("flushall")
    expected, found = [await each.run(*flags, stdin=TYPED) for each in (at_server, cli)]
    assert found.out.splitlines() == expected.out.splitlines()
    assert found == expected
    assert "CROSSSHARD" not in found.out
    assert "EXECABORT" in found.out


async def test_what_is_refused_is_printed_with_its_reason(lab: RouterLab, cli: Cli) -> None:
    one, other = lab.key_of("shard-1"), lab.key_of("shard-2")
    for line, words in (
        (f"rename {one} {other}", "CROSSSHARD keys are owned by shard-1 and shard-2"),
        ("config set maxmemory 1", "'CONFIG SET' is refused: the servers' settings are the cluster's"),
        ("shutdown", "'SHUTDOWN' is refused"),
        ("debug sleep 1", "'DEBUG' is refused"),
    ):
        assert words in (await cli.run(*line.split())).out, line
    for flags, words in (
        (["-n", "1"], "SELECT 1 failed: ERR 'SELECT 1' is refused: Helios has one database"),
        (["--replica"], "'SYNC' is refused: the servers behind Helios are administered by Helios"),
        (["--cluster", "check", f"127.0.0.1:{lab.port}"], "is not configured as a cluster node"),
    ):
        ended = await cli.run(*flags)
        assert words in ended.out + ended.error, flags
    assert await cli.said("-c", "set", "a", "1") == "OK"  # as at any server that is no cluster's


async def test_a_mass_of_commands_is_piped(cli: Cli) -> None:
    frames = b"".join(encode_command([b"SET", b"key:%d" % i, b"x" * (i % 100)]) for i in range(5000))
    ended = await cli.run("--pipe", stdin=frames + encode_command([b"LPUSH", b"key:1", b"x"]) + b"INCR inline\r\n")
    assert ended.out.splitlines()[-1] == "errors: 1, replies: 5002"
    assert "WRONGTYPE" in ended.out + ended.error
    assert await cli.said("dbsize") == "5001"
    assert await cli.said("strlen", "key:4077") == "77"


async def test_the_key_space_is_gone_through(cli: Cli) -> None:
    keys = {f"key:{i}" for i in range(300)}
    for start in range(0, 300, 100):
        await cli.said("mset", *(word for key in sorted(keys)[start : start + 100] for word in (key, "x")))
    await cli.said("rpush", "list", *map(str, range(50)))
    await cli.said("hset", "hash", "a", "1", "b", "2")
    await cli.said("set", "big", "x" * 1000)
    assert set((await cli.said("--scan", "--pattern", "key:*")).split()) == keys
    assert await cli.said("--scan", "--pattern", "h*") == "hash"
    found = await cli.said("--bigkeys")
    assert "Sampled 303 keys in the keyspace!" in found
    for line in (
        "Biggest   list found '\"list\"' has 50 items",
        "Biggest   hash found '\"hash\"' has 2 fields",
        "Biggest string found '\"big\"' has 1000 bytes",
        "301 strings with 1300 bytes",
    ):
        assert line in found
    assert "Biggest string found '\"big\"'" in await cli.said("--memkeys")
    hot = await cli.run("--hotkeys")
    assert "An LFU maxmemory policy is not selected" in hot.out + hot.error


async def test_a_script_from_a_file(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "add.lua"
    script.write_text("redis.call('SET', KEYS[1], ARGV[1]); return {KEYS[2], ARGV[1] + ARGV[2]}")
    assert await cli.said("--eval", str(script), "{s}1", "{s}2", ",", "5", "6") == "{s}2\n11"
    assert await cli.said("get", "{s}1") == "5"
    refused = await cli.run("--eval", str(script), "a", "b", "c", "d", "e", ",", "5", "6")
    assert "CROSSSHARD keys are owned by" in refused.out


async def test_arguments_from_elsewhere_and_again(cli: Cli) -> None:
    assert await cli.said("-x", "set", "picture", stdin=b"\x00\x01 two\nlines") == "OK"
    assert await cli.said("--no-raw", "get", "picture") == r'"\x00\x01 two\nlines"'
    assert await cli.said("-r", "3", "incr", "count") == "1\n2\n3"
    assert await cli.said("--raw", "mget", "count", "none") == "3"


async def test_messages_are_printed_as_they_come(cli: Cli) -> None:
    for flags, word in (["--csv"], "subscribe"), (["--csv", "-3"], "psubscribe"):
        listening = await cli.begin(*flags, word, "news", "weather")
        assert listening.stdout is not None
        async with asyncio.timeout(WAIT_S):
            confirmed = b""
            while b'"weather",2' not in confirmed:
                confirmed += await listening.stdout.readline()
            assert await cli.said("publish", "weather", "rain") == "1"
            assert b'"weather","rain"' in await listening.stdout.readline()
        await ended(listening)


async def test_who_waits_gets_what_comes(lab: RouterLab, cli: Cli) -> None:
    waiting = asyncio.create_task(cli.said("blpop", "queue", "0"))
    await until(lambda: len(lab.router.blocked) == 1, "it waits")
    assert await cli.said("rpush", "queue", "element") == "1"
    assert await waiting == "queue\nelement"


async def test_logins(lab: RouterLab, cli: Cli) -> None:
    password = hashed(b"secret", bytes(16))
    lab.router.authenticator.apply(
        [User("app", Role.READ_WRITE, password, ("app:*",)), User("boss", Role.ADMIN, password)]
    )
    address = f"redis://app:secret@127.0.0.1:{lab.port}"
    quiet = "--no-auth-warning"
    assert await cli.said(quiet, "-u", address, "set", "app:1", "x") == "OK"
    assert await cli.said(quiet, "--user", "app", "--pass", "secret", "-3", "get", "app:1") == "x"
    assert (await cli.run(quiet, "-u", address, "get", "other")).out.startswith("NOPERM")
    assert (await cli.run("get", "app:1")).out.startswith("NOAUTH")
    assert await cli.said(stdin="auth app secret\nget app:1\nacl whoami\n") == "OK\nx\napp"
    wrong = await cli.run(quiet, "--user", "app", "--pass", "wrong", "get", "app:1")
    assert "AUTH failed: WRONGPASS" in wrong.error


async def test_its_monitoring(cli: Cli) -> None:
    assert re.fullmatch(r"\d+ \d+ \d+\.\d\d \d+", await cli.said("--latency", "--raw", "-i", "0.05"))
    master, terminal = os.openpty()  # into a file or a pipe it writes nothing before its buffer is full
    watching = await cli.begin("--stat", "-i", "0.01", stdout=terminal)
    os.close(terminal)
    try:
        shown = b""
        async with asyncio.timeout(WAIT_S):
            while shown.count(b"\n") < 5:
                shown += await asyncio.to_thread(os.read, master, 4096)
        heads, columns, *lines = shown.decode().splitlines()
        assert ("data" in heads, columns.split()[:4]) == (True, ["keys", "mem", "clients", "blocked"])
        assert re.match(r"0 +\d+\.\d+M +1 +0 +\d+ \(\+\d+\) +\d+", lines[1])
    finally:
        await ended(watching)
        os.close(master)
