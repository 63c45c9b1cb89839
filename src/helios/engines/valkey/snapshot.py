"""The copy that a server makes of itself for a follower (PSYNC), read by somebody who never follows.

The server forks, and its child writes: the moment is that of the fork, which is when the server tells its offset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import hiredis

from helios.engines.valkey.connection import Command, Endpoint, ErrorReply, connect
from helios.engines.valkey.connector import ValkeyConnector
from helios.errors import EngineDenied, EngineError, EngineUnreachable
from helios.model.topology import Member
from helios.resp.info import info_fields
from helios.resp.wire import encode_command

_CHUNK_BYTES = 256 << 10
_LOOK_AGAIN_S = 0.1
_IDLE_S = 45.0  # for a server that saves just now
_SILENCE_S = 60.0
_FAREWELL_S = 2.0
_MARK_BYTES = 40
_CHILDREN = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled", "loading")


class ValkeySnapshots:
    """Takes copies of the servers that a connector reaches."""

    def __init__(self, connector: ValkeyConnector, *, timeout_s: float = 10.0) -> None:
        self._connector = connector
        self._timeout_s = timeout_s

    async def open(self, member: Member) -> ValkeySnapshot:
        """Connect to a member; a server whose child writes a file just now is waited for."""
        endpoint = await self._connector.endpoint(member)
        product, version, at_once = await _at_rest(endpoint, self._timeout_s)
        snapshot = ValkeySnapshot(endpoint, f"{product} {version}", self._timeout_s)
        try:
            await snapshot.prepare(version, at_once=at_once)
        except BaseException:
            await snapshot.close()
            raise
        return snapshot


async def _at_rest(endpoint: Endpoint, timeout_s: float) -> tuple[str, str, bool]:
    """Product and version, when nothing keeps the server from forking, and whether one that streams does so at once."""
    connection = await connect(endpoint, timeout_s=timeout_s)
    try:
        async with asyncio.timeout(_IDLE_S):
            while True:
                said = info_fields(await connection.execute("INFO", "server", "persistence", timeout_s=timeout_s))
                if all(said.get(child, "0") == "0" for child in _CHILDREN):
                    break
                await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            config = await connection.execute("CONFIG", "GET", "repl-diskless-sync-delay", timeout_s=timeout_s)
            at_once = config.get(b"repl-diskless-sync-delay") == b"0"
        except EngineDenied:
            at_once = False
    except TimeoutError:
        raise EngineUnreachable(f"{endpoint} has been saving for {_IDLE_S:g} s and cannot begin a copy") from None
    finally:
        await connection.close()
    valkey = said.get("valkey_version")
    return ("valkey", valkey, at_once) if valkey else ("redis", said.get("redis_version", "0"), at_once)


class ValkeySnapshot:
    """One copy, on a connection of its own."""

    def __init__(self, endpoint: Endpoint, server: str, timeout_s: float) -> None:
        self._endpoint = endpoint
        self._server = server
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._left: int | None = None  # bytes to come, where the server has said so
        self._mark = b""  # what ends the copy where it has not
        self._held = b""  # what may be the beginning of the mark
        self._begun = self._ended = False

    @property
    def server(self) -> str:
        """Product and version of the server."""
        return self._server

    async def prepare(self, version: str, *, at_once: bool) -> None:
        """Log in and say what is wanted.

        A server that would wait for more followers before it streams is asked for a file: that is begun at once, on
        its disk.
        """
        address = self._endpoint.address
        try:
            async with asyncio.timeout(self._timeout_s):
                self._reader, self._writer = await asyncio.open_connection(
                    address.host,
                    address.port,
                    ssl=self._endpoint.tls() if address.tls else None,
                    limit=4 * _CHUNK_BYTES,
                )
        except (OSError, TimeoutError) as error:
            raise EngineUnreachable(f"{self._endpoint} cannot be reached: {error or 'time-out'}") from error
        if self._endpoint.password is not None:
            await self._ask(("AUTH", self._endpoint.user or "default", self._endpoint.password))
        await self._ask(("CLIENT", "SETNAME", "helios-backup"), needed=False)
        # As a follower of the same release would: so values are written as that release writes them.
        await self._ask(("REPLCONF", "version", version), needed=False)
        await self._ask(("REPLCONF", "rdb-only", "1"))
        if at_once:
            await self._ask(("REPLCONF", "capa", "eof"))

    async def _ask(self, command: Command, *, needed: bool = True) -> None:
        reader = hiredis.Reader()
        reader.feed(await self._exchange(command))
        reply = reader.gets()
        if needed and isinstance(reply, ErrorReply):
            kind = EngineDenied if str(reply).startswith(("NOPERM", "NOAUTH", "WRONGPASS")) else EngineError
            raise kind(f"{self._endpoint} lets nobody copy it: {command[0]!s} is answered by {reply}")

    async def _exchange(self, command: Sequence[bytes | str | int]) -> bytes:
        assert self._writer is not None, "it is connected"
        self._writer.write(encode_command([str(word).encode() for word in command]))
        return await self._line(self._timeout_s)

    async def _line(self, timeout_s: float) -> bytes:
        """The next line that says anything. Raises EngineUnreachable."""
        assert self._reader is not None, "it is connected"
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    line = await self._reader.readuntil(b"\n")
                    if line != b"\n":  # a sign of life while the server's child works
                        return line
        except TimeoutError:
            raise EngineUnreachable(f"{self._endpoint} said nothing for {timeout_s:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise self._broken(error) from error

    async def begin(self) -> None:
        """Have the server fork. It says where it stands when it has, or is about to with nothing in between."""
        line = await self._exchange(("PSYNC", "?", -1))
        if not line.startswith(b"+FULLRESYNC "):
            raise EngineError(f"{self._endpoint} does not begin a copy: {line[:200].decode(errors='replace').strip()}")

    async def read(self) -> bytes:
        """The next bytes of the file; empty at its end."""
        if not self._begun:
            await self._read_head()
        if self._ended:
            return b""
        data = await self._read(_CHUNK_BYTES if self._left is None else min(_CHUNK_BYTES, self._left))
        if self._left is not None:
            self._left -= len(data)
            self._ended = self._left == 0
            return data
        return await self._until_mark(data)

    async def _until_mark(self, data: bytes) -> bytes:
        """What of the data is not the mark; the last bytes are held back as long as they may be of it.

        The mark is 160 random bits, so it stands nowhere else.
        """
        while True:
            self._held += data
            if self._held.endswith(self._mark):
                self._ended = True
                await self._let_end()
                return self._held[:-_MARK_BYTES]
            if len(self._held) > _MARK_BYTES:
                data, self._held = self._held[:-_MARK_BYTES], self._held[-_MARK_BYTES:]
                return data
            data = await self._read(_CHUNK_BYTES)

    async def _let_end(self) -> None:
        """Let the server end the connection, for one that is ended here looks to it like a copy that failed."""
        assert self._reader is not None, "it is connected"
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._reader.read(1)

    async def _read_head(self) -> None:
        head = await self._line(_SILENCE_S)
        size = head[1:].strip()
        if head.startswith(b"$EOF:") and len(size) == len(b"EOF:") + _MARK_BYTES:
            self._mark = size[len(b"EOF:") :]
        elif head.startswith(b"$") and size.isdigit():
            self._left = int(size)
        else:
            said = head[:200].decode(errors="replace").strip()
            raise EngineError(f"{self._endpoint} could not make a copy: {said}")
        self._begun = True

    async def _read(self, count: int) -> bytes:
        assert self._reader is not None, "it is connected"
        try:
            async with asyncio.timeout(_SILENCE_S):
                data = await self._reader.read(count)
        except TimeoutError:
            raise EngineUnreachable(f"{self._endpoint} sent nothing of its copy for {_SILENCE_S:g} s") from None
        except OSError as error:
            raise self._broken(error) from error
        if not data:
            raise EngineUnreachable(f"{self._endpoint} ended the connection before its copy was complete")
        return data

    def _broken(self, error: Exception) -> EngineUnreachable:
        return EngineUnreachable(f"{self._endpoint} was lost while it was copied: {error}")

    async def close(self) -> None:
        """End the connection."""
        if self._writer is not None:
            self._writer.transport.abort()
