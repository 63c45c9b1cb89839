"""What a data command answered, as a value or as an error of Helios."""

from __future__ import annotations

from typing import Protocol

import hiredis

from helios.errors import HeliosError

Reply = None | int | bytes


class KeyValue(Protocol):
    """Runs a data command wherever its key lives."""

    async def execute(self, argv: list[bytes]) -> bytes:
        """The whole reply, undecoded, in RESP2. Raises HeliosError where no server could be asked."""


class CommandRefused(HeliosError):
    """A server answered a command with an error; `code` is the first word of its message."""

    code = "ERR"

    def __init__(self, text: str) -> None:
        code, _, _ = text.partition(" ")
        super().__init__(text)
        self.code = code


async def execute(kv: KeyValue, *argv: bytes) -> Reply:
    """The reply to a command that answers a string, a number or nothing.

    Raises CommandRefused with the server's own message where the reply is an error.
    """
    reader = hiredis.Reader()
    reader.feed(await kv.execute(list(argv)))
    reply = reader.gets()
    if isinstance(reply, hiredis.ReplyError):
        raise CommandRefused(str(reply))
    if reply is None or isinstance(reply, int | bytes):
        return reply
    raise TypeError(f"{argv[0]!r} was answered with {type(reply).__name__}, which it never is")
