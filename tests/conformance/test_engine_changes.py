"""Change streams: what every engine names, and whatever real servers are made to change."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import cast

import pytest
from tests.engine_lab import SHORT_S, Commands, Lab, clients, raw, run
from tests.waiting import until

from helios.engines.valkey.changes import TrackingStream
from helios.engines.valkey.connection import ErrorReply
from helios.errors import ChangesLost, EngineError, EngineUnreachable
from helios.ports.engine import UserRole


@pytest.mark.parametrize("beginning", [b"user:", b"[a-z]*?", b"\\", b"\x00\xff^"])
async def test_a_scan_and_a_stream_of_keys_that_begin_so_know_no_others(lab: Lab, beginning: bytes) -> None:
    engine, writer = await lab.open(), await lab.open()
    mine = {beginning, beginning + b"1", beginning + b"*"}
    others = {b"x" + beginning, beginning[:-1] or b"y", b"z", b"user;"}
    stream = await engine.changes(beginning=beginning)
    for key in mine | others:
        await lab.set(writer, key, b"v")
    cursor, found = await engine.scan(0, 2, beginning)
    while cursor:
        cursor, more = await engine.scan(cursor, 2, beginning)
        found += more
    assert set(found) == mine
    assert await stream.barrier() == mine
    await writer.delete(sorted(mine | others))
    assert await stream.barrier() == mine
    await stream.close()


async def test_changes_names_what_anybody_changed_before_the_barrier(lab: Lab) -> None:
    engine, writer = await lab.open(), await lab.open()
    await lab.set(writer, b"before", b"1")
    await lab.set(writer, b"doomed", b"1")
    (dumped,) = await engine.dump([b"before"])
    assert dumped is not None
    stream = await engine.changes()
    assert await stream.barrier() == set()
    await lab.set(writer, b"written", b"2")
    await writer.delete([b"doomed", b"never"])
    await writer.restore([(b"restored", dumped)])
    await lab.get(writer, b"before")
    assert await stream.barrier() == {b"written", b"doomed", b"restored"}
    assert await stream.barrier() == set()
    for i in range(500):
        await lab.set(writer, b"%d" % i, b"v")
        assert await stream.barrier() == {b"%d" % i}
    await stream.close()


async def test_changes_under_load_miss_nothing(lab: Lab) -> None:
    engine = await lab.open()
    stream = await engine.changes()
    answered: list[bytes] = []

    async def write(number: int) -> None:
        writer = await lab.open()
        for i in range(300):
            key = b"%d:%d" % (number, i)
            await lab.set(writer, key, b"v")
            answered.append(key)

    writers = [asyncio.create_task(write(number)) for number in range(4)]
    named: set[bytes] = set()
    while True:
        over = all(task.done() for task in writers)
        due = set(answered)
        named |= await stream.barrier()
        assert due <= named
        if over:
            break
    await asyncio.gather(*writers)
    assert len(named) == 1200
    await stream.close()


async def test_changes_names_keys_that_expire(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"short", b"1", int(time.time() * 1000) + 2000)
    stream = await engine.changes()
    named: set[bytes] = set()

    async def gone() -> bool:
        named.update(await stream.barrier())
        return b"short" in named

    await until(gone)
    assert await engine.exists([b"short"]) == [False]
    await stream.close()


async def test_changes_of_others_are_told_from_ones_own(lab: Lab) -> None:
    writer, other = await lab.open(), await lab.open()
    stream = await writer.changes(own=False)
    await lab.set(writer, b"mine", b"1")
    (dumped,) = await writer.dump([b"mine"])
    assert dumped is not None
    await writer.restore([(b"copy", dumped), (b"short", replace(dumped, expire_at_ms=int(time.time() * 1000) + 3000))])
    await writer.delete([b"mine"])
    assert await stream.barrier() == set()
    await lab.set(other, b"theirs", b"1")
    await other.delete([b"copy"])
    named: set[bytes] = set()

    async def all_named() -> bool:
        named.update(await stream.barrier())
        return named == {b"theirs", b"copy", b"short"}  # the last has ended by itself

    await until(all_named)
    await other.flush()
    with pytest.raises(ChangesLost, match="flushed"):
        await stream.barrier()
    await stream.close()


async def test_a_flush_ends_a_change_stream(lab: Lab) -> None:
    engine = await lab.open()
    stream = await engine.changes()
    await lab.set(engine, b"a", b"1")
    await engine.flush()
    await lab.set(engine, b"b", b"1")
    for _ in range(2):
        with pytest.raises(ChangesLost, match="flushed"):
            await stream.barrier()
    await stream.close()


async def test_a_broken_connection_ends_a_change_stream(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("mover", "secret", UserRole.MOVER)
    stream = await (await lab.open("mover", "secret")).changes()
    await lab.set(admin, b"a", b"1")
    await admin.force_off("mover")
    for _ in range(2):
        with pytest.raises(ChangesLost, match="copy everything again"):
            await stream.barrier()
    await stream.close()
    with pytest.raises(ChangesLost):
        await stream.barrier()


async def test_a_crash_ends_a_change_stream(lab: Lab) -> None:
    stream = await (await lab.open()).changes()
    lab.crash()
    with pytest.raises(ChangesLost):
        await stream.barrier()
    lab.restart()
    with pytest.raises(ChangesLost):
        await stream.barrier()


async def test_a_barrier_that_is_given_up_loses_no_name(lab: Lab) -> None:
    connector = lab.with_timeout(SHORT_S)
    engine = await connector.open(lab.member)
    stream = await engine.changes()
    await lab.set(engine, b"a", b"1")
    lab.freeze()
    with pytest.raises(EngineUnreachable):
        await stream.barrier()
    waiting = asyncio.create_task(stream.barrier())
    await asyncio.sleep(0)
    waiting.cancel()
    lab.thaw()
    assert await stream.barrier() == {b"a"}
    await stream.close()
    await engine.close()


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
