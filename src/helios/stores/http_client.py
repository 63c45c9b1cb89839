"""Requests of HTTP/1.1 over connections that stay open: h11 reads and writes the messages, asyncio carries them."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from helios.errors import StoreUnreachable

_CONNECT_TIMEOUT_S = 2.0
# A host that is gone without a word is noticed after about as long, also by a stream, on which nothing is sent.
_GONE_S = 3
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _GONE_S),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_S * 1000),
]
_IDLE_MAX = 20  # connections to one endpoint that are kept for later requests
_READ_BYTES = 65536

SILENCE = "nothing within"
"""What is said of somebody who has got a request, and gives no answer in time."""


class NotSent(StoreUnreachable):
    """No connection came about: the request cannot have been carried out."""


class Unanswered(StoreUnreachable):
    """The request was sent and no answer came: it may have been carried out, or may be later."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class HttpClient:
    """Sends requests to endpoints such as `https://10.0.0.1:2379`, whose names are resolved anew for each connection.

    What goes wrong is told by NotSent or Unanswered.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._idle: dict[str, list[_Connection]] = {}
        self._open: set[_Connection] = set()
        self._closed = False

    async def request(
        self,
        endpoint: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float,
    ) -> Response:
        """The answer to a GET or, with a body, to a POST of it as JSON. Raises NotSent or Unanswered."""
        connection = None
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connected(endpoint)
                await connection.send(path, body, headers or {})
                status, answered = await connection.head()
                content = b"".join([part async for part in connection.body()])
        except TimeoutError:
            if connection is None:
                raise NotSent(f"{endpoint}: no connection within {timeout_s:g} s") from None
            raise connection.unanswered(f"{SILENCE} {timeout_s:g} s") from None
        finally:
            if connection is not None:
                self._give_back(endpoint, connection)
        return Response(status, answered, content)

    @asynccontextmanager
    async def stream(
        self, endpoint: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[int, AsyncGenerator[bytes, None]]]:
        """The status of the answer to a POST, and the parts in which the rest comes, whenever that may be."""
        connection = await self._connected(endpoint)
        try:
            await connection.send(path, body, headers)
            status, _ = await connection.head()
            yield status, connection.body()
        finally:
            self._give_back(endpoint, connection)

    async def close(self) -> None:
        """End all connections; whatever goes on there ends with Unanswered."""
        self._closed = True
        for connection in list(self._open):
            connection.end()
        self._open.clear()
        self._idle.clear()

    async def _connected(self, endpoint: str) -> _Connection:
        """A connection on which nothing is under way. Raises NotSent."""
        idle = self._idle.get(endpoint, [])
        while idle:
            connection = idle.pop()
            if connection.usable:
                return connection
            self._drop(connection)
        if self._closed:
            raise NotSent(f"{endpoint}: this client has been closed")
        connection = await _connect(endpoint, self._tls)
        self._open.add(connection)
        return connection

    def _give_back(self, endpoint: str, connection: _Connection) -> None:
        """Keep a connection whose answer was read to its end; one that was left before it is of no use."""
        idle = self._idle.setdefault(endpoint, [])
        if not self._closed and len(idle) < _IDLE_MAX and connection.begin_anew():
            idle.append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.end()


class _Connection:
    """One connection; one request after the other."""

    def __init__(self, endpoint: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._endpoint = endpoint
        self._reader = reader
        self._writer = writer
        self._messages = h11.Connection(h11.CLIENT)
        self._path = ""

    @property
    def usable(self) -> bool:
        """Whether the other side has not ended it, as far as this machine knows."""
        if self._reader.at_eof() or self._reader.exception() or self._writer.is_closing():
            return False
        # Of an end that came while the loop was busy only the socket knows: nothing else comes between two requests.
        asked = select.poll()
        asked.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not asked.poll(0)

    def unanswered(self, why: str) -> Unanswered:
        """The error for the request that is under way."""
        return Unanswered(f"{self._endpoint} did not answer {self._path} ({why})")

    async def send(self, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> None:
        """Send a request. Raises Unanswered."""
        content = b"" if body is None else json.dumps(body).encode()
        named = [("Host", urlsplit(self._endpoint).netloc), *headers.items()]
        if content:
            named += [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        request = h11.Request(method="POST" if content else "GET", target=path, headers=named)
        self._path = path
        events = [request, h11.Data(data=content), h11.EndOfMessage()]
        try:
            self._writer.write(b"".join(self._messages.send(event) or b"" for event in events))
            await self._writer.drain()
        except OSError as error:
            raise self.unanswered(_said(error)) from error

    async def head(self) -> tuple[int, Mapping[str, str]]:
        """The status and the headers of the answer. Raises Unanswered."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event.status_code, {name.decode(): value.decode("latin-1") for name, value in event.headers}

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The parts of the answer as they come. Raises Unanswered."""
        while True:
            event = await self._event()
            if isinstance(event, h11.EndOfMessage):
                return
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def _event(self) -> object:
        try:
            while (event := self._messages.next_event()) is h11.NEED_DATA:
                self._messages.receive_data(await self._reader.read(_READ_BYTES))
        except h11.RemoteProtocolError as error:
            raise self.unanswered(f"{error}: if it wants TLS, write etcds://") from error
        except ssl.SSLError as error:
            advice = "if it asks for a certificate, name one by store.tls_cert_file and store.tls_key_file"
            raise self.unanswered(f"{error}: {advice}") from error
        except OSError as error:
            raise self.unanswered(_said(error)) from error
        if isinstance(event, h11.ConnectionClosed):
            raise self.unanswered("it closed the connection: if it wants TLS, write etcds://")
        return event

    def begin_anew(self) -> bool:
        """Whether another request can be sent on it, for which it is ready then."""
        if self._messages.our_state is h11.DONE and self._messages.their_state is h11.DONE:
            self._messages.start_next_cycle()
            return self.usable
        return False

    def end(self) -> None:
        """Close it at once."""
        self._writer.transport.abort()


async def _connect(endpoint: str, tls: ssl.SSLContext | None) -> _Connection:
    place = urlsplit(endpoint)
    context = (tls or ssl.create_default_context()) if place.scheme == "https" else None
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
    except TimeoutError:
        raise NotSent(f"{endpoint}: no connection within {_CONNECT_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise NotSent(
            f"{endpoint}: no connection: {_said(error)}{_tls_advice(error, encrypted=bool(context))}"
        ) from error
    opened: socket.socket = writer.get_extra_info("socket")
    for level, option, value in _KEEPALIVE:
        opened.setsockopt(level, option, value)
    return _Connection(endpoint, reader, writer)


def _tls_advice(error: OSError, *, encrypted: bool) -> str:
    """What can be done where TLS did not come about; empty where it is not at fault."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ": name who signed its certificate by store.tls_ca_file, and reach it by a name that stands in there"
    if encrypted and isinstance(error, (ssl.SSLError, ConnectionResetError)):
        return ": if it speaks no TLS, write etcd://, without store.tls_ca_file and store.tls_cert_file"
    return ""


def _said(error: OSError) -> str:
    return str(error) or type(error).__name__
