"""Connections that fail, and peers that are not what they should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from tests.engine_lab import SHORT_S, Lab, RealLab, listening, raw, run
from tests.waiting import until

from helios.engines.valkey import ValkeyConnector
from helios.engines.valkey.connection import ErrorReply, connect
from helios.errors import EngineDenied, EngineError, EngineUnreachable
from helios.model.ids import Address
from helios.ports.engine import UserRole


async def test_a_server_that_is_gone_is_unreachable(lab: Lab) -> None:
    engine = await lab.open()
    waiting = [asyncio.create_task(engine.count()) for _ in range(3)]
    lab.freeze()
    await asyncio.sleep(0)
    lab.crash()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, EngineUnreachable | int) for result in results)
    for _ in range(2):
        with pytest.raises(EngineUnreachable, match=r"shard-1\.0 at"):
            await engine.count()
    with pytest.raises(EngineUnreachable, match=r"shard-1\.0 at"):
        await lab.open()
    lab.restart()
    with pytest.raises(EngineUnreachable):
        await engine.count()
    assert await (await lab.open()).count() == 0


async def test_a_frozen_server_is_unreachable_in_time_and_usable_again(lab: Lab) -> None:
    connector = lab.with_timeout(SHORT_S)
    engine = await connector.open(lab.member)
    await lab.set(engine, b"n", b"0")
    lab.freeze()
    with pytest.raises(EngineUnreachable, match=rf"shard-1\.0 at .*{SHORT_S:g} s"):
        await engine.delete([b"n"])
    with pytest.raises(EngineUnreachable, match=rf"shard-1\.0 at .*{SHORT_S:g} s"):
        await connector.open(lab.member)
    lab.thaw()
    # What was given up runs before what is sent afterwards.
    assert await lab.incr(engine, b"n") == 1
    await engine.close()


async def test_a_call_that_is_given_up_does_not_shift_the_answers_of_others(lab: Lab) -> None:
    engine = await lab.open()
    for i in range(200):
        await lab.set(engine, b"%d" % i, b"v%d" % i)
    lab.freeze()
    calls = [asyncio.create_task(lab.get(engine, b"%d" % i)) for i in range(200)]
    await asyncio.sleep(0)
    for i in range(0, 200, 3):
        calls[i].cancel()
    lab.thaw()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for i, answer in enumerate(answers):
        if i % 3:
            assert answer == b"v%d" % i
        else:
            assert isinstance(answer, asyncio.CancelledError)


async def test_what_a_closed_engine_left_behind_does_not_run_after_reopening(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("mover", "secret", UserRole.MOVER)
    for turn in range(10):
        engine = await lab.open("mover", "secret")
        lab.freeze()
        given_up = [asyncio.create_task(lab.incr(engine, b"n")) for _ in range(20)]
        await asyncio.sleep(0)
        await engine.close()
        assert all(isinstance(e, EngineUnreachable) for e in await asyncio.gather(*given_up, return_exceptions=True))
        opening = asyncio.create_task(lab.open("mover", "secret"))
        await asyncio.sleep(0)
        lab.thaw()
        again = await opening
        seen = await lab.get(again, b"n")
        for _ in range(20):
            assert await lab.get(admin, b"n") == seen, turn
        await again.close()


async def test_several_may_reopen_at_once_what_was_lost(lab: Lab) -> None:
    engine = await lab.open()
    lab.freeze()
    given_up = [asyncio.create_task(lab.incr(engine, b"n")) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    await asyncio.gather(*given_up, return_exceptions=True)
    opening = [asyncio.create_task(lab.open()) for _ in range(4)]
    await asyncio.sleep(0)
    lab.thaw()
    # What was given up has run before that, or never will.
    assert len({await again.count() for again in await asyncio.gather(*opening)}) == 1


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
