"""One RESP3 connection: pipelines of commands, replies in order, pushes on the side."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import hiredis

from helios.errors import EngineBusy, EngineDenied, EngineError, EngineUnreachable, ProtocolError
from helios.model.ids import Address
from helios.ports.engine import CLIENT_NAME
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import ReplySplitter

# What RESP carries is decided by the command that was sent; whoever sends it knows what comes back.
Reply: TypeAlias = Any
Command: TypeAlias = Sequence[bytes | str | int]
ErrorReply = hiredis.ReplyError

MAX_UNANSWERED = 100_000
_INCOMPLETE = object()
# The published type of pack_command allows tuples of one element only.
_pack = cast(Callable[[tuple[bytes | str | int, ...]], bytes], hiredis.pack_command)
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM", "DENIED")
_FULL = "max number of clients"  # the agent of a supervised server soon sees to it that there are places again
_FULL_PAUSE_S = 0.02
# The server is there and cannot serve now; it may well answer the same request a moment later.
_NOT_READY = ("LOADING", "MASTERDOWN", "CLUSTERDOWN")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a connection leads and as whom; `member` is what errors call the server.

    `tls` makes what the server is known by, where it speaks TLS.
    """

    member: str
    address: Address
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def __str__(self) -> str:
        return f"{self.member} at {self.address}"


