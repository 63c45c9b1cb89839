"""What no good client does to a router: it goes on serving the others, in bounded memory."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.placement.glob import LONGEST_PATTERN
from helios.resp.wire import encode_command
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", worker=3, member_timeout_s=30)


async def test_a_million_tiny_commands_in_one_pipeline(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    count = 1_000_000

    async def send() -> None:
        for _ in range(count // 10_000):
            raw.writer.write(b"PING\r\n" * 10_000)
            await raw.writer.drain()

    sending = asyncio.create_task(send())
    left = count * len(b"+PONG\r\n")
    async with asyncio.timeout(240):
        while left:
            left -= len(await raw.reader.read(1 << 20))
    await sending
    assert lab.router.totals.commands >= count
    raw.close()


async def test_random_bytes_and_cut_frames_harm_nobody(lab: RouterLab, client: Client) -> None:
    source = random.Random(7)
    whole = encode_command([b"SET", b"torture", b"v" * 300]) + encode_command([b"MGET", b"a", b"b", b"c"])
    for number in range(150):
        raw = await RawClient.connect(lab.port)
        if number % 3 == 0:
            data = source.randbytes(source.randrange(1, 2000))
        elif number % 3 == 1:
            data = whole[: source.randrange(len(whole))]
        else:
            at = source.randrange(len(whole))
            data = whole[:at] + source.randbytes(3) + whole[at + 3 :]
        raw.writer.write(data)
        raw.writer.write_eof()
        if number % 2:
            raw.writer.transport.abort()
        else:
            with suppress(ConnectionResetError):
                await raw.closed()
    await until(lambda: len(lab.router.clients) <= 1, "all of them are gone")
    assert await client.set("torture", "whole")
    assert await client.get("torture") == b"whole"


async def test_announced_lengths_cost_nothing_before_the_bytes_come(lab: RouterLab) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clients = [await RawClient.connect(lab.port) for _ in range(20)]
    for raw in clients:
        raw.writer.write(b"*1048576\r\n$536870912\r\nabc")
    await until(lambda: lab.router.totals.bytes_in >= 20 * 20, "all of it has come")
    lab.router.clients.limits.look()
    assert 20 * 3 <= lab.router.clients.limits.held_bytes < 20 * 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    for raw in clients:
        raw.close()


async def test_clients_that_vanish_amid_a_reply_leave_nothing(lab: RouterLab) -> None:
    key = lab.key_of("shard-2").encode()
    assert await lab.router.execute([b"SET", key, b"v" * 2_000_000]) == b"+OK\r\n"
    for _ in range(10):
        raw = await RawClient.connect(lab.port)
        raw.writer.write(encode_command([b"GET", key]) * 5)
        assert await raw.reader.read(1000)
        raw.writer.transport.abort()
    await until(lambda: not lab.router.clients, "all connections are gone")
    link = lab.router.pool.links[2]["shard-2"]
    await until(lambda: link.issued == link.answered, "all commands are answered")
    lab.router.clients.limits.look()
    assert lab.router.clients.limits.held_bytes == 0


async def test_thousands_of_idle_connections_hold(servers: dict[str, Server]) -> None:
    """Both ends of each are in this process, which bounds their number to what it may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, (soft - 500) // 2)
    assert count >= 200
    async with RouterLab(servers, options=replace(OPTIONS, clients=count)).running() as lab:
        sockets = []
        try:
            for number in range(count):
                one = socket.socket()
                one.setblocking(False)
                one.bind(("127.0.0.1", 0))
                one.connect_ex(("127.0.0.1", lab.port))
                sockets.append(one)
                if number % 500 == 499:
                    await until(lambda number=number: len(lab.router.clients) > number, "they are connected")  # type: ignore[misc]
            await until(lambda: len(lab.router.clients) == count, "all are connected")
            lab.router.clients.limits.look()
            for one in sockets[:: max(1, count // 50)]:
                one.send(b"PING\r\n")
            for one in sockets[:: max(1, count // 50)]:
                assert await asyncio.get_running_loop().sock_recv(one, 100) == b"+PONG\r\n"
            refused = await RawClient.connect(lab.port)
            assert await refused.closed() == b"-ERR max number of clients reached\r\n"
            assert lab.router.clients.limits.refused == {"max_clients": 1}
            assert await lab.router.execute([b"PING"]) == b"+PONG\r\n"
        finally:
            for one in sockets:
                one.close()
        await until(lambda: not lab.router.clients, "all are gone")


async def test_patterns_have_a_length_that_can_be_matched(lab: RouterLab) -> None:
    longest, longer = "a" * LONGEST_PATTERN, "a" * (LONGEST_PATTERN + 1)
    client = await RawClient.connect(lab.port)
    for words in (["CONFIG", "GET"], ["COMMAND", "LIST", "FILTERBY", "PATTERN"], ["PSUBSCRIBE"]):
        assert await client.ask(*words, longer) == b"-ERR a pattern may have at most 65536 bytes\r\n"
    assert await client.ask("CONFIG", "GET", longest) == b"*0\r\n"
    assert await client.ask("COMMAND", "LIST", "FILTERBY", "PATTERN", longest) == b"*0\r\n"
    client.send("COMMAND", "LIST", "FILTERBY", "PATTERN", "[hx]get")
    await client.exactly(b"*1\r\n$4\r\nhget\r\n")
    client.close()
