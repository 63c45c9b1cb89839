"""The server of the REST interface between two requests, and its end."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvicorn
from tests.simulation.loop import SimLoop, Stuck
from tests.unit.test_request_timeout import Connection, app

from helios.api.server import RestServer


def server() -> RestServer:
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    config.load()
    return RestServer(config)


def test_nothing_is_due_between_two_requests() -> None:
    loop = SimLoop()
    try:
        with pytest.raises(Stuck):
            loop.run_until_complete(server().main_loop())
    finally:
        loop.close()


async def test_each_reply_has_the_time_at_which_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection()
    connection.protocol.server_state = server().server_state
    for now_s, date in ((0.0, b"Thu, 01 Jan 1970 00:00:00 GMT"), (86_400.0, b"Fri, 02 Jan 1970 00:00:00 GMT")):
        monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s)
        connection.said = b""
        await connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.said.lower().count(b"\r\ndate: ") == 1
        assert b"date: " + date in connection.said
        assert b"server: uvicorn" in connection.said


async def test_it_serves_until_it_is_ended() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    one = server()
    serving = asyncio.create_task(one.serve([listening]))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b"200 OK" in await reader.readline()
    one.end()
    await serving
    writer.close()
