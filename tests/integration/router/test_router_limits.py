"""A router's limits: how long clients may be silent, and how much of its memory they may take."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.routers import RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.resp.wire import encode_command
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", worker=3, slow_s=0.05, member_timeout_s=30)


# --- silence ----------------------------------------------------------------------------------------------------


async def test_idle_clients_are_let_go_and_others_are_not(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, idle_timeout_s=3)
    async with RouterLab(servers, options=options).running() as lab:
        idle, busy, waiting, listening = [await RawClient.connect(lab.port) for _ in range(4)]
        assert await idle.ask("PING") == b"+PONG\r\n"
        assert await listening.ask("HELLO", "3") == b"%7\r\n"
        listening.send("SUBSCRIBE", "news")
        waiting.send("BLPOP", "nothing", "0")

        async def keep_busy() -> None:
            while True:
                assert await busy.ask("PING") == b"+PONG\r\n"
                await asyncio.sleep(0.05)

        keeping = asyncio.create_task(keep_busy())
        with suppress(ConnectionResetError):
            assert await idle.closed() == b""
        keeping.cancel()
        assert lab.router.clients.limits.ended == {"idle": 1}
        assert len(lab.router.clients) == 3
        listening.close()
        waiting.close()
        busy.close()


async def test_who_does_not_go_on_with_a_command_is_told_and_let_go(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, command_timeout_s=2)
    async with RouterLab(servers, options=options).running() as lab:
        silent, halfway, resting = [await RawClient.connect(lab.port) for _ in range(3)]
        assert await resting.ask("PING") == b"+PONG\r\n"
        assert await halfway.ask("PING") == b"+PONG\r\n"
        halfway.writer.write(b"*2\r\n$3\r\nGET\r\n$100\r\nhal")
        told = b"-ERR nothing more of a command has come for 2 s\r\n"
        assert await silent.closed() == told
        assert await halfway.closed() == told
        assert lab.router.clients.limits.ended == {"command_timeout": 2}
        assert await resting.ask("PING") == b"+PONG\r\n"
        resting.close()


async def test_the_system_asks_whether_silent_clients_are_there(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    assert await raw.ask("PING") == b"+PONG\r\n"
    (connection,) = lab.router.clients.values()
    assert connection.transport is not None
    found = connection.transport.get_extra_info("socket")
    assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300
    raw.close()


# --- memory -----------------------------------------------------------------------------------------------------


async def test_where_memory_is_short_those_with_the_most_are_let_go(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=100_000_000, clients_bytes=5_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        small, big, spared = [await RawClient.connect(lab.port) for _ in range(3)]
        assert await spared.ask("CLIENT", "NO-EVICT", "ON") == b"+OK\r\n"
        spared.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 3_000_000)
        small.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 100_000)
        await until(lambda: lab.router.clients.limits.held_bytes > 3_000_000, "what they have sent is counted")
        assert not lab.router.clients.limits.ended
        big.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 2_500_000)
        with suppress(ConnectionResetError):
            assert await big.closed() == b""
        assert lab.router.clients.limits.ended == {"clients_memory": 1}
        assert len(lab.router.clients) == 2
        small.close()
        spared.close()


async def test_a_client_that_is_being_let_go_is_not_let_go_again(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=100_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        limits = lab.router.clients.limits
        raw = await RawClient.connect(lab.port)
        raw.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 3_000_000)
        await until(lambda: limits.held_bytes > 2_000_000, "what it has sent is counted")
        limits.options = replace(options, client_bytes=1_000_000)
        limits.look()
        limits.look()
        assert limits.ended == {"client_memory": 1}
        with suppress(ConnectionResetError):
            assert await raw.closed() == b""


async def test_what_is_queued_in_a_transaction_counts(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=3_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("MULTI") == b"+OK\r\n"
        with suppress(ConnectionError):
            for _ in range(4):
                raw.send("SET", lab.key_of("shard-1"), b"v" * 1_000_000)
            assert await raw.closed() in (b"", b"+QUEUED\r\n" * 2, b"+QUEUED\r\n" * 3, b"+QUEUED\r\n" * 4)
        assert lab.router.clients.limits.ended == {"client_memory": 1}


async def test_subscriptions_count(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=3_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        raw = await RawClient.connect(lab.port)
        for number in range(4):
            raw.send("SUBSCRIBE", f"{number}" + "x" * 1_000_000)
        with suppress(ConnectionError):
            await raw.closed()
        assert lab.router.clients.limits.ended == {"client_memory": 1}
        await until(lambda: not lab.router.hub.topics, "nothing is subscribed for it any more")


async def test_one_client_that_does_not_read_is_let_go_at_its_own_limit(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=3_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        key = lab.key_of("shard-1")
        assert await lab.router.execute([b"SET", key.encode(), b"v" * 1_000_000]) == b"+OK\r\n"
        raw = await RawClient.connect(lab.port)
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        raw.writer.write(encode_command([b"GET", key.encode()]) * 30)
        await until(lambda: not lab.router.clients, "the client is gone")
        assert lab.router.clients.limits.ended == {"client_memory": 1}
        raw.writer.transport.abort()


@pytest.mark.parametrize(("count", "size"), [(3000, 10_000), (250_000, 100)])
async def test_a_whole_pipeline_may_be_written_before_a_reply_is_read(lab: RouterLab, count: int, size: int) -> None:
    command, reply = encode_command([b"ECHO", b"e" * size]), b"$%d\r\n" % size + b"e" * size + b"\r\n"
    key = lab.key_of("shard-1", "nothing").encode()
    raw, other = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
    raw.writer.write(command * count + encode_command([b"GET", key]) * 1000)
    async with asyncio.timeout(240):
        await raw.writer.drain()
        writing = raw.writer.transport
        await until(lambda: not writing.get_write_buffer_size(), "the router has read all of it")
        fields = dict(field.split("=") for field in (await _client_line(other, str(min(lab.router.clients)))).split())
        assert 1_000_000 < int(fields["omem"]) <= count * len(reply) + 5000
        raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            assert await raw.reader.readexactly(len(reply)) == reply
        await raw.exactly(b"$-1\r\n" * 1000)
    await until(lambda: not next(iter(lab.router.clients.values())).unread_bytes, "it is owed nothing")
    assert not lab.router.clients.limits.ended
    raw.close()
    other.close()


async def _client_line(raw: RawClient, client_id: str) -> str:
    """What CLIENT LIST says of one connection."""
    size = int((await raw.ask("CLIENT", "LIST", "ID", client_id))[1:])
    return (await raw.reader.readexactly(size + 2)).decode()


async def test_the_memory_of_a_client_that_was_owed_much_goes_back_to_the_system(servers: dict[str, Server]) -> None:
    owed = 300 << 20
    async with RouterLab(servers, options=replace(OPTIONS, client_bytes=owed)).running() as lab:
        before = resident_bytes()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # it reads nothing of what it asks for
        others = []
        with suppress(ConnectionError):
            while True:
                # What others need meanwhile lies between what is freed and the end of the heap.
                others.append(await RawClient.connect(lab.port))
                assert await others[-1].ask("PING") == b"+PONG\r\n"
                for _ in range(20):
                    writer.write(encode_command([b"ECHO", b"x" * 100_000]))
                    await writer.drain()
        writer.close()
        await until(lambda: resident_bytes() < before + owed / 3, "what it was owed is given back")
        assert lab.router.clients.limits.ended == {"client_memory": 1}
        for other in others:
            other.close()


def resident_bytes() -> int:
    """The memory that this process has from the system."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
