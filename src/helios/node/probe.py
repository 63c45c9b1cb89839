"""A few commands to a server, to see how it is. What serves data uses the engines instead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis

from helios.errors import EngineUnreachable, ProtocolError
from helios.model.ids import Address
from helios.resp.wire import ReplySplitter

_pack: Any = hiredis.pack_command  # its stub allows a single argument only
_MAX_REPLY_BYTES = 16 << 20
Reply = Any  # bytes, int, list, None, or hiredis.ReplyError


async def ask(
    address: Address, commands: Sequence[Sequence[str]], *, user: str = "", password: str = "", timeout_s: float = 2.0
) -> list[Reply]:
    """The replies to the commands, errors among them as hiredis.ReplyError values.

    With `user`, a first reply to its AUTH comes before them. Opens a connection of its own. Raises
    EngineUnreachable.
    """
    wanted = ([["AUTH", user, password]] if user else []) + [list(command) for command in commands]
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(b"".join(_pack(tuple(command)) for command in wanted))
                return await _read(reader, len(wanted))
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError, hiredis.HiredisError, ProtocolError) as error:
        raise EngineUnreachable(f"{address} does not answer: {error or 'no reply in time'}") from error


async def _read(reader: asyncio.StreamReader, count: int) -> list[Reply]:
    splitter, parser = ReplySplitter(_MAX_REPLY_BYTES), hiredis.Reader()
    replies: list[Reply] = []
    while len(replies) < count:
        data = await reader.read(65536)
        if not data:
            raise EOFError("the connection was closed")
        parser.feed(b"".join(splitter.feed(data)))
        while (reply := parser.gets()) is not False:
            replies.append(reply)
    return replies
