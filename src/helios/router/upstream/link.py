"""One multiplexed connection to a shard's leader: batched writes, ordered replies, and what becomes of both on loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from dataclasses import dataclass
from enum import Enum
from hashlib import md5
from typing import Any, Protocol, cast

import hiredis

from helios.errors import HeliosError, ProtocolError
from helios.model.topology import Member
from helios.ports.engine import CLIENT_NAME
from helios.resp.encoding import error_reply
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import ReplySplitter, encode_command
from helios.router._fast_path import CommandQueue, Lease
from helios.router.errors import PERHAPS_EXECUTED
from helios.router.frontend.caller import NO_TOUCH, Waiter
from helios.router.options import RouterOptions
from helios.router.stats.hot_keys import HotKeys
from helios.router.upstream.heavy import HeavyCommands

logger = logging.getLogger(__name__)
_NEVER_NS = (1 << 63) - 1
LOOKS = 4  # within the time that a server may be silent
_INFO_LINE = re.compile(rb"^(run_id|redis_version|valkey_version|server_name):([^\r\n]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The ACL user that a router is on one member."""

    user: str
    password: str


class ConnectionHost(Protocol):
    """What a link needs of the router around it."""

    hot_keys: HotKeys
    heavy: HeavyCommands
    lease: Lease

    async def credentials(self, member: Member) -> Credentials | None:
        """Who to be at the member; None for its default user. May make the user. Raises HeliosError."""

    def forget_credentials(self, member: Member) -> None:
        """The member knows this user no longer."""

    def learned(self, product: dict[bytes, bytes]) -> None:
        """What a member says of its version."""

    def slow(self, frame: bytes, waiter: Waiter, took_s: float) -> None:
        """A command has taken long."""


class ConnectionState(Enum):
    """Whether commands can be sent, wait for the connection, or fail at once."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    DOWN = "down"
    CLOSED = "closed"


class _NotLetIn(ConnectionError):
    """The server does not know this router's user, or no longer."""


class _Busy(ConnectionError):
    """The server runs a script or function and refuses everything else until that has ended."""


class _Wire(asyncio.Protocol):
    """One TCP connection. During the greeting it collects replies; then it hands them to the link."""

    def __init__(self, link: ServerConnection) -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.splitter = ReplySplitter(link.max_reply_bytes)
        self.greeting: list[bytes] | None = []
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wanted = 0
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.client_id = 0
        self.run_id = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        try:
            replies = self.splitter.feed(data)
        except ProtocolError as error:
            self.abort(str(error))
            return
        if self.greeting is not None:
            self.greeting += replies
            if len(self.greeting) >= self.wanted and not self.greeted.done():
                self.greeted.set_result(None)
            return
        reason = self.link.received(replies)
        if reason is not None:
            self.abort(reason)
        self.link.tell_watchers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.splitter.clear()
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError(str(exc or "the server closed the connection")))
            self.greeted.exception()
        if not self.lost.done():
            self.lost.set_result(None)

    async def ask(self, commands: list[list[bytes]]) -> list[Any]:
        """The decoded replies to a few commands, before the link uses the connection."""
        assert self.transport is not None
        self.greeting, self.wanted = [], len(commands)
        if not self.lost.done():
            self.greeted = asyncio.get_running_loop().create_future()
        self.transport.write(b"".join(map(encode_command, commands)))
        await self.greeted
        reader = hiredis.Reader()
        reader.feed(b"".join(self.greeting))
        return [reader.gets() for _ in commands]

    def abort(self, reason: str = "") -> None:
        """End the connection without waiting for anything; `lost` is set when it has ended."""
        if reason:
            self.link.last_fault = reason
        if self.transport is not None:
            self.transport.abort()


