"""Connections that speak RESP to servers in memory, for the links of routers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial

from tests.simulation.loop import current_process
from tests.simulation.servers import SimServer

from helios.engines.memory.connection import MemoryConnection
from helios.errors import EngineDenied, EngineError, EngineUnreachable
from helios.model.ids import Address
from helios.resp.encoding import NULL, OK, array, bulk, error_reply, integer
from helios.resp.wire import RequestParser

_NEVER_S = 1e6


class _Transport(asyncio.Transport):
    """The client's end of a connection to a server."""

    def __init__(self, server: SimServer, connection: MemoryConnection, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.connection = connection
        self._server = server
        self._protocol = protocol
        self._parser = RequestParser()
        self._replies: deque[asyncio.Future[bytes]] = deque()
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        connection.on_lost = self._on_lost

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.connection.lost is not None:
            return
        self._parser.feed(bytes(data))
        for _, argv in self._parser.take():
            reply = self.connection.send(partial(execute, self._server, self.connection, argv))
            self._replies.append(reply)
            reply.add_done_callback(self._on_reply, context=self._context)

    def abort(self) -> None:
        self._server.abandon(self.connection, "the client closed the connection")

    def close(self) -> None:
        self.abort()

    def is_closing(self) -> bool:
        return self.connection.lost is not None

    def _on_reply(self, _: asyncio.Future[bytes]) -> None:
        data: list[bytes] = []
        while self._replies and self._replies[0].done():
            failure = self._replies[0].exception()
            if isinstance(failure, EngineUnreachable):
                break
            reply = self._replies.popleft()
            data.append(error_reply(f"NOPERM {failure}") if failure is not None else reply.result())
        if data:
            self._protocol.data_received(b"".join(data))

    def _on_lost(self) -> None:
        self._loop.call_soon(self._protocol.connection_lost, None, context=self._context)


class RespNetwork:
    """Leads connections to the servers of a world."""

    def __init__(self, servers: Mapping[Address, SimServer]) -> None:
        self._servers = servers

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Open a connection as the process that runs; raises ConnectionRefusedError."""
        process = current_process()
        origin = "" if process is None else process.name
        address = Address(host, port)
        server = self._servers.get(address)
        await asyncio.sleep(server.delay_s() if server is not None else 0)
        if server is None or not server.up:
            raise ConnectionRefusedError(f"nothing listens at {address}")
        if not server.reachable_from(origin):
            await asyncio.sleep(_NEVER_S)
        protocol = factory()
        assert isinstance(protocol, asyncio.Protocol)
        connection = MemoryConnection(server, f"{server.name} at {address}", origin, "default", _NEVER_S)
        server.accept(connection)
        server.enter(connection)
        transport = _Transport(server, connection, protocol)
        protocol.connection_made(transport)
        return transport, protocol


def execute(server: SimServer, connection: MemoryConnection, argv: list[bytes]) -> bytes:
    """Carry out one command of a router; runs at the server, when the command arrives there."""
    name = argv[0].upper()
    if name == b"HELLO":
        return _hello(server, connection, argv)
    if not connection.joined:
        raise EngineDenied("the connection has not said who it is")
    if name == b"INFO":
        return bulk(b"run_id:%s\r\nredis_version:9.0.0\r\n" % server.info().run_id.encode())
    if name == b"CLIENT":
        return integer(server.kill(int(argv[3])))
    return _data(server, connection.user, name, argv[1], argv[2:])


def _hello(server: SimServer, connection: MemoryConnection, argv: list[bytes]) -> bytes:
    password = None
    if len(argv) > 2:
        connection.user, password = argv[3].decode(), argv[4].decode()
    try:
        server.join(connection, password)
    except EngineDenied as denied:
        return error_reply(f"WRONGPASS {denied}")
    return array([bulk(b"server"), bulk(b"memory"), bulk(b"id"), integer(server.number(connection))])


def _data(server: SimServer, user: str, name: bytes, key: bytes, rest: list[bytes]) -> bytes:
    server.audit.client(server, user, name, key)
    try:
        if name == b"GET":
            value = server.get(key)
            return NULL[2] if value is None else bulk(value)
        if name == b"SET":
            server.set(key, rest[0], int(rest[2]) if len(rest) > 1 else None)
            return OK
        if name == b"APPEND":
            return integer(server.append(key, rest[0]))
        if name == b"INCR":
            return integer(server.incr(key))
        if name == b"DEL":
            return integer(server.remove(key))
    except EngineError as failure:
        return error_reply(f"ERR {failure}")
    return error_reply(f"ERR unknown command {name!r}")
