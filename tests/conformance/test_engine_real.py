"""What only server processes can show: types, rights by the live server's own judgement, broken peers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import hiredis
import pytest
from tests.engine_lab import Lab, RealLab, raw, run, until
from tests.servers import ADMIN_PASSWORD, ADMIN_USER, start_valkey

from helios.engines.valkey import ValkeyConnector, durability
from helios.engines.valkey.changes import TrackingStream
from helios.engines.valkey.connection import ErrorReply, connect
from helios.engines.valkey.rights import setuser
from helios.errors import ChangesLost, EngineDenied, EngineError, EngineUnreachable, PayloadRefused
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import Dumped, Engine, StreamState, UserRole

Commands = list[tuple[bytes | str | int, ...]]

TYPES: dict[bytes, Commands] = {
    b"string": [("SET", b"string", b"\x00\xff" * 50)],
    b"number": [("SET", b"number", 12345678901)],
    b"list": [("RPUSH", b"list", *range(2000))],
    b"set of numbers": [("SADD", b"set of numbers", *range(100))],
    b"set": [("SADD", b"set", *(b"m\r\n%d" % i for i in range(2000)))],
    b"hash": [("HSET", b"hash", *(b"%d" % i for i in range(2000)))],
    b"small hash": [("HSET", b"small hash", b"f", b"v")],
    b"sorted set": [("ZADD", b"sorted set", "1.5", b"a", "-inf", b"b", "3", b"c")],
    b"hyperloglog": [("PFADD", b"hyperloglog", *range(1000))],
    b"bitmap": [("SETBIT", b"bitmap", 99_999, 1)],
    b"geo": [("GEOADD", b"geo", "13.4", "52.5", b"berlin")],
    b"stream": [
        *(("XADD", b"stream", f"{i}-1", b"f", b"v%d" % i) for i in range(1, 300)),
        ("XGROUP", "CREATE", b"stream", b"group", "0"),
        ("XREADGROUP", "GROUP", b"group", b"consumer", "COUNT", 5, "STREAMS", b"stream", ">"),
        ("XDEL", b"stream", "2-1"),
    ],
}
READ: dict[bytes, Commands] = {
    b"string": [("GET", b"string")],
    b"number": [("INCR", b"number")],
    b"list": [("LRANGE", b"list", 0, -1)],
    b"set of numbers": [("SORT", b"set of numbers"), ("OBJECT", "ENCODING", b"set of numbers")],
    b"set": [("SORT", b"set", "ALPHA")],
    b"hash": [("HGETALL", b"hash")],
    b"small hash": [("HGETALL", b"small hash")],
    b"sorted set": [("ZRANGE", b"sorted set", 0, -1, "WITHSCORES")],
    b"hyperloglog": [("PFCOUNT", b"hyperloglog")],
    b"bitmap": [("BITCOUNT", b"bitmap")],
    b"geo": [("GEOPOS", b"geo", b"berlin")],
    b"stream": [
        ("XRANGE", b"stream", "-", "+"),
        ("XPENDING", b"stream", b"group"),
        ("XINFO", "GROUPS", b"stream"),
    ],
}


async def scan_names(engine: Engine) -> list[bytes]:
    """The keys of a small server."""
    _, keys = await engine.scan(0, 10_000)
    return keys


async def copy(engine: Engine, keys: list[bytes]) -> None:
    """Take keys away and bring them back."""
    dumped = await engine.dump(keys)
    await engine.delete(keys)
    assert await engine.count() == 0
    assert all(await engine.restore([(key, d) for key, d in zip(keys, dumped, strict=True) if d]))


@pytest.mark.processes
async def test_every_type_keeps_its_content_and_ttl(real_lab: Lab) -> None:
    engine = await real_lab.open()
    keys = sorted(TYPES)
    ends_ms = int(time.time() * 1000) + 3_600_000
    for i, key in enumerate(keys):
        for command in TYPES[key]:
            await run(engine, *command)
        if i % 2:
            assert await run(engine, "PEXPIREAT", key, ends_ms + i) == 1
    before = {key: [await run(engine, *command) for command in READ[key]] for key in keys if key != b"number"}
    types = [await run(engine, "TYPE", key) for key in keys]
    await copy(engine, keys)
    assert {key: [await run(engine, *command) for command in READ[key]] for key in before} == before
    assert await run(engine, "INCR", b"number") == 12345678902
    assert [await run(engine, "TYPE", key) for key in keys] == types
    ends = [await run(engine, "PEXPIRETIME", key) for key in keys]
    assert ends == [ends_ms + i if i % 2 else -1 for i in range(len(keys))]


@pytest.mark.processes
async def test_fields_of_hashes_keep_their_own_ttl(real_lab: Lab) -> None:
    engine = await real_lab.open()
    ends_ms = int(time.time() * 1000) + 3_600_321
    await run(engine, "HSET", b"h", b"a", b"1", b"b", b"2")
    (made,) = await raw(engine).execute_many([("HPEXPIREAT", b"h", ends_ms, "FIELDS", 1, b"a")])
    if isinstance(made, ErrorReply):
        # Redis before 7.4 has none. That is what it must be then, and nothing else.
        assert real_lab.kind == "redis"
        assert "unknown command" in str(made)
        return
    await copy(engine, [b"h"])
    assert await run(engine, "HPEXPIRETIME", b"h", "FIELDS", 2, b"a", b"b") == [ends_ms, -1]


@pytest.mark.processes
async def test_streams_and_their_groups_are_known(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "SET", b"text", b"1")
    for key in (b"bare", b"grouped"):
        await run(engine, "XADD", key, b"1-1", b"f", b"v")
    await run(engine, "XGROUP", "CREATE", b"grouped", b"g", b"0")
    dumped = await engine.dump([b"text", b"bare", b"grouped"])
    assert [value.stream for value in dumped if value is not None] == [False, True, True]
    bare = StreamState(b"1-1", 1, b"0-0", 0)
    assert await engine.stream_states([b"text", b"none", b"bare", b"grouped"]) == [
        None,
        None,
        bare,
        replace(bare, groups=1),
    ]
    await run(engine, "XADD", b"bare", b"2-1", b"f", b"v")
    await run(engine, "XDEL", b"bare", b"1-1")
    await run(engine, "XSETID", b"bare", b"100-0")
    assert await engine.stream_states([b"bare"]) == [StreamState(b"100-0", 2, b"1-1", 0)]


# What no change stream names, in an order in which each changes something.
UNNAMED: Commands = [
    ("XGROUP", "CREATECONSUMER", "s", "g", "idle"),
    ("XREADGROUP", "GROUP", "g", "one", "COUNT", 2, "STREAMS", "s", ">"),
    ("XREADGROUP", "GROUP", "g", "one", "STREAMS", "s", "0"),  # counts as a delivery
    ("XREADGROUP", "GROUP", "g", "one", "NOACK", "COUNT", 1, "STREAMS", "s", ">"),
    ("XCLAIM", "s", "g", "one", 0, "1-1"),
    ("XCLAIM", "s", "g", "one", 0, "2-1", "RETRYCOUNT", 9, "JUSTID"),
    ("XCLAIM", "s", "g", "one", 0, "2-1", "TIME", 1_000_000, "RETRYCOUNT", 9, "JUSTID"),
    ("XCLAIM", "s", "g", "two", 0, "2-1"),
    ("XAUTOCLAIM", "s", "g", "one", 0, "0", "COUNT", 10),
    ("XAUTOCLAIM", "s", "g", "one", 0, "0", "COUNT", 10, "JUSTID"),
    ("XACK", "s", "g", "1-1"),
    ("XGROUP", "SETID", "s", "g", "1-1"),
    ("XGROUP", "SETID", "s", "g", "1-1", "ENTRIESREAD", 2),
    ("XGROUP", "DELCONSUMER", "s", "g", "two"),
    ("XGROUP", "DESTROY", "s", "g"),
    ("XGROUP", "CREATE", "s", "g", "$"),
    ("XSETID", "s", "50-0"),
    ("XSETID", "s", "50-0", "ENTRIESADDED", 40, "MAXDELETEDID", "0-1"),
]


@pytest.mark.processes
async def test_whatever_changes_unnamed_changes_a_stream_s_mark(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "FLUSHALL")
    await run(engine, "SET", "text", "v")
    for number in range(1, 6):
        await run(engine, "XADD", "s", f"{number}-1", "f", "v")
    await run(engine, "XGROUP", "CREATE", "s", "g", "0")

    async def mark() -> bytes:
        while True:
            (found,) = await engine.stream_marks([b"s"])
            assert found is not None
            if found:  # none is given in the millisecond in which a consumer is seen
                return found

    before = await mark()
    for command in UNNAMED:
        stream = await engine.changes()
        writes = await engine.stream_writes()
        await run(engine, *command)
        assert await engine.stream_writes() not in (b"", writes), command
        assert await stream.barrier() <= {b"s"}
        await stream.close()
        after = await mark()
        assert after != before, command
        assert await mark() == after
        before = after
    assert await engine.stream_marks([b"text", b"none"]) == [None, None]


@pytest.mark.processes
async def test_stream_writes_tell_of_calls_from_everywhere(real_lab: Lab) -> None:
    """From scripts and transactions, of clients that were blocked, and where counting begins anew."""
    engine, other = await real_lab.open(), await real_lab.open()
    await run(engine, "FLUSHALL")
    await run(engine, "XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    await run(engine, "XADD", "s", "1-1", "f", "v")
    acknowledge = "return redis.call('XACK', KEYS[1], 'g', '1-1')"
    await run(engine, "XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    for commands in (
        [("EVAL", acknowledge, 1, "s")],
        [("MULTI",), ("XACK", "s", "g", "1-1"), ("EXEC",)],
        [("CONFIG", "RESETSTAT")],
        [("XACK", "s", "g", "1-1"), ("CONFIG", "RESETSTAT")],
    ):
        before = await engine.stream_writes()
        for command in commands:
            await run(engine, *command)
        assert await engine.stream_writes() not in (b"", before), commands

    waiting = asyncio.create_task(
        raw(other).execute("XREADGROUP", "GROUP", "g", "c", "BLOCK", 0, "STREAMS", "s", ">", timeout_s=20)
    )
    while b"cmd=xreadgroup" not in b" ".join(await clients(engine)):
        pass
    before = await engine.stream_writes()
    await run(engine, "XADD", "s", "2-1", "f", "v")
    await waiting
    after = await engine.stream_writes()
    assert after not in (b"", before)
    for command in (("XADD", "s", "3-1", "f", "v"), ("XLEN", "s"), ("XINFO", "STREAM", "s"), ("SET", "k", "v")):
        await run(engine, *command)
    assert await engine.stream_writes() == after


@pytest.mark.processes
async def test_a_stream_whose_consumer_is_seen_in_this_moment_has_no_mark(real_lab: Lab) -> None:
    """Else what comes in the same millisecond might leave the mark as it is."""
    engine = await real_lab.open()
    await run(engine, "FLUSHALL")
    await run(engine, "XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    await run(engine, "XADD", "s", "1-1", "f", "v")
    unmarked = 0
    for _ in range(200):
        if not unmarked:
            reading = run(engine, "XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", "0")
            _, (found,) = await asyncio.gather(reading, engine.stream_marks([b"s"]))
            unmarked += found == b""
    assert unmarked


@pytest.mark.processes
async def test_replies_come_as_they_are_beside_others_and_pushes(real_lab: Lab) -> None:
    engine = await real_lab.open()
    pushed: list[object] = []
    connection = await connect(raw(engine).endpoint, on_push=pushed.append)
    try:
        await connection.execute("CLIENT", "TRACKING", "ON", "BCAST")
        writes = [("SET", "k", "v"), ("GET", "k"), ("INCR", "k"), ("MGET", "k", "none")]
        parsed, unparsed, again = await asyncio.gather(
            connection.execute_many(writes), connection.execute_raw(writes), connection.execute_many(writes[:2])
        )
        assert (parsed[:2], parsed[3]) == ([b"OK", b"v"], [b"v", None])
        assert isinstance(parsed[2], ErrorReply)
        assert (unparsed[:2], unparsed[3]) == ([b"+OK\r\n", b"$1\r\nv\r\n"], b"*2\r\n$1\r\nv\r\n_\r\n")
        assert unparsed[2].startswith(b"-ERR value is not an integer")
        assert again == [b"OK", b"v"]
        assert await connection.execute("PING") == b"PONG"
        assert pushed
    finally:
        await connection.close()


@pytest.mark.processes
async def test_a_stream_that_nobody_fetches_is_ended_before_it_fills_the_server(real_lab: Lab) -> None:
    engine = await real_lab.open()
    listener = await real_lab.open()
    stream = await listener.changes()
    (listening,) = [line for line in (await clients(engine)) if b" sub=1 " in line]
    number = int(listening.split()[0].removeprefix(b"id="))
    connection = cast(TrackingStream, stream)._connection
    assert connection is not None
    assert connection._transport is not None
    connection._transport.pause_reading()
    most = 0
    for batch in range(600):
        await raw(engine).execute_many([("SET", b"%d:%d" % (batch, n) + b"k" * 500, b"") for n in range(200)])
        found = [line for line in await clients(engine) if line.startswith(b"id=%d " % number)]
        if not found:
            break
        most = max(most, int(dict(part.split(b"=", 1) for part in found[0].split())[b"omem"]))
        await run(engine, "FLUSHALL")
    else:
        pytest.fail(f"the server kept {most} bytes for a client that does not read")
    connection._transport.resume_reading()
    with pytest.raises(ChangesLost, match="copy everything again"):
        await stream.barrier()
    await stream.close()


async def clients(engine: Engine) -> list[bytes]:
    """What the server says of its connections."""
    return bytes(await run(engine, "CLIENT", "LIST")).splitlines()


@pytest.mark.processes
async def test_others_changes_are_named_whatever_makes_them(real_lab: Lab) -> None:
    writer, other = await real_lab.open(), await real_lab.open()
    stream = await writer.changes(own=False)
    await run(other, "EVAL", "redis.call('SET', 'a', '1') redis.call('DEL', 'a')", 0)
    assert await stream.barrier() == {b"a"}
    await run(other, "CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    await raw(writer).execute_many([("SET", b"evicted:%d" % n, b"v" * 1000) for n in range(3000)])
    assert await stream.barrier() == set()
    await run(other, "CONFIG", "SET", "maxmemory", "2mb")
    named: set[bytes] = set()

    async def evicted() -> bool:
        named.update(await stream.barrier())
        return len(named) + await writer.count() == 3000

    await until(evicted)
    assert named
    await stream.close()


CHANGING: list[tuple[str, Commands, set[bytes]]] = [
    ("rename", [("RENAME", b"old", b"new")], {b"old", b"new"}),
    ("multi", [("MULTI",), ("SET", b"a", 1), ("DEL", b"old"), ("EXEC",)], {b"a", b"old"}),
    ("script", [("EVAL", "redis.call('set', KEYS[1], 1); return redis.call('incr', KEYS[1])", 1, b"s")], {b"s"}),
    ("expire", [("PEXPIRE", b"old", 100_000)], {b"old"}),
    ("persist", [("PEXPIRE", b"old", 100_000), ("PERSIST", b"old")], {b"old"}),
    ("copy", [("COPY", b"old", b"copied")], {b"copied"}),
    ("mset", [("MSET", b"a", 1, b"b", 2)], {b"a", b"b"}),
    ("store", [("RPUSH", b"l", 2, 1), ("SORT", b"l", "STORE", b"sorted")], {b"l", b"sorted"}),
    ("getdel", [("GETDEL", b"old")], {b"old"}),
    ("getex", [("GETEX", b"old", "PX", 100_000)], {b"old"}),
    ("expired at once", [("PEXPIREAT", b"old", 1)], {b"old"}),
    ("reading", [("GET", b"old"), ("TTL", b"old"), ("DEL", b"none"), ("SCAN", 0)], set()),
]


@pytest.mark.processes
async def test_every_way_of_changing_is_named(real_lab: Lab) -> None:
    engine, writer = await real_lab.open(), await real_lab.open()
    for name, commands, expected in CHANGING:
        await run(writer, "SET", b"old", 1)
        stream = await engine.changes()
        replies = await raw(writer).execute_many(commands)
        assert not [reply for reply in replies if isinstance(reply, ErrorReply)], name
        assert await stream.barrier() == expected, name
        await stream.close()


@pytest.mark.processes
async def test_eviction_is_named(real_lab: Lab) -> None:
    engine, writer = await real_lab.open(), await real_lab.open()
    keys = [b"evict:%d" % i for i in range(200)]
    for key in keys:
        await run(writer, "SET", key, b"v" * 1000)
    stream = await engine.changes()
    await run(writer, "CONFIG", "SET", "maxmemory-policy", "allkeys-random", "maxmemory", 1)
    with pytest.raises(EngineError, match="OOM"):
        await run(writer, "SET", b"one more", b"v")
    await run(writer, "CONFIG", "SET", "maxmemory", 0)
    left = await engine.exists(keys)
    assert not all(left)
    assert {key for key, there in zip(keys, left, strict=True) if not there} <= await stream.barrier()
    await stream.close()


@pytest.mark.processes
async def test_out_of_memory_names_the_key_and_writes_nothing(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "SET", b"a", 1)
    (dumped,) = await engine.dump([b"a"])
    assert dumped is not None
    await run(engine, "CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(EngineError, match=r"RESTORE of b'full'.*OOM"):
        await engine.restore([(b"full", dumped)])
    assert await engine.exists([b"full"]) == [False]
    assert await engine.delete([b"a"]) == 1


@pytest.mark.processes
async def test_a_stream_that_is_not_read_is_bounded(real_lab: Lab) -> None:
    engine = await real_lab.open()
    stream = await TrackingStream.open(
        raw(engine).endpoint, connect_timeout_s=10.0, timeout_s=10.0, max_bytes=20 * 1000
    )
    for i in range(100):
        await run(engine, "SET", b"%d" % (i % 10), i)
    assert len(await stream.barrier()) == 10
    await raw(engine).execute_many([("SET", b"%d" % i, i) for i in range(1000)])
    with pytest.raises(ChangesLost, match="more than 20000 bytes"):
        await stream.barrier()
    await stream.close()


@pytest.mark.processes
async def test_persist_leaves_no_key_and_is_heard_by_nobody_for_long(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "CONFIG", "SET", "appendfsync", "always")
    await run(engine, "SET", b"k", 1)
    assert await engine.persist(10.0) is True
    assert await scan_names(engine) == [b"k"]


@pytest.mark.processes
async def test_persist_is_told_of_deletions_on_a_server_that_is_out_of_memory(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "CONFIG", "SET", "appendfsync", "always")
    await run(engine, "SET", b"k", 1)
    await run(engine, "CONFIG", "SET", "maxmemory", "1")
    assert await engine.persist(10.0) is True
    assert await scan_names(engine) == [b"k"]


@pytest.mark.processes
async def test_persist_is_not_promised_without_a_log_that_is_always_synced(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "CONFIG", "SET", "appendfsync", "always", "no-appendfsync-on-rewrite", "yes")
    assert await engine.persist(10.0) is False
    await run(engine, "CONFIG", "SET", "no-appendfsync-on-rewrite", "no", "appendonly", "no")
    assert await engine.persist(10.0) is False
    assert (await engine.info()).aof_enabled is False


PENDING, IDLE, FAILED = (1, "ok"), (0, "ok"), (0, "err")


@pytest.mark.parametrize(
    ("seen", "looks", "error"),
    [
        ([IDLE, IDLE], 2, None),
        ([PENDING, PENDING, IDLE, IDLE], 4, None),
        ([IDLE, PENDING, IDLE, PENDING, IDLE, IDLE], 6, None),
        ([PENDING, FAILED], 2, "cannot write its log"),
        ([PENDING] * 1000, None, "within 0.5 s"),
    ],
)
async def test_persist_looks_until_a_sync_that_began_after_its_mark_has_ended(
    monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, str]], looks: int | None, error: str | None
) -> None:
    monkeypatch.setattr(durability, "_SYNC_EVERY_S", 0.0)
    log = iter([IDLE, *seen])
    said: list[bytes] = []

    def respond(command: list[bytes]) -> bytes:
        said.append(command[0])
        if command[0] == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        if command[0] == b"CONFIG":
            value = b"everysec" if command[2] == b"appendfsync" else b"no"
            return b"%%1\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(command[2]), command[2], len(value), value)
        if command[0] == b"INFO":
            text = b"aof_enabled:1\r\naof_pending_bio_fsync:%d\r\naof_last_write_status:%s\r\n"
            pending, status = next(log)
            text %= (pending, status.encode())
            return b"$%d\r\n%s\r\n" % (len(text), text)
        return b"+OK\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                writer.write(respond(command))
        writer.close()

    async with listening(answer) as member:
        engine = await ValkeyConnector().open(member)
        if error is None:
            assert await engine.persist(10.0) is True
        else:
            with pytest.raises(EngineError, match=error):
                await engine.persist(0.5)
        if looks is not None:
            assert said.index(b"EXEC") == len(said) - looks - 1
            assert said.count(b"INFO") == looks + 1
        await engine.close()


FULL_AOF = b"# Persistence\r\naof_enabled:1\r\naof_last_write_status:err\r\nrdb_last_bgsave_status:ok\r\n"
NO_SAVE = b"# Persistence\r\naof_enabled:0\r\nrdb_last_bgsave_status:err\r\n"


@pytest.mark.parametrize(
    ("info", "stops", "save", "reason"),
    [
        (FULL_AOF, b"no", b"", "it could not write its log: make room on the disk of /data; a moment later"),
        (NO_SAVE, b"yes", b"3600 1", "it could not save its data: make room on the disk of /data, then give it BGSAVE"),
        (NO_SAVE, b"no", b"3600 1", ""),
        (NO_SAVE, b"yes", b"", ""),
        (b"# Persistence\r\naof_enabled:1\r\naof_last_write_status:ok\r\n", b"yes", b"1 1", ""),
    ],
)
async def test_a_server_that_cannot_write_is_known_before_a_client_finds_out(
    info: bytes, stops: bytes, save: bytes, reason: str
) -> None:
    settings = {b"stop-writes-on-bgsave-error": stops, b"save": save, b"dir": b"/data"}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (argv := parser.gets()) is not False:
                if argv[0] == b"HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                elif argv[0] == b"INFO":
                    writer.write(b"$%d\r\n%b\r\n" % (len(info), info))
                else:
                    value = settings[argv[2]]
                    writer.write(b"%%1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(argv[2]), argv[2], len(value), value))
        writer.close()

    async with listening(answer) as member:
        engine = await ValkeyConnector().open(member)
        said = await engine.refuses_writes()
        await engine.close()
    assert said.startswith(reason)
    assert bool(said) is bool(reason)


@pytest.mark.processes
async def test_a_server_in_order_takes_writes(real_lab: Lab) -> None:
    assert await (await real_lab.open()).refuses_writes() == ""


# What clients may do through Helios, and what would break a shard or let a router out of its session.
ALLOWED: Commands = [
    *(("GET", "k"), ("SET", "k", "v"), ("DEL", "k"), ("KEYS", "*"), ("SCAN", "0"), ("DBSIZE",), ("RANDOMKEY",)),
    *(("INFO",), ("CONFIG", "GET", "maxmemory"), ("SORT", "k"), ("SORT_RO", "k")),
    *(("ROLE",), ("WAIT", "0", "1")),
    *(("SCRIPT", "LOAD", "return 1"), ("SCRIPT", "FLUSH"), ("EVAL", "return 1", "0"), ("FUNCTION", "LIST")),
    *(("FUNCTION", "FLUSH"), ("FUNCTION", "LOAD", "x"), ("FCALL", "f", "0"), ("MULTI",), ("WATCH", "k")),
    *(("SUBSCRIBE", "c"), ("PSUBSCRIBE", "c*"), ("SSUBSCRIBE", "c"), ("PUBLISH", "c", "m"), ("PUBSUB", "CHANNELS")),
    *(("CLIENT", "ID"), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", "1"), ("CLIENT", "UNBLOCK", "1")),
    *(("CLIENT", "SETNAME", "n"), ("CLIENT", "TRACKING", "on"), ("CLIENT", "INFO"), ("CLIENT", "REPLY", "ON")),
    *(("HELLO", "3"), ("AUTH", "u", "p"), ("PING",), ("ECHO", "x"), ("COMMAND",), ("MEMORY", "USAGE", "k")),
    *(("OBJECT", "ENCODING", "k"), ("BLPOP", "k", "0"), ("XREAD", "STREAMS", "k", "0"), ("DUMP", "k")),
    *(("RESTORE", "k", "0", "x"), ("COPY", "a", "b"), ("RENAME", "a", "b"), ("TIME",), ("LOLWUT",), ("RESET",)),
    *(("GEOADD", "g", "1", "1", "m"), ("PFADD", "h", "e"), ("SETBIT", "b", "1", "1"), ("EXPIRE", "k", "1")),
]
FLUSH: Commands = [("FLUSHDB",), ("FLUSHDB", "ASYNC")]
FORBIDDEN: Commands = [
    ("FLUSHALL",),
    *(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "REWRITE"), ("CONFIG", "RESETSTAT"), ("SHUTDOWN",)),
    *(("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "NO", "ONE"), ("FAILOVER",), ("DEBUG", "SLEEP", "0"), ("SAVE",)),
    *(("BGSAVE",), ("BGREWRITEAOF",), ("MIGRATE", "h", "1", "k", "0", "1"), ("MONITOR",), ("SYNC",)),
    *(("PSYNC", "?", "-1"), ("REPLCONF", "ACK", "1"), ("MODULE", "LIST"), ("MODULE", "LOAD", "/x")),
    *(("SWAPDB", "0", "1"), ("SELECT", "1"), ("MOVE", "k", "1"), ("CLIENT", "PAUSE", "1"), ("LASTSAVE",)),
    *(("CLIENT", "NO-EVICT", "on"), ("CLUSTER", "RESET"), ("CLUSTER", "MEET", "h", "1"), ("PFSELFTEST",)),
    *(("RESTORE-ASKING", "k", "0", "x"), ("PFDEBUG", "ENCODING", "k")),
    *(("SLOWLOG", "GET"), ("SLOWLOG", "RESET"), ("LATENCY", "LATEST"), ("MEMORY", "DOCTOR"), ("MEMORY", "PURGE")),
    *(("MEMORY", "STATS"), ("MEMORY", "MALLOC-STATS"), ("CLUSTER", "INFO"), ("CLUSTER", "NODES")),
]
ACL: Commands = [("ACL", "SETUSER", "x"), ("ACL", "DELUSER", "x"), ("ACL", "USERS"), ("ACL", "LIST"), ("ACL", "SAVE")]


@pytest.mark.processes
async def test_rights_by_the_judgement_of_the_live_server(real_lab: Lab) -> None:
    admin = await real_lab.open()
    await admin.allow("router", "secret", UserRole.ROUTER)
    await admin.allow("mover", "secret", UserRole.MOVER)
    await admin.allow("flusher", "secret", UserRole.FLUSHER)
    await admin.allow("replicator", "secret", UserRole.REPLICATOR)
    await admin.allow("follower", "secret", UserRole.FOLLOWER)
    following: Commands = [("REPLCONF", "ACK", "1"), ("PSYNC", "?", "-1")]
    telling: Commands = [("REPLICAOF", "NO", "ONE"), ("CONFIG", "SET", "masterauth", "x"), *ACL]
    may: dict[str, Commands] = {
        "router": ALLOWED,
        "mover": [*ALLOWED, *ACL, *FLUSH],
        "flusher": [("HELLO", "3"), *FLUSH],
        "replicator": [*telling, *following],
        "follower": [("PING",), *following],
    }
    others = [command for command in ALLOWED if command[0] not in ("HELLO", "AUTH", "RESET", "INFO", "CLIENT")]
    may_not: dict[str, Commands] = {
        "router": [*FORBIDDEN, *ACL, *FLUSH],
        "mover": FORBIDDEN,
        "flusher": [*FORBIDDEN, *ACL, *others],
        "replicator": FLUSH,
        "follower": [("GET", "k"), ("SCAN", "0"), ("KEYS", "*"), *telling, *FLUSH],
    }
    for user in may:
        for command in may[user]:
            assert await run(admin, "ACL", "DRYRUN", user, *command) == b"OK", (user, command)
        for command in may_not[user]:
            said = await run(admin, "ACL", "DRYRUN", user, *command)
            assert b"no permissions to run" in said, (user, command, said)


@pytest.mark.processes
async def test_forbidden_commands_are_denied_in_fact_and_in_scripts(real_lab: Lab) -> None:
    admin = await real_lab.open()
    await admin.allow("router", "secret", UserRole.ROUTER)
    router = await real_lab.open("router", "secret")
    for command in [*FORBIDDEN, *ACL, *FLUSH]:
        # Some are closed for everybody before rights are looked at.
        with pytest.raises(EngineError, match=r"NOPERM|(DEBUG|MODULE) command not allowed"):
            await run(router, *command)
    for inside in (
        "'flushall'",
        "'flushdb', 'async'",
        "'select', '1'",
        "'config', 'set', 'maxmemory', '1'",
        "'acl', 'users'",
        "'debug', 'jmap'",
        "'slowlog', 'get'",
        "'memory', 'doctor'",
        "'memory', 'purge'",
        "'cluster', 'info'",
    ):
        with pytest.raises(EngineError):
            await run(router, "EVAL", f"return redis.call({inside})", 0)
    assert await run(admin, "CONFIG", "GET", "maxmemory") == {b"maxmemory": b"0"}
    assert "router" in await admin.users()


@pytest.mark.processes
async def test_passwords_are_not_sent_in_the_clear(real_lab: Lab) -> None:
    assert not [part for part in setuser("router", "very-secret", UserRole.ROUTER) if "very-secret" in part]
    await (await real_lab.open()).allow("router", "very-secret", UserRole.ROUTER)
    assert await (await real_lab.open("router", "very-secret")).count() == 0


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Member]:
    """A peer of another kind."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Member("legacy.0", "legacy", Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    finally:
        server.close()


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", EngineUnreachable, "RESP"),
        (b"-ERR max number of clients reached\r\n", EngineUnreachable, "max number of clients"),
        (b"-DENIED running in protected mode\r\n", EngineDenied, "protected mode"),
        (b"-ERR unknown command 'HELLO'\r\n", EngineError, "HELLO"),
        (b"+OK\r\n", EngineUnreachable, "HELLO"),
        (b"", EngineUnreachable, "closed"),
    ],
)
async def test_peers_that_are_no_such_server(said: bytes, error: type[EngineError], match: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        writer.close()

    async with listening(answer) as member:
        with pytest.raises(error, match=rf"legacy\.0 at 127\.0\.0\.1:\d+.*{match}"):
            await ValkeyConnector(connect_timeout_s=10.0).open(member)


async def test_a_peer_that_says_nothing_is_given_up_in_time() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(answer) as member:
        with pytest.raises(EngineUnreachable, match=r"legacy\.0 at .* within 0\.05 s"):
            await ValkeyConnector(connect_timeout_s=0.05).open(member)


@pytest.mark.processes
async def test_a_router_of_helios_is_told_apart(real_lab: Lab) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"HELLO\r\n$1\r\n3\r\n")
        writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
        await reader.readuntil(b"appendfsync\r\n")
        info = b"redis_version:7.2.4\r\nrun_id:abc\r\nhelios_node:shard-1\r\n"
        writer.write(b"$%d\r\n%s\r\n-ERR not here\r\n" % (len(info), info))
        await reader.read()
        writer.close()

    async with listening(answer) as member:
        engine = await ValkeyConnector().open(member)
        info = await engine.info()
        assert (info.helios_node, info.aof_fsync) == ("shard-1", "no")
        await engine.close()
    assert (await (await real_lab.open()).info()).helios_node is None