@dataclass(slots=True)
class _Batch:
    """The commands of one call: `missing` replies are still to come, which are given as they are if `raw`."""

    missing: int
    done: asyncio.Future[list[Reply]]
    raw: bool
    replies: list[Reply] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """A pipelined connection, shared by any number of tasks; once lost, it stays lost.

    A call that is cancelled or runs out of time keeps its place: its replies are read and dropped, and
    whatever is sent later on the same connection runs after it. What it sent may still be carried out.
    """

    def __init__(self, endpoint: Endpoint, on_push: Callable[[list[Reply]], None] | None = None) -> None:
        self.endpoint = endpoint
        self.client_id = 0
        self._on_push = on_push
        self._splitter = ReplySplitter()  # it bounds what a server may send; the reader has no bounds
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[_Batch] = deque()
        self._raw = 0  # how many of them are
        self._unanswered = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: str | None = None

    @property
    def lost(self) -> bool:
        """Whether the connection has ended, from either side."""
        return self._lost is not None

    @property
    def unanswered(self) -> int:
        """Commands that were sent and whose replies have not come (after a loss: never will)."""
        return self._unanswered

    async def execute(self, *command: bytes | str | int, timeout_s: float | None = None) -> Reply:
        """The reply to one command; an error reply is raised as EngineDenied, EngineUnreachable or EngineError."""
        (reply,) = await self.execute_many([command], timeout_s=timeout_s)
        if isinstance(reply, ErrorReply):
            raise self.failure(reply, f"{command[0]!s}")
        return reply

    async def execute_many(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[Reply]:
        """The replies to a pipeline in the order of its commands; an error reply is given as an ErrorReply object.

        Raises EngineUnreachable when the connection is lost or `timeout_s` passes: what was sent may have run.
        """
        return await self._execute(commands, timeout_s, raw=False)

    async def execute_raw(self, commands: Sequence[Command], *, timeout_s: float | None = None) -> list[bytes]:
        """The same, with each reply as the server sent it: for what is only compared, that costs a tenth."""
        return await self._execute(commands, timeout_s, raw=True)

    async def _execute(self, commands: Sequence[Command], timeout_s: float | None, *, raw: bool) -> list[Reply]:
        if not commands:
            return []
        packed = b"".join(map(_pack, (tuple(command) for command in commands)))
        try:
            async with asyncio.timeout(timeout_s):
                # Waiting for the peer to take what was written bounds the memory by one call for each caller.
                while not self._writable.is_set():
                    await self._writable.wait()
                return await self._send(packed, len(commands), raw=raw)
        except TimeoutError:
            raise EngineUnreachable(
                f"{self.endpoint} did not answer within {timeout_s:g} s; what was asked may still be carried out"
            ) from None

    def _send(self, packed: bytes, count: int, *, raw: bool) -> asyncio.Future[list[Reply]]:
        if self._lost is not None or self._transport is None:
            raise EngineUnreachable(f"{self.endpoint} cannot be reached: {self._lost or 'not connected'}")
        if self._unanswered and self._unanswered + count > MAX_UNANSWERED:
            raise EngineUnreachable(f"{self.endpoint} leaves {self._unanswered} commands unanswered; no more were sent")
        batch = _Batch(count, asyncio.get_running_loop().create_future(), raw)
        self._raw += raw
        self._waiting.append(batch)
        self._unanswered += count
        self._transport.write(packed)
        return batch.done

    def failure(self, error: ErrorReply, what: str) -> EngineError:
        """The error of this package for an error reply to `what`."""
        text = str(error)
        code = text.partition(" ")[0]
        if code in _DENIED:
            user = self.endpoint.user or "the default user"
            return EngineDenied(f"{self.endpoint} denies {what} to {user}: {text}")
        if code in _NOT_READY or _FULL in text:
            return EngineUnreachable(f"{self.endpoint} is not ready for {what}: {text}")
        if code == "BUSY":
            return EngineBusy(f"{self.endpoint} is busy, so it refused {what}: {text}")
        return EngineError(f"{self.endpoint} refused {what}: {text}")

    async def close(self) -> None:
        """End the connection; calls that still wait get EngineUnreachable."""
        self._lose("the connection was closed on this side")

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        # A peer that vanishes without a word is noticed even by who only listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._splitter.feed(data)
            if not self._raw:
                frames = [b"".join(frames)]
            for frame in frames:
                if self._raw and self._waiting[0].raw and frame[:1] != b">":
                    self._deliver(frame)
                else:
                    self._read(frame)
        except (hiredis.HiredisError, ProtocolError) as error:
            self._lose(f"what answers there does not speak RESP ({error})")
        except ODD_REPLY as error:
            self._lose(f"it pushed what Helios does not understand ({error!r:.100})")

    def connection_lost(self, exc: Exception | None) -> None:
        self._splitter.clear()
        self._lose(str(exc) if exc else "the server closed the connection")

    def _read(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not _INCOMPLETE:
            # A subscription is confirmed by a push, which answers the command.
            if isinstance(reply, hiredis.PushNotification) and reply[0] != b"subscribe":
                if self._on_push is not None:
                    self._on_push(reply)
            else:
                self._deliver(reply)

    def _deliver(self, reply: Reply) -> None:
        if not self._waiting:
            # Servers that are full or protected say so unasked and hang up.
            self._lose(f"it said unasked: {str(reply)[:200]}")
            return
        batch = self._waiting[0]
        batch.missing -= 1
        self._unanswered -= 1
        if not batch.done.done():
            batch.replies.append(reply)
        if batch.missing == 0:
            self._waiting.popleft()
            self._raw -= batch.raw
            if not batch.done.done():
                batch.done.set_result(batch.replies)

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        self._writable.set()
        for batch in self._waiting:
            if not batch.done.done():
                batch.done.set_exception(
                    EngineUnreachable(
                        f"{self.endpoint} was lost: {reason}; what was asked may or may not have been carried out"
                    )
                )
        self._waiting.clear()
        self._raw = 0
        if self._transport is not None:
            self._transport.abort()


async def connect(
    endpoint: Endpoint, *, on_push: Callable[[list[Reply]], None] | None = None, timeout_s: float = 2.0
) -> Connection:
    """A connection that has said HELLO 3 and logged in.

    Raises EngineUnreachable or EngineDenied, naming the member and its address, within `timeout_s`.
    """
    full: EngineUnreachable | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await _greeted(endpoint, on_push)
                except EngineUnreachable as error:
                    if _FULL not in str(error):
                        raise
                    full = error
                await asyncio.sleep(_FULL_PAUSE_S)
    except TimeoutError:
        raise full or EngineUnreachable(f"{endpoint} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise EngineUnreachable(f"{endpoint} cannot be reached: {error.strerror or error}") from error


async def _greeted(endpoint: Endpoint, on_push: Callable[[list[Reply]], None] | None) -> Connection:
    address = endpoint.address
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(endpoint, on_push),
        address.host,
        address.port,
        ssl=endpoint.tls() if address.tls else None,
    )
    try:
        await _hello(connection)
    except BaseException:
        await connection.close()
        raise
    return connection


async def _hello(connection: Connection) -> None:
    endpoint = connection.endpoint
    command: list[bytes | str | int] = ["HELLO", 3]
    if endpoint.password is not None:
        command += ["AUTH", endpoint.user or "default", endpoint.password]
    command += ["SETNAME", CLIENT_NAME]
    (reply,) = await connection.execute_many([command])
    if isinstance(reply, ErrorReply):
        raise connection.failure(reply, "a login")
    if not isinstance(reply, dict):
        raise EngineUnreachable(f"{endpoint} does not answer HELLO as a Valkey or Redis server does")
    try:
        connection.client_id = int(reply.get(b"id", 0))
    except ODD_REPLY as error:
        raise EngineUnreachable(f"{endpoint} greets with {reply.get(b'id')!r:.40} for an id") from error
