"""A RESP3 connection for an event loop, with one command under way at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, NoReturn

import hiredis

from helios.client.connection import CONNECT_TIMEOUT_S, CommandRefused, broken, pack
from helios.client.entry import Entry, not_secured, refused
from helios.errors import Unavailable
from helios.model.ids import Address

_CHUNK_BYTES = 256 * 1024
_NOTHING_YET = object()
_AS_ANYBODY = Entry()


class AsyncRespClient:
    """Talks to one node. After any error but CommandRefused it is unusable."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address = address
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader(notEnoughData=_NOTHING_YET)

    @classmethod
    async def open(cls, host: str, port: int, entry: Entry = _AS_ANYBODY) -> AsyncRespClient:
        """A connection that has been greeted; raises Unavailable where nobody can be reached.

        Raises NotAuthenticated or WrongPassword where one is not let in.
        """
        address = str(Address(host, port))
        context = entry.context()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(host, port, ssl=context)
        except ssl.SSLError as error:
            raise not_secured(address, error) from error
        except (OSError, UnicodeError) as error:  # a TimeoutError is an OSError
            raise Unavailable(f"cannot connect to {address} ({error}); is it running?") from error
        client = cls(address, reader, writer)
        try:
            await client.call(*entry.greeting(), timeout_s=CONNECT_TIMEOUT_S)
        except CommandRefused as error:
            client.close()
            raise refused(address, str(error)) from error
        except BaseException:
            client.close()
            raise
        return client

    @property
    def idle(self) -> bool:
        """Whether it looks open, as far as is known without asking."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(RuntimeError):  # the event loop that it belonged to is closed already
            self._writer.close()

    async def call(self, *argv: bytes, timeout_s: float) -> Any:
        """The reply to one command.

        Raises CommandRefused where it is an error, OutcomeUnknown where the connection breaks or nothing comes for
        `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(pack(*argv))
                await self._writer.drain()
                reply = await self._next()
        except TimeoutError as error:
            raise broken(self.address, f"nothing came in {timeout_s:g} s") from error
        except OSError as error:
            raise broken(self.address, str(error)) from error
        if isinstance(reply, hiredis.ReplyError):
            raise CommandRefused(str(reply))
        return reply

    async def _next(self) -> Any:
        while True:
            try:
                reply = self._parser.gets()
            except hiredis.ProtocolError as error:
                raise Unavailable(f"{self.address} does not speak RESP: {error}") from error
            if reply is not _NOTHING_YET:
                return reply
            data = await self._reader.read(_CHUNK_BYTES)
            if not data:
                self._closed()
            self._parser.feed(data)

    def _closed(self) -> NoReturn:
        raise broken(self.address, "closed by the server")
