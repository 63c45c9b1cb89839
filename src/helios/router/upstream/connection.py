"""One greeted connection to a data server: for commands of all clients or of one, for messages, or for a question."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, cast

import hiredis

from helios.errors import HeliosError, ProtocolError
from helios.model.topology import Member
from helios.ports.engine import CLIENT_NAME, UserRole
from helios.resp.encoding import error_reply
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import ReplySplitter, encode_command
from helios.router._fast_path import LATE, Lease
from helios.router.errors import silence
from helios.router.options import RouterOptions
from helios.router.upstream.heavy import HEAVY_BYTES

_AT_ONCE = struct.pack("ii", 1, 0)
_READ_AT_ONCE = 128 * 1024  # bytes: the event loop itself goes on for as long as there is something to read
_INFO_LINE = re.compile(rb"^(run_id|redis_version|valkey_version|server_name):([^\r\n]*)", re.MULTILINE)
_ROLE = re.compile(rb"^role:(\w+)", re.MULTILINE)
_HISTORY = re.compile(rb"^master_replid:(\w+)", re.MULTILINE)
_NOT_LET_IN = ("WRONGPASS", "NOAUTH", "NOPERM")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The ACL user that a router is on one member."""

    user: str
    password: str


class Identities(Protocol):
    """Who knows as whom to come, and for how long."""

    @property
    def lease(self) -> Lease:
        """Until when what a server says may be believed."""

    async def credentials(self, member: Member, role: UserRole) -> Credentials | None:
        """Who to be at the member in that role; None for its default user. May make the user. Raises HeliosError."""

    def forget_credentials(self, member: Member) -> None:
        """The member knows the session's users no longer."""

    def socket(self, member: Member, /) -> str | None:
        """Where the member listens on this very host, as a path; None where it does not, or nobody knows."""


class _NotLetIn(ConnectionError):
    """The server does not know this router's user, or no longer."""


class Busy(ConnectionError):
    """The server runs a script or function and refuses everything else until that has ended."""


def _ignored(_frames: list[bytes]) -> str | None:
    return None


def _unheeded() -> None:
    pass