class ServerConnection(CommandQueue):
    """A queue of commands to one member, over one connection at a time, for clients of one RESP version.

    Every command has a sequence number: `issued` counts those taken, `answered` those whose outcome can
    change no more. A command whose connection was lost stays unanswered until that connection is known
    to be dead at the server, although its sender has been told at once. What every command passes
    through, `send` and `received`, is compiled (`_fast_path.pyx`).
    """

    def __init__(self, shard: str, member: Member, variant: int, host: ConnectionHost, options: RouterOptions) -> None:
        super().__init__(
            max_commands=options.member_commands,
            max_bytes=options.member_bytes,
            pushes=variant % 2 == 1,
            lease=host.lease,
        )
        self.shard = shard
        self.member = member
        self.variant = variant
        self.protocol = 2 + variant % 2
        self.state = ConnectionState.IDLE
        self.last_fault = "not connected yet"
        self.run = 0  # tells the server's processes apart: bits of a digest of its run id
        self._host = host
        self.configure(options)
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._nudged = asyncio.Event()
        self._orphaned: list[tuple[int, bytes, int]] = []  # client id, server's run id, commands unanswered
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    # --- commands ---

    @property
    def state(self) -> ConnectionState:
        """What becomes of commands now."""
        return self._state

    @state.setter
    def state(self, state: ConnectionState) -> None:
        self._state = state
        self.ready = state is ConnectionState.READY

    def admits(self, waiter: Waiter) -> bool:
        """Whether a command may be queued while there is no connection; answers the waiter if not."""
        if self._state is ConnectionState.IDLE:
            self._connect()
        elif self._state is not ConnectionState.CONNECTING:
            waiter.fill(self.down())
            return False
        return True

    @property
    def max_reply_bytes(self) -> int:
        """Of a reply that is passed on."""
        return self._options.reply_bytes

    def configure(self, options: RouterOptions) -> None:
        """Go by other times from now on."""
        self._options = options
        self.slow_ns = int(options.slow_s * 1e9) or _NEVER_NS

    def slow(self, raw: bytes, waiter: Waiter, took_ns: int) -> None:
        """Called where a command has taken long, before its reply is handed on."""
        self._host.slow(raw, waiter, took_ns / 1e9)

    def heavy_reply(self, raw: bytes) -> None:
        """Called where a client's command has a big reply: the next time it goes another way."""
        self._host.heavy.learn(raw)

    def schedule(self) -> None:
        """Called with the first command of a turn of the loop; all that come in that turn are written at once."""
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.scheduled = False
        if self.state is not ConnectionState.READY or not self.out:
            return
        assert self._wire is not None and self._wire.transport is not None
        if not self.lease.lasts():
            self._fail_unsent(error_reply("CLUSTERDOWN this router has lost its lease; nothing was executed"))
            return
        out, self.out = self.out, []
        self._host.hot_keys.passed(self.shard, out)
        self._wire.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._watchdog is None:
            self._watch(self.answered)

    def _watch(self, answered: int, looks: int = 0) -> None:
        """Look again soon; so often there was no answer at the last looks."""
        # In parts of the time: silence is noticed not much later than it should be, and after a stall of this very
        # process what has come meanwhile is read before the server is given up.
        self._watchdog = self._loop.call_later(self._options.member_timeout_s / LOOKS, self._look, answered, looks + 1)

    def _look(self, answered_then: int, looks: int) -> None:
        """See whether the server has answered anything since the last looks."""
        self._watchdog = None
        if len(self.waiters) == len(self.out) or self._wire is None:
            return
        if self.answered != answered_then:
            self._watch(self.answered)
        elif looks < LOOKS:
            self._watch(answered_then, looks)
        else:
            self._wire.abort(f"it answered nothing for {self._options.member_timeout_s:g} s")

    @property
    def client_id(self) -> int:
        """What the server calls the present connection; 0 while there is none."""
        return self._wire.client_id if self._wire is not None else 0

    @property
    def run_id(self) -> bytes:
        """The run of the server that the present connection is to."""
        return self._wire.run_id if self._wire is not None else b""

    # --- acknowledgement ---

    async def settled(self, mark: int) -> None:
        """Wait until the first `mark` commands can change nothing any more."""
        if self.answered < mark and self.state is not ConnectionState.CLOSED:
            future = self._loop.create_future()
            self._watchers.append((mark, future))
            await future

    def tell_watchers(self) -> None:
        """Let those go on whose commands have all been answered."""
        if not self._watchers:
            return
        waiting = []
        for mark, future in self._watchers:
            if self.answered < mark and self.state is not ConnectionState.CLOSED:
                waiting.append((mark, future))
            elif not future.done():
                future.set_result(None)
        self._watchers = waiting

    # --- errors ---

    @property
    def _place(self) -> str:
        return f"{self.shard} does not answer at {self.member.address}"

    def down(self) -> bytes:
        """The reply to a command while there is no connection."""
        return error_reply(f"CLUSTERDOWN {self._place} ({self.last_fault}); nothing was executed")

    def misunderstood(self, reply: bytes, error: Exception) -> bytes:
        """The reply to a command whose own is of a kind that it never has."""
        logger.error("a reply is not understood: server=%s reply=%r", self.member.address, reply[:100], exc_info=error)
        return error_reply(
            f"UNKNOWN {self.shard} at {self.member.address} gave a reply that is not understood ({reply[:40]!r}): "
            "the command may or may not have been executed; outcome unknown"
        )

    def overloaded(self) -> bytes:
        """The reply to a command that finds the queue full."""
        return error_reply(
            f"OVERLOADED {self.shard} at {self.member.address} has {len(self.waiters)} commands "
            f"({self.queued_bytes} bytes) unanswered; nothing was executed"
        )

    def _fail_unsent(self, reply: bytes) -> None:
        """Answer what has not been written yet; it has not happened and never will."""
        for waiter in self.take_unsent():
            waiter.fill(reply)
        self.tell_watchers()

    def _fail_sent(self) -> int:
        """Tell the senders of what was written and not answered for certain; how many the server has yet to answer."""
        reply = error_reply(
            f"UNKNOWN the connection to {self.shard} at {self.member.address} was lost "
            f"({self.last_fault}){PERHAPS_EXECUTED}"
        )
        parked, waiters = self.take_parked(), self.take_sent()
        for waiter in parked + waiters:
            waiter.fill(reply)
        return len(waiters)

    # --- the connection ---

    def _connect(self) -> None:
        self.state = ConnectionState.CONNECTING
        self._task = self._loop.create_task(self._keep_connected(), name=f"link to {self.member.id}")

    def connect(self) -> None:
        """Open the connection if nothing has been sent yet."""
        if self.state is ConnectionState.IDLE:
            self._connect()

    def retry(self) -> None:
        """Try at once where the next attempt was to come later: something has changed at the server."""
        if self.state is ConnectionState.DOWN:
            self.state = ConnectionState.CONNECTING  # what comes now waits for the attempt
            self._nudged.set()

    async def _pause(self, longest_s: float) -> None:
        self._nudged.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._nudged.wait()

    async def _keep_connected(self) -> None:
        options = self._options
        backoff = options.min_backoff_s
        while True:
            try:
                wire = await self._open()
            except (OSError, HeliosError) as error:
                self.last_fault = str(error) or type(error).__name__
                self.state = ConnectionState.DOWN
                self._fail_unsent(self.down())
                # A busy server is asked again at once: nobody should have to wait once its script has ended.
                await self._pause(options.min_backoff_s if isinstance(error, _Busy) else backoff)
                backoff = min(backoff * 2, options.max_backoff_s)
                continue
            backoff = options.min_backoff_s
            self.last_fault = "the server closed the connection"
            self.state = ConnectionState.READY
            self._flush()
            await wire.lost
            self._lost(wire)

    def _lost(self, wire: _Wire) -> None:
        """The connection has ended by itself: what was in flight may still run until it is known to be dead."""
        self._wire = None
        self.state = ConnectionState.CONNECTING
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self._fail_unsent(self.down())
        sent = self._fail_sent()
        if sent:
            self._orphaned.append((wire.client_id, wire.run_id, sent))

    async def _open(self) -> _Wire:
        """A connection that has been greeted, and behind which no former one can act any more."""
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                try:
                    wire = await self._enter()
                except _NotLetIn:
                    # The server has been started anew, and the user is made again; nobody is told of that.
                    wire = await self._enter()
        except TimeoutError:
            raise ConnectionError(f"no answer within {self._options.connect_timeout_s:g} s") from None
        wire.greeting = None
        self.run = int.from_bytes(md5(wire.run_id, usedforsecurity=False).digest()[:2], "big")
        self._wire = wire
        return wire

    async def _enter(self) -> _Wire:
        credentials = await self._host.credentials(self.member)
        address = self.member.address
        _, wire = await self._loop.create_connection(lambda: _Wire(self), address.host, address.port)
        try:
            await self._greet(wire, credentials)
        except BaseException:
            wire.abort()
            raise
        return wire

    async def _greet(self, wire: _Wire, credentials: Credentials | None) -> None:
        hello = [b"HELLO", b"%d" % self.protocol]
        if credentials is not None:
            hello += [b"AUTH", credentials.user.encode(), credentials.password.encode()]
        hello += [b"SETNAME", CLIENT_NAME.encode()]
        try:
            commands = [hello, [b"INFO", b"server"]]
            if self.variant >= NO_TOUCH:
                commands.append([b"CLIENT", b"NO-TOUCH", b"ON"])
            greeting, info, *others = await wire.ask(commands)
            self._check(greeting, info, *others)
            said = dict(_INFO_LINE.findall(info))
            fields = greeting if isinstance(greeting, dict) else dict(zip(greeting[::2], greeting[1::2], strict=True))
            wire.client_id = int(fields[b"id"])
        except (*ODD_REPLY, hiredis.HiredisError) as error:
            raise ConnectionError(f"it does not greet as a Valkey or Redis server does ({error!r:.100})") from error
        wire.run_id = said.get(b"run_id", b"")
        await self._end_orphaned(wire, credentials)
        self._host.learned(said)

    def _check(self, *replies: object) -> None:
        """Raise a ConnectionError where the server does not let this router in."""
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                if str(reply).startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
                    self._host.forget_credentials(self.member)
                    raise _NotLetIn(f"it refused the connection: {reply}")
                if str(reply).startswith("BUSY"):
                    raise _Busy(
                        "a script or function keeps it busy; SCRIPT KILL or FUNCTION KILL ends one that has not "
                        "written, and so does Helios after router.script_time_limit"
                    )
                raise ConnectionError(f"it refused the connection: {reply}")

    async def _end_orphaned(self, wire: _Wire, credentials: Credentials | None) -> None:
        """End the connections that were lost with commands unanswered; none of these runs after this returns."""
        # Another run of the server knows nothing of them, and may have given their ids to others.
        here = [client_id for client_id, run_id, _ in self._orphaned if run_id == wire.run_id]
        if here:
            user = credentials.user.encode() if credentials else b"default"
            replies = await wire.ask(
                [[b"CLIENT", b"KILL", b"ID", b"%d" % client_id, b"USER", user] for client_id in here]
            )
            for reply in replies:
                if isinstance(reply, hiredis.ReplyError):
                    raise ConnectionError(f"it does not end a former connection: {reply}")
        self.answered += sum(count for _, _, count in self._orphaned)
        self._orphaned = []
        self.tell_watchers()

    def close(self, reason: str) -> None:
        """End the connection for good; what waits for it is answered now."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self.last_fault = reason
        if self._task is not None:
            self._task.cancel()
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._wire is not None:
            self._wire.abort()
            self._wire = None
        self._fail_unsent(self.down())
        self._fail_sent()
        self.tell_watchers()
