"""Values of every type, and what a server tells of them: what only server processes can show."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from tests.engine_lab import Commands, Lab, clients, raw, run

from helios.engines.valkey.connection import ErrorReply
from helios.errors import PayloadRefused
from helios.ports.engine import Dumped, Engine, StreamState

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
async def test_a_newer_payload_is_refused_with_the_version_of_the_server(real_lab: Lab) -> None:
    engine = await real_lab.open()
    info = await engine.info()
    with pytest.raises(PayloadRefused, match=rf"{info.product} {info.version}.*b'k'"):
        await engine.restore([(b"k", Dumped(b"\x00\x011\xff\xff" + bytes(8), None))])
