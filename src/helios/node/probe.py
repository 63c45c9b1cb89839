"""A few commands to a server, to see how it is. What serves data uses the engines instead."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from helios.errors import EngineUnreachable, ProtocolError
from helios.model.ids import Address
from helios.resp.wire import ReplySplitter

_pack: Any = hiredis.pack_command  # its stub allows a single argument only
_MAX_REPLY_BYTES = 16 << 20
Reply = Any  # bytes, int, list, None, or hiredis.ReplyError


async def ask(
    address: Address,
    commands: Sequence[Sequence[str]],
    *,
    user: str = "",
    password: str = "",
    timeout_s: float = 2.0,
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
) -> list[Reply]:
    """The replies to the commands, errors among them as hiredis.ReplyError values.

    With `user`, a first reply to its AUTH comes before them. Opens a connection of its own. Raises
    EngineUnreachable.
    """
    wanted = ([["AUTH", user, password]] if user else []) + [list(command) for command in commands]
    line = Line(address, tls)
    try:
        return await line.ask(wanted, timeout_s=timeout_s)
    finally:
        line.close()


class Line:
    """A connection that stays open between questions: it has its place when others have taken all the rest.

    `tls` makes what a server that speaks TLS is known by.
    """

    def __init__(self, address: Address, tls: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self.address = address
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._streams is not None

    async def ask(self, commands: Sequence[Sequence[str]], *, timeout_s: float = 2.0) -> list[Reply]:
        """The replies to the commands, errors among them as hiredis.ReplyError values.

        Opens the connection where there is none. Raises EngineUnreachable, and there is none then.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if self._streams is None:
                    context = self._tls() if self.address.tls else None
                    self._streams = await asyncio.open_connection(self.address.host, self.address.port, ssl=context)
                reader, writer = self._streams
                writer.write(b"".join(_pack(tuple(command)) for command in commands))
                return await _read(reader, len(commands))
        except (OSError, TimeoutError, EOFError, hiredis.HiredisError, ProtocolError) as error:
            self.close()
            raise EngineUnreachable(f"{self.address} does not answer: {error or 'no reply in time'}") from error
        except BaseException:
            self.close()  # what comes now would be taken for the reply to the next question
            raise

    def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read(reader: asyncio.StreamReader, count: int) -> list[Reply]:
    splitter, parser = ReplySplitter(_MAX_REPLY_BYTES), hiredis.Reader()
    replies: list[Reply] = []
    while len(replies) < count:
        try:
            data = await reader.read(65536)
        except OSError as error:
            raise EOFError(replies[0] if replies else error) from error
        if not data:
            raise EOFError(replies[0] if replies else "the connection was closed")
        parser.feed(b"".join(splitter.feed(data)))
        while (reply := parser.gets()) is not False:
            replies.append(reply)
    return replies
