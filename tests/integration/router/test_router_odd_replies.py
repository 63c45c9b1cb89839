"""Servers that are hostile or broken: what a router makes of their replies, and how much of them it keeps."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from tests.odd_servers import GREETING, ODD, OddServer, odd_server
from tests.routers import RawClient, RouterLab
from tests.waiting import until

from helios.model.topology import NodeKind, PairPhase
from helios.router.options import RouterOptions
from helios.router.upstream.state import ConnectionState

OPTIONS = RouterOptions(node="shard-1", connect_timeout_s=5, reply_bytes=1 << 20, member_timeout_s=20)
COMMANDS = """GET k|SET k v
    MGET k l m|MSET k 1 l 2|DEL k l|DBSIZE|KEYS *|SCAN 0|HSCAN h 0|RANDOMKEY|FLUSHALL|PUBLISH c m
    PUBSUB CHANNELS|PUBSUB NUMPAT|PUBSUB NUMSUB a b|SCRIPT EXISTS abc|SCRIPT LOAD x|SCRIPT KILL|FUNCTION STATS
    FUNCTION LIST|EVAL x 0|EVALSHA x 0|BLPOP k 1|XREAD BLOCK 1 STREAMS k $|COMMAND DOCS|INFO|MEMORY USAGE k|WATCH k
    UNWATCH|MULTI|GET k|EXEC|CLIENT LIST|SSCAN s 0|OBJECT ENCODING k|EXISTS k l|LATENCY RESET|PING"""


@pytest.fixture
async def odd() -> AsyncIterator[OddServer]:
    async with odd_server() as made:
        yield made


def lab_of(odd: OddServer, options: RouterOptions = OPTIONS) -> RouterLab:
    servers: dict[str, Any] = {"shard-1": odd, "shard-2": odd}
    return RouterLab(servers, kind=NodeKind.EXTERNAL, options=options)


async def test_what_has_a_big_reply_is_known_before_all_of_it_has_come(odd: OddServer) -> None:
    odd.reply = b"$4000000\r\n" + b"x" * 3_000_000
    async with lab_of(odd, replace(OPTIONS, reply_bytes=1 << 30)).running() as lab:
        raw = await RawClient.connect(lab.port)
        raw.send("GET", "k")
        await until(lambda: lab.router.heavy.has("get", b"k"), "the command is known")
        raw.close()


@pytest.mark.parametrize("fenced", [False, True])
async def test_a_read_behind_a_big_reply_is_sent_again_unless_a_fence_counts_what_was_sent(
    odd: OddServer, fenced: bool
) -> None:
    value, writers = b"$1\r\nv\r\n", list[asyncio.StreamWriter]()

    def written(writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        odd.reply = value  # behind the big one's beginning it counts as a part of that

    odd.reply, odd.after = b"$4000000\r\n" + b"x" * 500_000, written
    async with lab_of(odd, replace(OPTIONS, reply_bytes=1 << 30)).running() as lab:
        pool, big, small = lab.router.pool, lab.key_of("shard-1", "big"), lab.key_of("shard-1", "small")
        link, spare = pool.link("shard-1", 2), pool.spare_link("shard-1", 2)
        spare.connect()
        await until(lambda: spare.ready, "the spare connection is there")
        one, other = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
        one.send("GET", big)
        await until(lambda: len(writers) == 1, "the big reply has begun")
        other.send("GET", small)
        await until(lambda: len(writers) == 2, "the other command waits behind it")
        if fenced:
            await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-2")
            await until(lambda: bool(lab.router.topology.fences), "the router knows of the fence")
        writers[0].write(b"x" * 3_000_000)
        await until(lambda: pool.link("shard-1", 2) is spare, "what comes now takes the other connection")
        if not fenced:
            await other.exactly(value)
        assert (link.answered, link.issued, spare.issued) == (0, 2, 0 if fenced else 1)
        writers[0].write(b"x" * (500_000 - len(value)) + b"\r\n" + value)
        await one.exactly(b"$4000000\r\n" + b"x" * 500_000 + value + b"x" * (3_500_000 - len(value)) + b"\r\n")
        if fenced:
            await other.exactly(value)
        await until(lambda: link.answered == 2, "the first reply to it has come and gone")
        assert await other.ask("PING") == b"+PONG\r\n"
        one.close()
        other.close()


@pytest.mark.parametrize("reply", ODD)
async def test_every_command_is_answered_whatever_the_server_says(odd: OddServer, reply: bytes) -> None:
    odd.reply = reply
    async with lab_of(odd).running() as lab:
        raw = await RawClient.connect(lab.port)
        count = 0
        for line in COMMANDS.split("\n"):
            for words in line.strip().split("|"):
                raw.send(*words.split())
                count += 1
        raw.send("ECHO", "the end")
        said = b""
        async with asyncio.timeout(20):
            while not said.endswith(b"$7\r\nthe end\r\n"):
                piece = await raw.reader.read(1 << 16)
                assert piece, said
                said += piece
        assert b"the router is stopping" not in said
        assert b"internal error" not in said
        raw.close()


@pytest.mark.parametrize(
    ("greeting", "info"),
    [(each, None) for each in ODD if each[:1] != b"-"]
    + [(GREETING.replace(b":7\r\n", each), None) for each in (b"$1\r\nx\r\n", b"$-1\r\n", b"*0\r\n")]
    + [(GREETING, each) for each in ODD if each[:1] not in b"$+=(-"],
)
async def test_a_greeting_that_is_none_makes_the_server_one_that_is_away(
    odd: OddServer, greeting: bytes, info: bytes | None
) -> None:
    odd.greeting = greeting
    odd.info = odd.info if info is None else info
    async with lab_of(odd).running() as lab:
        reply = await lab.router.execute([b"GET", b"k"])
        assert reply.startswith(b"-CLUSTERDOWN shard-")
        assert b"as a Valkey or Redis server does" in reply or b"for an id" in reply


async def test_a_reply_that_is_too_big_is_an_error_for_its_own_command_alone(odd: OddServer) -> None:
    async with lab_of(odd).running() as lab:
        big, small = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
        odd.reply = b"$%d\r\n" % (3 << 20) + b"x" * (3 << 20) + b"\r\n"
        assert b"has more than the 1048576 bytes of router.max_reply" in await big.ask("GET", "k")
        odd.reply = b"*200000\r\n" + b"$3\r\nabc\r\n" * 200_000
        assert b"has more than the 1048576 bytes of router.max_reply" in await big.ask("LRANGE", "k", "0", "-1")
        odd.reply = b":1\r\n"
        assert await small.ask("INCR", "k") == b":1\r\n"
        assert sum(link.issued for link in lab.router.pool.links[2].values()) == 3
        big.close()
        small.close()


@pytest.mark.parametrize("array", [False, True])
async def test_a_big_reply_may_take_its_time(odd: OddServer, array: bool) -> None:
    options = replace(OPTIONS, reply_bytes=1 << 30, member_timeout_s=1)
    part, parts = b"$50\r\n" + b"x" * 50 + b"\r\n", 40
    whole = b"*%d\r\n" % parts + part * parts if array else b"$%d\r\n" % (len(part) * parts) + part * parts + b"\r\n"
    begun = len(whole) - len(part) * (parts - 1)

    def go_on(writer: asyncio.StreamWriter) -> None:
        async def send() -> None:
            for place in range(begun, len(whole), len(part)):
                await asyncio.sleep(options.member_timeout_s / 10)
                writer.write(whole[place : place + len(part)])

        sending.append(asyncio.create_task(send()))

    sending: list[asyncio.Task[None]] = []
    odd.reply, odd.after = whole[:begun], go_on
    async with lab_of(odd, options).running() as lab:
        assert await lab.router.execute([b"GET", b"k"]) == whole
    await asyncio.gather(*sending)


@pytest.mark.parametrize("beginning", [b"$100000000000\r\n", b"*2147483647\r\n", b"*1\r\n" * 10, b"+"])
async def test_a_reply_without_an_end_fills_no_memory(odd: OddServer, beginning: bytes) -> None:
    piece = (b"a" if beginning[:1] in b"$+" else b":1\r\n" if beginning[:2] == b"*2" else b"*1\r\n") * (1 << 16)

    def go_on(writer: asyncio.StreamWriter) -> None:
        for _ in range(1000):
            writer.write(piece)

    odd.reply, odd.after = beginning, go_on
    async with lab_of(odd, replace(OPTIONS, member_timeout_s=1)).running() as lab:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reply = await lab.router.execute([b"GET", b"k"])
        assert reply.startswith((b"-UNKNOWN", b"-ERR the command was carried out"))
        (link,) = lab.router.pool.links[2].values()
        odd.after = None
        odd.reply = b"+OK\r\n"

        async def back() -> bool:
            return await lab.router.execute([b"SET", b"k", b"v"]) == b"+OK\r\n"

        await until(back, "it serves again")
        assert link.state is ConnectionState.READY
        # The test's server is in this process, too, and what it has still to send.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1000 * len(piece) / 1024 + 50_000
