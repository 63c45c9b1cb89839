"""One connection to a shard's leader that listens: its server speaks unasked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from helios.errors import HeliosError
from helios.model.topology import Member
from helios.resp.wire import encode_command
from helios.router.options import RouterOptions
from helios.router.upstream.connection import Identities, Wire, open_wire
from helios.router.upstream.state import ConnectionState

_PING = encode_command([b"PING"])


class ListeningLink:
    """Keeps a connection to one server; a lost one is opened again. What the server says meanwhile is lost."""

    def __init__(
        self, shard: str, member: Member, identities: Identities, options: RouterOptions, purpose: str
    ) -> None:
        self.shard = shard
        self.member = member
        self.state = ConnectionState.CONNECTING
        self.last_fault = "not connected yet"
        self._identities = identities
        self._options = options
        self._wire: Wire | None = None
        self._pings: deque[Callable[[], None]] = deque()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._keep_connected(), name=f"{purpose} at {member.id}")

    @property
    def away(self) -> bool:
        """Whether the server is known not to answer."""
        return self.state in (ConnectionState.DOWN, ConnectionState.CLOSED)

    def read_to_here(self, then: Callable[[], None]) -> None:
        """Call `then` when everything that the server has sent until now has been read, or nothing more can come."""
        if self.state is ConnectionState.READY:
            self._pings.append(then)
            self._write(_PING)
        else:
            then()

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts from now on."""
        self._options = options

    def close(self, reason: str) -> None:
        """End the connection for good."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self.last_fault = reason
        self._task.cancel()
        if self._wire is not None:
            self._wire.abort(reason)
        self._forget()

    def retire(self, reason: str) -> None:
        """End the connection when it has been read to the end."""
        self.read_to_here(lambda: self.close(reason))

    # --- for its kinds ---

    async def _open(self) -> Wire:
        """A connection that has been greeted. Raises OSError or HeliosError."""
        return await open_wire(self.member, self._identities, self._options)

    async def _begin(self, wire: Wire) -> None:
        """Called when there is a connection."""

    def _lost(self) -> None:
        """Called when nothing more comes on the connection that was."""

    def _failed(self) -> None:
        """Called when there is none, and the next attempt comes later."""

    def _pushed(self, frame: bytes) -> None:
        """Called with each message."""

    def _write(self, data: bytes) -> None:
        assert self._wire is not None and self._wire.transport is not None
        self._wire.transport.write(data)

    # --- the connection ---

    async def _keep_connected(self) -> None:
        backoff = self._options.min_backoff_s
        while True:
            try:
                wire = await self._open()
                wire.receive = self._received
            except (OSError, HeliosError) as error:
                self.last_fault = str(error) or type(error).__name__
                self.state = ConnectionState.DOWN
                self._failed()
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, self._options.max_backoff_s)
                continue
            backoff = self._options.min_backoff_s
            self._wire = wire
            self.state = ConnectionState.READY
            try:
                await self._begin(wire)
                self.last_fault = await self._until_lost(wire)
            finally:
                wire.abort("it is not needed any more")
            self.state = ConnectionState.CONNECTING
            self._forget()

    async def _until_lost(self, wire: Wire) -> str:
        """Why the connection has ended; it is asked now and then whether it still answers."""
        while not wire.lost.done():
            timeout_s = self._options.member_timeout_s
            answered = asyncio.Event()
            self.read_to_here(answered.set)
            await asyncio.wait((wire.lost,), timeout=timeout_s)
            if not answered.is_set():
                wire.abort(wire.silence(timeout_s, None))
        return wire.lost.result()

    def _forget(self) -> None:
        """Nothing more comes on the connection that was."""
        self._wire = None
        pings, self._pings = self._pings, deque()
        for then in pings:
            then()
        self._lost()

    def _received(self, frames: list[bytes]) -> str | None:
        """Tell everybody what concerns them; why the connection is to be ended, None where it is not."""
        for frame in frames:
            if frame[:1] == b">":
                self._pushed(frame)
            elif frame[:1] != b"-" and self._pings:
                self._pings.popleft()()
            else:
                return f"it said {frame[:100].decode('utf-8', 'replace').strip()}"
        return None


def bulk_of(element: bytes) -> bytes:
    """A bulk string's content; anything else as it came."""
    return element[element.index(b"\n") + 1 : -2] if element[:1] == b"$" else element
