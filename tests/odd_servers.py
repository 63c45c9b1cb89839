"""Servers that greet as they should and then answer as no server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import hiredis

GREETING = b"%7\r\n" + b"".join(
    b"$%d\r\n%b\r\n%b" % (len(name), name, value)
    for name, value in (
        (b"server", b"$6\r\nvalkey\r\n"),
        (b"version", b"$5\r\n9.0.0\r\n"),
        (b"proto", b":3\r\n"),
        (b"id", b":7\r\n"),
        (b"mode", b"$10\r\nstandalone\r\n"),
        (b"role", b"$6\r\nmaster\r\n"),
        (b"modules", b"*0\r\n"),
    )
)
INFO = b"redis_version:7.2.4\r\nvalkey_version:9.0.0\r\nrun_id:0123456789\r\n"
ODD = [
    b"$-1\r\n",
    b"*-1\r\n",
    b"_\r\n",
    b":12\r\n",
    b"+OK\r\n",
    b"$3\r\nabc\r\n",
    b"$0\r\n\r\n",
    b"*0\r\n",
    b"*1\r\n*1\r\n$-1\r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"*2\r\n$1\r\n0\r\n*1\r\n:5\r\n",
    b"*3\r\n$2\r\n\xff\xfe\r\n_\r\n*0\r\n",
    b"%1\r\n$1\r\na\r\n_\r\n",
    b"~1\r\n#t\r\n",
    b",1.5\r\n",
    b",nan\r\n",
    b"#f\r\n",
    b"(123456789012345678901234567890\r\n",
    b"=7\r\ntxt:abc\r\n",
    b"-ERR no\r\n",
    b"-\r\n",
]


@dataclass
class OddServer:
    """`port` is where it listens; each command but HELLO, INFO server and ACL is answered with `reply`."""

    port: int
    reply: bytes = b"+OK\r\n"
    greeting: bytes = GREETING
    info: bytes | None = b"$%d\r\n%b\r\n" % (len(INFO), INFO)
    users: bytes | None = b"-NOPERM the test says so\r\n"
    after: Callable[[asyncio.StreamWriter], None] | None = None

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                parser.feed(data)
                while (argv := parser.gets()) is not False:
                    writer.write(self._answer(argv))
                    if self.after is not None and argv[0] not in (b"HELLO", b"INFO", b"ACL"):
                        self.after(writer)
                await writer.drain()
        writer.close()

    def _answer(self, argv: list[bytes]) -> bytes:
        if argv[0] == b"HELLO":
            return self.greeting
        if argv[:2] == [b"INFO", b"server"] and self.info is not None:
            return self.info
        if argv[0] == b"ACL" and self.users is not None:
            return self.users
        return self.reply


@asynccontextmanager
async def odd_server() -> AsyncIterator[OddServer]:
    """One that listens for the length of a block."""
    made = OddServer(0)
    listener = await asyncio.start_server(made.talk, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listener.close()