@asynccontextmanager
async def unreliable(port: int) -> AsyncIterator[Address]:
    """A way to a server on which the server never hears that a client has gone."""
    ways: list[asyncio.Task[None]] = []
    upstreams: list[asyncio.StreamWriter] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        upstreams.append(upstream_writer)
        ways.append(asyncio.create_task(pass_on(reader, upstream_writer)))
        ways.append(asyncio.create_task(pass_on(upstream_reader, writer)))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for way in ways:
            way.cancel()
        for upstream in upstreams:
            upstream.close()


@pytest.mark.processes
@pytest.mark.parametrize("reopened", [False, True])
async def test_opening_again_ends_what_a_lost_connection_still_has_to_run(real_lab: Lab, reopened: bool) -> None:
    assert isinstance(real_lab, RealLab)
    admin = await real_lab.open()
    await admin.allow("mover", "secret", UserRole.MOVER)
    async with unreliable(real_lab.server.port) as address:
        connector, member = ValkeyConnector(), replace(real_lab.member, address=address)
        engine = await connector.open(member, user="mover", password="secret")
        await run(admin, "CLIENT", "PAUSE", 60_000, "WRITE")
        late = asyncio.create_task(real_lab.set(engine, b"k", b"late"))

        async def held() -> bool:
            lines = (await run(admin, "CLIENT", "LIST")).split(b"\n")
            return any(b"user=mover" in line and b"cmd=set" in line for line in lines)

        await until(held)
        await engine.close()
        with pytest.raises(EngineUnreachable):
            await late
        if reopened:
            again = await connector.open(member, user="mover", password="secret")
            await again.close()
        await run(admin, "CLIENT", "UNPAUSE")
        # Commands that were held run before those sent after the pause ended.
        await real_lab.set(admin, b"after", b"1")
        assert await real_lab.get(admin, b"k") == (None if reopened else b"late")


