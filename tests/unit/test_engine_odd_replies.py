"""What an engine makes of replies that no server should give: an EngineError, whatever was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.odd_servers import GREETING, ODD, odd_server

from helios.engines.valkey.connector import ValkeyConnector
from helios.engines.valkey.engine import ValkeyEngine
from helios.errors import EngineError, HeliosError
from helios.model.ids import Address
from helios.model.topology import Member
from helios.node.probe import ask
from helios.ports.engine import Dumped, UserRole

CALLS: dict[str, Callable[[ValkeyEngine], Awaitable[Any]]] = {
    "info": lambda engine: engine.info(),
    "count": lambda engine: engine.count(),
    "scan": lambda engine: engine.scan(0, 10),
    "exists": lambda engine: engine.exists([b"a", b"b"]),
    "now_s": lambda engine: engine.now_s(),
    "dump": lambda engine: engine.dump([b"a", b"b"]),
    "restore": lambda engine: engine.restore([(b"a", Dumped(b"x", None, False))]),
    "sizes": lambda engine: engine.sizes([b"a"]),
    "stream_marks": lambda engine: engine.stream_marks([b"a"]),
    "stream_writes": lambda engine: engine.stream_writes(),
    "stream_states": lambda engine: engine.stream_states([b"a"]),
    "frequencies": lambda engine: engine.frequencies([b"a"]),
    "copy_in_steps": lambda engine: engine.copy_in_steps(b"a", engine, patch=False),
    "patch": lambda engine: engine.copy_in_steps(b"a", engine, patch=True),
    "digests": lambda engine: engine.digests([b"a"]),
    "libraries": lambda engine: engine.libraries(),
    "replace_libraries": lambda engine: engine.replace_libraries({b"a": b"code"}),
    "sample_payload": lambda engine: engine.sample_payload(),
    "accepts": lambda engine: engine.accepts(b"x"),
    "delete": lambda engine: engine.delete([b"a"]),
    "flush": lambda engine: engine.flush(),
    "persist": lambda engine: engine.persist(0.2),
    "memory": lambda engine: engine.memory("DOCTOR"),
    "users": lambda engine: engine.users(),
    "allow": lambda engine: engine.allow("u", "p", UserRole.ROUTER),
    "force_off": lambda engine: engine.force_off("u"),
    "changes": lambda engine: engine.changes(),
}


def member_at(port: int) -> Member:
    return Member("shard-1.0", "shard-1", Address("127.0.0.1", port))


@pytest.mark.parametrize("reply", ODD)
async def test_odd_replies_are_engine_errors(reply: bytes) -> None:
    async with odd_server() as odd:
        odd.reply, odd.info, odd.users = reply, None, None
        for name, call in CALLS.items():
            engine = await ValkeyConnector(timeout_s=5).open(member_at(odd.port))
            try:
                made = await call(engine)
            except HeliosError as error:
                assert str(odd.port) in str(error), name
            else:
                if name == "changes":
                    await made.close()
            finally:
                await engine.close()


@pytest.mark.parametrize("greeting", [*ODD, *(GREETING.replace(b":7\r\n", odd) for odd in (b"$1\r\nx\r\n", b"_\r\n"))])
async def test_an_odd_greeting_is_an_engine_error(greeting: bytes) -> None:
    async with odd_server() as odd:
        odd.greeting = greeting
        try:
            engine = await ValkeyConnector(timeout_s=5).open(member_at(odd.port))
        except EngineError:
            return
        await engine.close()
        assert greeting[:1] == b"%"


async def test_a_push_that_is_none_ends_the_connection() -> None:
    async with odd_server() as odd:
        for push in (b">1\r\n$10\r\ninvalidate\r\n", b">2\r\n$10\r\ninvalidate\r\n:5\r\n", b">0\r\n"):
            odd.reply = push + b"+PONG\r\n"
            engine = await ValkeyConnector(timeout_s=5).open(member_at(odd.port))
            with pytest.raises(HeliosError):
                await (await engine.changes()).barrier()
            await engine.close()


async def test_a_lost_connection_keeps_nothing_of_a_reply_that_had_begun() -> None:
    async with odd_server() as odd:
        odd.reply = b"$100000000\r\n" + b"x" * 5_000_000
        engine = await ValkeyConnector(timeout_s=0.5).open(member_at(odd.port))
        with pytest.raises(EngineError):
            await engine.count()
        assert engine.connection._splitter.buffered > 1_000_000
        await engine.close()
        await asyncio.sleep(0)  # the loop tells the connection of its end
        assert engine.connection._splitter.buffered == 0


@pytest.mark.parametrize("reply", [b"*2147483647\r\n" + b"*1\r\n" * 1000, b"!x\r\n", b"$99999999999\r\n", *ODD])
async def test_the_agents_look_at_its_server_gives_replies_or_an_error(reply: bytes) -> None:
    async with odd_server() as odd:
        odd.reply = reply
        try:
            replies = await ask(Address("127.0.0.1", odd.port), [["PING"]], timeout_s=0.3)
        except EngineError:
            return
        assert len(replies) == 1
