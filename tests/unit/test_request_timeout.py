"""Clients of the REST interface that do not go on with their request, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import pytest
import uvicorn
from tests.timers import Timers
from uvicorn.server import ServerState

from helios.api.request_timeout import REQUEST_TIMEOUT_S, PatientProtocol

Message = MutableMapping[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answers with the body; at once for the path /no."""
    body, more = b"", scope["path"] != "/no"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Connection(asyncio.Transport):
    """One to the server, without a network."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Timers()
        self.said = b""
        self.endings = 0
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_keep_alive=3600)
        config.load()
        loop = cast(asyncio.AbstractEventLoop, self.clock)
        self.protocol = PatientProtocol(config, ServerState(), {}, _loop=loop)
        self.protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.said += bytes(data)

    def close(self) -> None:
        self.endings += 1

    def is_closing(self) -> bool:
        return self.endings > 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    async def send(self, data: bytes) -> None:
        """What the client sends; the server has done with it what it can."""
        self.protocol.data_received(data)
        await settled()


@pytest.fixture
async def connection() -> Connection:
    return Connection()


HEAD = b"POST /%b HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n"
LITTLE_S = REQUEST_TIMEOUT_S * 0.9


async def test_one_who_says_nothing_is_let_go(connection: Connection) -> None:
    connection.clock.pass_by(LITTLE_S)
    assert connection.endings == 0
    connection.clock.pass_by(LITTLE_S)
    assert (connection.endings, connection.said) == (1, b"")


async def test_a_head_has_to_be_there_in_time_even_if_it_goes_on_and_on(connection: Connection) -> None:
    await connection.send(HEAD[:20])
    connection.clock.pass_by(LITTLE_S)
    await connection.send(HEAD[20:30])
    assert connection.endings == 0
    connection.clock.pass_by(LITTLE_S)
    assert connection.endings == 1
    assert connection.said.startswith(b"HTTP/1.1 408 ")
    assert connection.said.endswith(b"\r\n\r\nthe request has not ended in time")


async def test_a_body_has_time_as_long_as_something_comes(connection: Connection) -> None:
    await connection.send(HEAD % b"")
    for byte in b"abcde":
        connection.clock.pass_by(LITTLE_S)
        await connection.send(bytes([byte]))
    assert (connection.endings, connection.said) == (0, b"")
    connection.clock.pass_by(REQUEST_TIMEOUT_S)
    assert (connection.endings, connection.said) == (1, b"")


async def test_an_answer_may_take_its_time_and_the_next_head_has_its_own(connection: Connection) -> None:
    connection.protocol.data_received(HEAD % b"" + b"abcdef")
    connection.clock.pass_by(2 * REQUEST_TIMEOUT_S)
    await settled()
    assert connection.said.endswith(b"\r\n\r\nabcdef")
    connection.clock.pass_by(2 * REQUEST_TIMEOUT_S)
    assert connection.endings == 0
    await connection.send(HEAD[:20])
    connection.clock.pass_by(LITTLE_S)
    assert connection.endings == 0
    connection.clock.pass_by(LITTLE_S)
    assert b"HTTP/1.1 408 " in connection.said
    assert connection.endings == 1


async def test_a_body_that_nobody_needs_gets_no_further_time(connection: Connection) -> None:
    await connection.send(HEAD % b"no")
    assert connection.said.startswith(b"HTTP/1.1 200 ")
    connection.clock.pass_by(LITTLE_S)
    await connection.send(b"a")
    connection.clock.pass_by(LITTLE_S)
    assert connection.endings == 1


async def test_one_who_has_left_is_forgotten(connection: Connection) -> None:
    await connection.send(HEAD[:20])
    connection.protocol.connection_lost(None)
    connection.clock.pass_by(2 * REQUEST_TIMEOUT_S)
    assert connection.said == b""
