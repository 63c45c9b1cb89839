"""The RESP server: one protocol object for each client's connection."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

from helios.access.authenticator import Identity
from helios.access.rights import Nobody
from helios.errors import ProtocolError
from helios.resp.encoding import error_reply
from helios.resp.wire import Limits, RequestParser
from helios.router._fast_path import FastPath
from helios.router.frontend.caller import (
    ANSWERING,
    CLOSED,
    Caller,
    Dispatch,
    Holder,
    LastSlot,
    Outbox,
    Push,
)
from helios.router.frontend.limits import SLOW_READER, ClientLimits, keep_alive
from helios.router.options import RouterOptions

_WRITE_BUFFER_BYTES = 1024 * 1024
_WRITTEN_AT_ONCE = 128 * 1024
_BEFORE_LOGIN = Limits(arguments=16, bulk_bytes=16 * 1024, frame_bytes=64 * 1024)
# A client whose command waits at a server is read on, so that its leaving is noticed, up to so many bytes.
_READ_AHEAD_BYTES = 64 * 1024


class Clients(Protocol):
    """Who keeps the list of connections."""

    options: RouterOptions
    limits: ClientLimits[ClientConnection]

    def admit(self, client: ClientConnection) -> str | None:
        """Enter a connection; or say why it cannot be."""

    def leave(self, client: ClientConnection) -> None:
        """A connection has ended."""


class ClientConnection(Caller, asyncio.Protocol):
    """A client. It is not read while it must wait, so what it sends meanwhile stays in the network."""

    def __init__(
        self, clients: Clients, dispatch: Dispatch, outbox: Outbox, holder: Holder, fast_path: FastPath
    ) -> None:
        options = clients.options
        self._limits = options.limits
        super().__init__(dispatch, outbox, holder, RequestParser(options.limits), fast_path)
        self.max_commands = options.client_commands
        self.max_owed = options.client_bytes
        self._clients = clients
        self._reading = True
        self._leaving = False  # it is let go; else, when `ending`, it has itself said all that it will
        self.local_address = ""
        self.since = 0.0
        self.encrypted = False
        self.connected_ns = self.arrived_ns
        self.failed_logins = 0
        self.counted_as = ""  # the user among whose connections it counts
        self.reserved = False  # it has one of the last places, which are for administrators
        self._trail: deque[memoryview] = deque()
        self._trail_bytes = 0
        self.aborted = False  # nothing more is sent to it, though the connection may not be gone yet
        self.spared = False  # by CLIENT NO-EVICT: others are let go before it
        self.moving_endpoint = b""  # by CLIENT MAINT_NOTIFICATIONS: how it wants to be told of another node, if at all

    def become(self, identity: Identity) -> None:
        """Give commands as this user; who has not logged in has no need of big ones."""
        super().become(identity)
        if self.parser is not None:
            self.parser.bound(_BEFORE_LOGIN if isinstance(identity.rights, Nobody) else self._limits)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class
        self.transport = transport
        self.encrypted = transport.get_extra_info("ssl_object") is not None
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        keep_alive(transport, self._clients.options.keepalive_s)
        self.address = _shown(transport.get_extra_info("peername"))
        self.local_address = _shown(transport.get_extra_info("sockname"))
        refusal = self._clients.admit(self)
        if refusal is not None:
            transport.write(error_reply(refusal))
            self.stops |= CLOSED
            transport.close()

    def eof_received(self) -> bool:
        """The client sends nothing more; what it has sent is answered all the same, which TLS does not allow for."""
        self.ending = True
        if self.call is not None:
            self.abort()  # What its command waits for would come for nobody.
        elif not self.stops:
            self._end_when_answered()
        return not self.encrypted

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone; replies that still come for it are dropped."""
        self.stops |= CLOSED
        self.waiting = []
        self.replies.clear()
        self._trail.clear()
        self.holder.forget(self)
        self.let_go()
        self._clients.leave(self)

    def pause_writing(self) -> None:
        """The client does not read its replies: they are kept for it, and counted, until it does.

        Its commands go on meanwhile: many clients write a whole pipeline before they read the first reply.
        """
        self.behind = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self.behind = False
        if self.trailing:
            self._write_on()

    def write_bit_by_bit(self, pieces: list[bytes]) -> None:
        """Write big replies so that other clients need not wait for the time that all of their bytes take."""
        self._trail.extend(map(memoryview, pieces))
        self._trail_bytes += sum(map(len, pieces))
        if not self.trailing:
            self.trailing = True
            self._write_on()

    def _write_on(self) -> None:
        """Write as much as may be in one turn of the loop."""
        left = _WRITTEN_AT_ONCE
        if self.transport is None or self.transport.is_closing():
            self._trail.clear()
        while self._trail and left > 0 and not self.behind:
            assert self.transport is not None
            piece = self._trail.popleft()
            if len(piece) > left:
                self._trail.appendleft(piece[left:])
                piece = piece[:left]
            self._trail_bytes -= len(piece)
            left -= len(piece)
            self.transport.write(piece)
        if not self._trail:
            self.trailing = False
            self._trail_bytes = 0
            if self.ending:
                self.flushed()
        elif not self.behind:
            asyncio.get_running_loop().call_soon(self._write_on)

    def broken(self, error: ProtocolError) -> None:
        """It broke the protocol: it is told so and let go."""
        self.answer(error_reply(f"ERR {error}"))
        self.close_after_replies()

    def push(self, frame: bytes) -> None:
        """Send what no command asked for: behind everything answered so far, but not behind a command that blocks."""
        if self.stops & CLOSED or self.transport is None:
            return
        if self.stops & ANSWERING and len(self.replies) == 1 and type(self.last_slot()) is LastSlot:
            if self.trailing:
                self.write_bit_by_bit([frame])
            else:
                self.transport.write(frame)
            self.unread()
            return
        self._push_behind(frame)

    def push_in_turn(self, frame: bytes) -> None:
        """Send what no command asked for: behind the reply to everything that it has sent, but for what waits."""
        if self.call is not None:
            self.push(frame)  # what its command waits for may never come
        elif not self.stops & CLOSED and self.transport is not None:
            self._push_behind(frame)

    def _push_behind(self, frame: bytes) -> None:
        slot = Push(self)
        self.replies.append(slot)
        slot.fill(frame)

    @property
    def host(self) -> str:
        """The address that it calls from, without the port."""
        return self.address.rpartition(":")[0]

    @property
    def nameless(self) -> bool:
        """Whether it must log in and has not."""
        return isinstance(self.rights, Nobody)

    @property
    def last_command(self) -> str:
        """The name of the command that came last, as it may be shown."""
        return self.last_word[:40].decode("ascii", "replace").lower()

    @property
    def unread_bytes(self) -> int:
        """What it is owed: replies on their way to it, and those that wait for an earlier one."""
        return self.owed + self._trail_bytes + (0 if self.transport is None else self.transport.get_write_buffer_size())

    @property
    def received_bytes(self) -> int:
        """What it has sent and is not yet a command."""
        return 0 if self.parser is None else self.parser.buffered

    @property
    def held_bytes(self) -> int:
        """What it is owed, and what it has sent and is not carried out."""
        queued = (0 if self.transaction is None else self.transaction.size) + (
            0 if self.watch is None else self.watch.size
        )
        waiting = sum(len(raw) for raw, _ in self.waiting)
        return self.unread_bytes + self.received_bytes + queued + waiting

    @property
    def idle(self) -> bool:
        """Whether it has sent nothing that is to be answered."""
        return not self.replies and not self.waiting and not self.stops

    @property
    def amid_command(self) -> bool:
        """Whether the end of a command is missing, or it has never sent a whole one."""
        begun = self.parser is not None and self.parser.buffered > 0
        return self.idle and (begun or not self.last_word)

    def read_on(self) -> None:
        """Read again what it sends."""
        if not self._reading and self.transport is not None:
            self._reading = True
            self.transport.resume_reading()

    def unread(self) -> None:
        """See whether it is owed more than may be."""
        if self.unread_bytes > self.max_owed:
            self.overflow()

    def flushed(self) -> None:
        """End the connection where nothing more can come and everything has been answered."""
        if self._leaving or not self.stops:
            self._end_when_answered()

    def stalled(self) -> None:
        """Read nothing more until it goes on."""
        if self.call is not None and self.parser is not None and self.parser.buffered < _READ_AHEAD_BYTES:
            self.read_on()
        elif self._reading and self.transport is not None and not self.stops & CLOSED:
            self._reading = False
            self.transport.pause_reading()

    def overflow(self) -> None:
        """It has not read its replies for so long that they cannot be kept."""
        if not self.stops & CLOSED:
            self._clients.limits.end(self, SLOW_READER)

    def abort(self) -> None:
        """End the connection at once; unsent replies are dropped."""
        self.stops |= CLOSED
        self.aborted = True
        if self.transport is not None:
            self.transport.abort()

    def close_after_replies(self) -> None:
        """Run no further command, and end the connection when the replies have been written."""
        self.stops |= CLOSED
        self.ending = self._leaving = True
        self.waiting = []
        self.holder.forget(self)
        if not self.dirty:
            self.outbox.mark(self)

    def _end_when_answered(self) -> None:
        if not self.replies and not self.waiting and not self.trailing and self.transport is not None:
            self.transport.close()


def _shown(address: object) -> str:
    """An address as the servers show it; a path or nothing for other kinds of sockets."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return str(address or "")
