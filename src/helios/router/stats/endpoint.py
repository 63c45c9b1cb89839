"""The second address of a router process: there the cluster's administration asks it how it fares, and nobody else.

It listens at a port that the system chooses, on this machine alone unless the cluster has other hosts. Whoever asks
proves by a secret that it can read the store, where both stand in the session's record.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable

from helios.admin.router_views import RouterView, SlowCommandsView
from helios.errors import ProtocolError, StartError
from helios.model.codec import encode
from helios.model.ids import Address
from helios.resp.encoding import OK, bulk, error_reply
from helios.resp.wire import Limits, RequestParser

_LIMITS = Limits(arguments=8, bulk_bytes=1024, frame_bytes=4096)
_CHUNK_BYTES = 4096
_SILENCE_S = 5.0
_MAX_CONNECTIONS = 64


class StatsEndpoint:
    """Answers AUTH, STATS and SLOW COUNT; anything else ends the connection."""

    def __init__(
        self,
        view: Callable[[], RouterView],
        slow: Callable[[int], SlowCommandsView],
        *,
        host: str = "127.0.0.1",
        reached_at: str = "127.0.0.1",
    ) -> None:
        self.secret = secrets.token_urlsafe(32)
        self.port = 0
        self._host = host
        self._reached_at = reached_at
        self._view = view
        self._slow = slow
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        """Listen. Raises StartError."""
        try:
            self._server = await asyncio.start_server(self._connected, self._host, 0)
        except OSError as error:
            raise StartError(f"cannot listen on a port of {self._host}: {error.strerror or error}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """Where it listens; empty before that."""
        return str(Address(self._reached_at, self.port)) if self.port else ""

    def close(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(writer)
        try:
            await self._converse(reader, writer)
        except (OSError, ProtocolError, TimeoutError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = RequestParser(_LIMITS)
        known = False
        while True:
            async with asyncio.timeout(_SILENCE_S):
                data = await reader.read(_CHUNK_BYTES)
            if not data:
                return
            parser.feed(data)
            for _, argv in parser.take():
                word = argv[0].upper()
                if word == b"AUTH" and len(argv) == 2:
                    known = hmac.compare_digest(argv[1], self.secret.encode())
                    reply = OK if known else error_reply("WRONGPASS that is not this router's secret")
                elif known and word == b"STATS" and len(argv) == 1:
                    reply = bulk(encode(self._view()))
                elif known and word == b"SLOW" and len(argv) == 2 and argv[1].isdigit():
                    reply = bulk(encode(self._slow(int(argv[1][:9]))))
                else:
                    known, reply = False, error_reply("NOAUTH this address is for the cluster's administration")
                writer.write(reply)
                async with asyncio.timeout(_SILENCE_S):
                    await writer.drain()
                if not known:
                    return
