"""Connections that speak RESP on the virtual clock: of routers to servers, with buffers, and of clients to routers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import hiredis
from tests.simulation.data import Fault
from tests.simulation.loop import Process, SimLoop, current_process
from tests.simulation.servers import SimServer
from tests.simulation.serving import Serving

from helios.engines.memory.connection import MemoryConnection
from helios.errors import EngineError, EngineUnreachable
from helios.model.ids import Address
from helios.resp.wire import encode_command

_NEVER_S = 1e6
_TO_CLIENT_S = 0.0002
# What clients are told where no reply came.
REFUSED = Fault(b"CLUSTERDOWN the connection was refused")
LOST = Fault(b"UNKNOWN the connection to the router was lost")
GIVEN_UP = Fault(b"UNKNOWN the client has given up")


class _Transport(asyncio.Transport):
    """A router's end of a connection to a server.

    On the way there is room for so many bytes. What does not fit stays in the process that writes, and goes on,
    a part of a command perhaps, when the server has taken what is before it and the process runs.
    """

    def __init__(
        self, server: SimServer, connection: MemoryConnection, protocol: asyncio.Protocol, room_bytes: int
    ) -> None:
        super().__init__()
        self.connection = connection
        self.serving = Serving(server, connection, self._tell)
        self._server = server
        self._protocol = protocol
        self._room_bytes = room_bytes
        self._unsent = b""
        self._replies: deque[asyncio.Future[bytes]] = deque()
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        connection.on_lost = self._on_lost

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.connection.lost is None:
            self._unsent += data
            self._send_on()

    def _send_on(self) -> None:
        while self._unsent and self._room_bytes > 0 and self.connection.lost is None:
            part, self._unsent = self._unsent[: self._room_bytes], self._unsent[self._room_bytes :]
            self._room_bytes -= len(part)
            reply = self.connection.send(partial(self._received, part))
            self._replies.append(reply)
            reply.add_done_callback(self._on_reply, context=self._context)

    def _received(self, part: bytes) -> bytes:
        """Runs at the server."""
        self._room_bytes += len(part)
        if self._unsent:
            self._loop.call_soon(self._send_on, context=self._context)
        return self.serving.take(part)

    def _tell(self, data: bytes) -> None:
        """The server sends what comes late."""
        if self.connection.lost is not None:
            return
        late: asyncio.Future[bytes] = self._loop.create_future()
        self._replies.append(late)
        late.add_done_callback(self._on_reply, context=self._context)
        self._server.after_delay(lambda: late.set_result(data))

    def abort(self) -> None:
        self._unsent = b""
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
            if isinstance(failure, EngineError):
                self.abort()
                break
            data.append(self._replies.popleft().result())
        if self.connection.lost is None and any(data):
            self._protocol.data_received(b"".join(data))

    def _on_lost(self) -> None:
        self._loop.call_soon(self._protocol.connection_lost, None, context=self._context)


class _Socket:
    def getsockname(self) -> tuple[str, int]:
        """Where it listens."""
        return "router", 1


class Listening:
    """A router's server for clients, as asyncio makes it."""

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self.factory = factory
        self.sockets = (_Socket(),)
        self.open = True

    def close(self) -> None:
        """Take no more clients."""
        self.open = False


class RespNetwork:
    """Leads connections to the servers of a world, and clients to its routers."""

    def __init__(self, servers: Mapping[Address, SimServer], room_bytes: int) -> None:
        self._servers = servers
        self._room_bytes = room_bytes
        self.listening: Listening | None = None  # what was opened last

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
        transport = _Transport(server, connection, protocol, self._room_bytes)
        server.enter(transport.serving)
        protocol.connection_made(transport)
        return transport, protocol

    def listen(self, factory: Callable[[], asyncio.Protocol]) -> Listening:
        """Take clients."""
        self.listening = Listening(factory)
        return self.listening


class Wire(asyncio.Transport):
    """A client's connection to a router: the router's end as asyncio's transport, the client's end beside it."""

    def __init__(self, loop: SimLoop, process: Process, listening: Listening) -> None:
        super().__init__()
        self.lost = False
        self._loop = loop
        self._process = process
        self._reader = hiredis.Reader()
        self._answers: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self._context: Context = process.context
        self._reading = True
        self._unread: list[bytes] = []
        self._protocol = process.context.run(listening.factory)
        process.context.run(self._protocol.connection_made, self)

    # The client's end

    async def call(self, commands: list[list[bytes]], delay_s: float, timeout_s: float) -> list[Any]:
        """The answers to commands that are sent together, errors among them; the connection ends with a lost one."""
        self._loop.send_later(delay_s, self._deliver, b"".join(map(encode_command, commands)))
        answers: list[Any] = []
        try:
            async with asyncio.timeout(timeout_s):
                while len(answers) < len(commands):
                    await self._arrived.wait()
                    answers += self._answers
                    self._answers.clear()
                    self._arrived.clear()
                    if self.lost:
                        break
        except TimeoutError:
            self.hang_up()
            return answers + [GIVEN_UP] * (len(commands) - len(answers))
        return answers + [LOST] * (len(commands) - len(answers))

    def hang_up(self) -> None:
        """The client ends the connection."""
        self._lose()
        self._loop.send_later(_TO_CLIENT_S, self._tell_router)

    def lose(self) -> None:
        """The router has died."""
        self._loop.send_later(_TO_CLIENT_S, self._lose)

    def _deliver(self, data: bytes) -> None:
        if self.lost:
            return
        if self._process.dead:
            self._lose()
        elif self._reading:
            self._loop.call_soon(self._protocol.data_received, data, context=self._context)
        else:
            self._unread.append(data)

    def _receive(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            self._answers.append(_plain(answer))
        self._arrived.set()

    def _lose(self) -> None:
        self.lost = True
        self._arrived.set()

    def _tell_router(self) -> None:
        self._loop.call_soon(self._protocol.connection_lost, None, context=self._context)

    # The router's end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._loop.send_later(_TO_CLIENT_S, self._receive, bytes(data))

    def close(self) -> None:
        if not self.lost:
            self._loop.send_later(_TO_CLIENT_S, self._lose)
            self._tell_router()

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.lost

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        unread, self._unread = self._unread, []
        for data in unread:
            self._loop.call_soon(self._protocol.data_received, data, context=self._context)


def _plain(answer: Any) -> Any:
    """An answer as the judges compare it."""
    if isinstance(answer, hiredis.ReplyError):
        return Fault(str(answer).encode())
    if isinstance(answer, list):
        return [_plain(each) for each in answer]
    return answer
