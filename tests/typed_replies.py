"""Replies with their RESP types, as they stand on the wire: `:1` is not `#t`, nor `$-1` the same as `*-1`."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

from helios.resp.wire import encode_command


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: the byte that says its type, and either its text or its parts (None: a null of RESP2).

    A map's parts are its keys and values in turn.
    """

    kind: str
    text: bytes | None = None
    parts: tuple[Reply, ...] | None = None

    @property
    def error(self) -> bytes:
        """The first word of an error, else nothing."""
        return (self.text or b"").partition(b" ")[0] if self.kind in "-!" else b""

    def __repr__(self) -> str:
        shown = self.text if self.parts is None else list(self.parts)
        return f"{self.kind}{shown!r}"


class TypedClient:
    """A blocking connection whose replies keep their types."""

    def __init__(self, port: int, timeout_s: float = 20.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file: BinaryIO = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, *words: str | bytes) -> Reply:
        """The reply to one command."""
        return self.ask_all([[word.encode() if isinstance(word, str) else word for word in words]])[0]

    def ask_all(self, commands: Sequence[Sequence[bytes]]) -> list[Reply]:
        """The replies to commands that are sent at once."""
        self._socket.sendall(b"".join(encode_command(list(command)) for command in commands))
        return [self._read() for _ in commands]

    def _read(self) -> Reply:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the connection ended within a reply: {line!r}")
        kind, text = chr(line[0]), line[1:-2]
        if kind in "$=!":
            return Reply(kind, None if text == b"-1" else self._file.read(int(text) + 2)[:-2])
        if kind in "*~>%":
            if text == b"-1":
                return Reply(kind)
            count = int(text) * (2 if kind == "%" else 1)
            return Reply(kind, parts=tuple(self._read() for _ in range(count)))
        assert kind in "+-:_,#(", f"no such type: {line!r}"
        return Reply(kind, text)