@pytest.mark.processes
async def test_a_copy_is_as_idle_as_its_source_and_copying_is_no_use(real_lab: Lab) -> None:
    engine = await real_lab.open()
    for key, seconds in ((b"old", 5000), (b"older", 9000)):
        await real_lab.set(engine, b"model", b"v")
        (model,) = await engine.dump([b"model"])
        assert model is not None
        await run(engine, "RESTORE", key, 0, model.payload, "IDLETIME", seconds)
    dumped = await engine.dump([b"old", b"older", b"gone"])
    assert dumped[2] is None
    items = [(key, value) for key, value in zip((b"copy", b"copier"), dumped, strict=False) if value is not None]
    assert await engine.restore(items) == [True, True]
    for key, seconds in ((b"old", 5000), (b"older", 9000), (b"copy", 5000), (b"copier", 9000)):
        # The servers' clock for this is coarse.
        assert seconds - 10 <= await run(engine, "OBJECT", "IDLETIME", key) <= seconds + 60


@pytest.mark.processes
async def test_a_copy_counts_as_used_as_often_as_its_source(real_lab: Lab) -> None:
    await run(await real_lab.open(), "CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
    engine = await real_lab.open()
    await real_lab.set(engine, b"model", b"v")
    (model,) = await engine.dump([b"model"])
    assert model is not None
    await run(engine, "RESTORE", b"hot", 0, model.payload, "FREQ", 200)
    (hot,) = await engine.dump([b"hot"])
    assert hot is not None
    assert await engine.restore([(b"copy", hot)]) == [True]
    assert 190 <= await run(engine, "OBJECT", "FREQ", b"copy") <= 200
    assert 190 <= await run(engine, "OBJECT", "FREQ", b"hot") <= 200


@pytest.mark.processes
async def test_a_large_pipeline_and_large_values(real_lab: Lab) -> None:
    engine = await real_lab.open()
    value = bytes(range(256)) * 4096 * 4
    await asyncio.gather(*(real_lab.set(engine, b"%d" % i, value) for i in range(8)))
    dumped = await engine.dump([b"%d" % i for i in range(8)])
    assert await engine.restore([(b"copy:%d" % i, d) for i, d in enumerate(dumped) if d]) == [True] * 8
    assert await real_lab.get(engine, b"copy:7") == value


@pytest.mark.processes
async def test_too_many_unanswered_commands_are_refused(real_lab: Lab) -> None:
    admin = await real_lab.open()
    connection = await connect(raw(admin).endpoint)
    real_lab.freeze()
    many = asyncio.create_task(connection.execute_many([("PING",)] * 100_000))
    await asyncio.sleep(0)
    with pytest.raises(EngineUnreachable, match="100000 commands unanswered"):
        await connection.execute("PING", timeout_s=10.0)
    real_lab.thaw()
    assert await many == [b"PONG"] * 100_000
    assert await connection.execute("PING") == b"PONG"
    await connection.close()


@pytest.mark.processes
async def test_a_server_started_by_hand_is_entered_as_its_default_user(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "plain") as server:
        member = Member("legacy.0", "legacy", Address("127.0.0.1", server.port))
        engine = await ValkeyConnector().open(member)
        await engine.allow("mover", "secret", UserRole.MOVER)
        await engine.force_off("mover")
        assert await engine.users() == ["default"]
        await run(engine, "SELECT", 0)
        await engine.close()
    with start_valkey(tmp_path / "locked", config={"requirepass": ADMIN_PASSWORD}) as server:
        member = Member("legacy.0", "legacy", Address("127.0.0.1", server.port))
        with pytest.raises(EngineDenied, match=r"legacy\.0 at .*NOAUTH"):
            await ValkeyConnector().open(member)
        engine = await ValkeyConnector().open(member, user="default", password=ADMIN_PASSWORD)
        assert await engine.count() == 0
        await engine.close()


@pytest.mark.processes
async def test_keys_of_other_databases_show_in_info(real_lab: Lab) -> None:
    engine = await real_lab.open()
    other = await real_lab.open(ADMIN_USER, ADMIN_PASSWORD)
    await run(other, "SELECT", 3)
    await run(other, "SET", b"hidden", 1)
    await run(engine, "SET", b"a", 1)
    assert (await engine.count(), (await engine.info()).keys) == (1, 2)
    await engine.flush()
    assert (await engine.count(), (await engine.info()).keys) == (0, 1)


@pytest.mark.processes
async def test_a_newer_payload_is_refused_with_the_version_of_the_server(real_lab: Lab) -> None:
    engine = await real_lab.open()
    info = await engine.info()
    with pytest.raises(PayloadRefused, match=rf"{info.product} {info.version}.*b'k'"):
        await engine.restore([(b"k", Dumped(b"\x00\x011\xff\xff" + bytes(8), None))])