class Wire(asyncio.Protocol):
    """One connection. `receive` is called with the frames that come, as they came, while the lease lasts.

    What `receive` returns, but for None, is why the connection is to be ended. `big_reply` is called now and then while
    a big one flows.
    """

    def __init__(self, lease: Lease, max_reply_bytes: int) -> None:
        self.receive: Callable[[list[bytes]], str | None] = _ignored
        self.big_reply: Callable[[], None] = _unheeded
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why it has ended
        self.client_id = 0  # what the server calls it
        self.user = "default"  # whom the server takes it for
        self.run_id = b""  # the run of the server, where it was asked
        self._lease = lease
        self._splitter = ReplySplitter(max_reply_bytes)
        self._read_bytes = 0  # since it last rested

    @property
    def kept_bytes(self) -> int:
        """How much has come of a reply that is not complete; little where it is too big to be kept."""
        return self._splitter.buffered

    def silence(self, lasted_s: float, oldest: bytes | None) -> str:
        """What is wrong with the server if it ends no reply for so long, while that command waits for its own."""
        begun, endless = self._splitter.buffered > 0, self._splitter.drops
        return silence(lasted_s, oldest, begun=begun, endless=endless)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server has taken the connection."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        """The server has sent something."""
        if not self._lease.lasts():
            self.abort(LATE)
            return
        try:
            reason = self.receive(self._splitter.feed(data))
        except ODD_REPLY as error:
            known = isinstance(error, ProtocolError)
            reason = str(error) if known else f"its reply is not understood ({error!r:.100})"
        if reason is not None:
            self.abort(reason)
            return
        self._read_bytes += len(data)
        if self._read_bytes >= _READ_AT_ONCE:
            self._rest()
            if self.kept_bytes >= HEAVY_BYTES:
                self.big_reply()

    def _rest(self) -> None:
        """Read nothing more in this turn of the loop: the others would wait for as long as a big reply flows."""
        self._read_bytes = 0
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._splitter.clear()
        self.abort(str(exc or "the server closed the connection"))

    def abort(self, reason: str) -> None:
        """End the connection without waiting for anything. What the server has not got yet does not reach it later."""
        self.receive, self.big_reply = _ignored, _unheeded
        if not self.lost.done():
            self.lost.set_result(reason)
        if self.transport is not None:
            opened = self.transport.get_extra_info("socket")
            if opened is not None and not self.transport.is_closing():
                # Else the system would go on sending for a minute or two, when a cut network has healed, too.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

    async def ask(self, *commands: Sequence[bytes]) -> list[bytes]:
        """The frames that follow some commands, as they came, before `receive` takes them. Raises ConnectionError."""
        frames: list[bytes] = []
        answered = asyncio.get_running_loop().create_future()

        def take(came: list[bytes]) -> str | None:
            frames.extend(came)
            if len(frames) >= len(commands) and not answered.done():
                answered.set_result(None)
            return None

        if not self.lost.done():
            self.receive = take
            assert self.transport is not None
            self.transport.write(b"".join(map(encode_command, commands)))
        await asyncio.wait((answered, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise ConnectionError(self.lost.result())
        return frames[: len(commands)]

    async def end_others(self, client_ids: Sequence[int]) -> None:
        """End other connections of the same user; nothing of them runs any more. Raises ConnectionError."""
        user = self.user.encode()
        kills = [[b"CLIENT", b"KILL", b"ID", b"%d" % client_id, b"USER", user] for client_id in client_ids]
        for reply in decoded(await self.ask(*kills)):
            if isinstance(reply, hiredis.ReplyError):
                raise ConnectionError(f"it does not end a former connection: {reply}")


@asynccontextmanager
async def in_time(options: RouterOptions) -> AsyncGenerator[asyncio.Timeout, None]:
    """Raise a ConnectionError where what is inside takes longer than a connection may; what is given can prolong it."""
    began_s = asyncio.get_running_loop().time()
    limit = asyncio.timeout(options.connect_timeout_s)
    try:
        async with limit:
            yield limit
    except TimeoutError:
        allowed_s = (limit.when() or began_s) - began_s
        raise ConnectionError(f"no answer within {allowed_s:.3g} s") from None


async def greeted(
    member: Member,
    identities: Identities,
    options: RouterOptions,
    protocol: int,
    *commands: Sequence[bytes],
    role: UserRole = UserRole.ROUTER,
) -> tuple[Wire, list[Any]]:
    """A connection that has been greeted, and the decoded replies to commands that go with the greeting.

    Raises OSError or HeliosError.
    """
    try:
        return await _enter(member, identities, options, protocol, commands, role, identities.socket(member))
    except _NotLetIn:
        # The server has been restarted, and the user is made again; nobody is told of that. Or another server
        # listens at the socket: the address is the member's beyond doubt.
        return await _enter(member, identities, options, protocol, commands, role, None)


async def _enter(
    member: Member,
    identities: Identities,
    options: RouterOptions,
    protocol: int,
    commands: Sequence[Sequence[bytes]],
    role: UserRole,
    path: str | None,
) -> tuple[Wire, list[Any]]:
    credentials = await identities.credentials(member, role)
    hello = [b"HELLO", b"%d" % protocol]
    if credentials is not None:
        hello += [b"AUTH", credentials.user.encode(), credentials.password.encode()]
    hello += [b"SETNAME", CLIENT_NAME.encode()]
    # Only a user that was made at the member's address proves that the socket leads to the same server.
    wire = await _connected(
        member,
        None if credentials is None else path,
        options,
        lambda: Wire(identities.lease, options.reply_bytes),
    )
    try:
        greeting, *replies = decoded(await wire.ask(hello, *commands))
        for reply in (greeting, *replies):
            _check(reply, member, identities)
        fields = greeting if isinstance(greeting, dict) else dict(zip(greeting[::2], greeting[1::2], strict=True))
        wire.client_id = int(fields[b"id"])
    except (*ODD_REPLY, hiredis.HiredisError) as error:
        wire.abort("it could not be used")
        raise ConnectionError(f"it does not greet as a Valkey or Redis server does ({error!r:.100})") from error
    except BaseException:
        wire.abort("it could not be used")
        raise
    if credentials is not None:
        wire.user = credentials.user
    return wire, replies


async def _connected(member: Member, path: str | None, options: RouterOptions, made: Callable[[], Wire]) -> Wire:
    loop, address = asyncio.get_running_loop(), member.address
    if path is not None:
        with suppress(OSError):  # one that a server has left behind, say
            return (await loop.create_unix_connection(made, path))[1]
    tls = options.server_tls() if address.tls else None
    return (await loop.create_connection(made, address.host, address.port, ssl=tls))[1]


def decoded(frames: Sequence[bytes]) -> list[Any]:
    """What the frames say. Raises HiredisError for what is no frame."""
    reader = hiredis.Reader()
    reader.feed(b"".join(frames))
    return [reader.gets() for _ in frames]


def named(info: object) -> dict[bytes, bytes]:
    """What INFO says of the server and this run of it."""
    if not isinstance(info, bytes):
        raise ConnectionError(f"it does not greet as a Valkey or Redis server does ({info!r:.100})")
    return dict(_INFO_LINE.findall(info))


def history_led(info: object) -> str:
    """The replication id under which a server leads, by its INFO replication; empty where it follows another."""
    if not isinstance(info, bytes):
        return ""
    role, history = _ROLE.search(info), _HISTORY.search(info)
    return history[1].decode() if role is not None and role[1] == b"master" and history is not None else ""


def check_leads(info: object, history: str) -> None:
    """Raise a ConnectionError where a server leads under another replication id ("": any will do), or not at all."""
    if history and history_led(info) != history:
        raise ConnectionError("it does not lead the shard: it was restarted, or follows another member")


def _check(reply: object, member: Member, identities: Identities) -> None:
    """Raise a ConnectionError where the server does not let this router in."""
    if not isinstance(reply, hiredis.ReplyError):
        return
    said = str(reply)
    if said.startswith(_NOT_LET_IN):
        identities.forget_credentials(member)
        raise _NotLetIn(f"it refused the connection: {said}")
    if said.startswith("BUSY"):
        raise Busy(
            "a script or function keeps it busy; SCRIPT KILL or FUNCTION KILL ends one that has not "
            "written, and so does Helios after router.script_time_limit"
        )
    raise ConnectionError(f"it refused the connection: {said}")


async def open_wire(member: Member, identities: Identities, options: RouterOptions, protocol: int = 3) -> Wire:
    """A connection that has been greeted, which a server that runs a long script allows, too.

    Raises OSError or HeliosError.
    """
    async with in_time(options):
        wire, _ = await greeted(member, identities, options, protocol)
    return wire


async def ask_aside(
    member: Member, identities: Identities, options: RouterOptions, argv: Sequence[bytes], protocol: int = 2
) -> bytes:
    """The raw reply to one command on a connection of its own, past whatever the others wait for; an error if none."""
    try:
        wire = await open_wire(member, identities, options, protocol)
        try:
            async with asyncio.timeout(options.member_timeout_s):
                (reply,) = await wire.ask(argv)
                return reply
        finally:
            wire.abort("it has been used")
    except (OSError, HeliosError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        return error_reply(f"CLUSTERDOWN {member.node} does not answer at {member.address} ({reason})")
