"""The addresses at which a router takes clients."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from helios.errors import StartError
from helios.router.frontend.connection import ClientConnection

_BACKLOG = 1024


class Listener:
    """Makes a connection of each client that comes to one of the addresses."""

    def __init__(self, connection: Callable[[], ClientConnection]) -> None:
        self._connection = connection
        self._servers: list[asyncio.Server] = []

    async def open(
        self, host: str, port: int, *, reuse_port: bool, tls: ssl.SSLContext | None, handshake_timeout_s: float
    ) -> int:
        """Take clients at one more address; the port (that was chosen, for 0). Raises StartError where it is taken."""
        try:
            server = await asyncio.get_running_loop().create_server(
                self._connection,
                host,
                port,
                reuse_port=reuse_port,
                backlog=_BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=handshake_timeout_s if tls else None,
            )
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Take no more clients."""
        for server in self._servers:
            server.close()
