"""A RESP server in a thread, for clients under test: a function answers each command with raw bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import hiredis

from helios.resp.encoding import encode

Answer = Callable[[list[bytes]], bytes | None]
"""The reply to a command; None hangs up."""


def resp3(value: Any) -> bytes:
    """A value as a node answers it."""
    return encode(value, 3)


class FakeServer:
    """Serves one connection after the other; `commands` lists what came, HELLO left out."""

    def __init__(self, answer: Answer) -> None:
        self.commands: list[list[bytes]] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, once the client that is being served has hung up."""
        # The listener is woken by a connection: closing it alone would not end a blocked accept.
        self._closing = True
        with socket.create_connection(("127.0.0.1", self.port)):
            pass
        self._thread.join(timeout=10)
        self._listener.close()

    _closing = False

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self._closing:
                    return
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(ConnectionError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        while True:
            data = connection.recv(65536)
            if not data:
                return
            reader.feed(data)
            while (argv := reader.gets()) is not False:
                if argv[0] == b"HELLO":
                    reply: bytes | None = resp3({"server": "fake", "proto": 3})
                else:
                    self.commands.append(argv)
                    reply = self._answer(argv)
                if reply is None:
                    return
                connection.sendall(reply)


@contextmanager
def serving(answer: Answer) -> Iterator[FakeServer]:
    """A fake server for the length of a block."""
    server = FakeServer(answer)
    try:
        yield server
    finally:
        server.close()
