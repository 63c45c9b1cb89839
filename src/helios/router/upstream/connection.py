"""A connection to a data server for one purpose, beside those that carry clients' commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from helios.errors import HeliosError, ProtocolError
from helios.model.topology import Member
from helios.ports.engine import CLIENT_NAME
from helios.resp.encoding import error_reply
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import ReplySplitter, encode_command
from helios.router._fast_path import LATE, Lease
from helios.router.options import RouterOptions
from helios.router.upstream.link import Credentials


class Identities(Protocol):
    """Who knows as whom to come, and for how long."""

    @property
    def lease(self) -> Lease:
        """Until when what a server says may be believed."""

    async def credentials(self, member: Member) -> Credentials | None:
        """Who to be at the member; None for its default user. Raises HeliosError."""

    def forget_credentials(self, member: Member) -> None:
        """The member knows this user no longer."""


class Wire(asyncio.Protocol):
    """One TCP connection; `receive` is called with the frames that come, as they came, while the lease lasts."""

    def __init__(self, receive: Callable[[list[bytes]], None], lease: Lease, max_reply_bytes: int) -> None:
        self.receive = receive
        self._lease = lease
        self._splitter = ReplySplitter(max_reply_bytes)
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server has taken the connection."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        """The server has sent something."""
        if not self._lease.lasts():
            self.abort(LATE)
            return
        try:
            self.receive(self._splitter.feed(data))
        except ODD_REPLY as error:
            self.abort(
                str(error) if isinstance(error, ProtocolError) else f"its reply is not understood ({error!r:.100})"
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._splitter.clear()
        self.abort(str(exc or "the server closed the connection"))

    def abort(self, reason: str) -> None:
        """End the connection without waiting for anything."""
        if not self.lost.done():
            self.lost.set_result(reason)
        if self.transport is not None:
            self.transport.abort()

    async def ask(self, argv: Sequence[bytes]) -> bytes:
        """The next frame after a command, as it came. Raises ConnectionError."""
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def take(frames: list[bytes]) -> None:
            if frames and not reply.done():
                reply.set_result(frames[0])

        self.receive = take
        assert self.transport is not None
        self.transport.write(encode_command(argv))
        await asyncio.wait((reply, self.lost), return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            raise ConnectionError(self.lost.result())
        return reply.result()


async def open_wire(member: Member, identities: Identities, options: RouterOptions, protocol: int = 3) -> Wire:
    """A connection that has been greeted, which a server that runs a long script allows, too.

    Raises OSError or HeliosError.
    """
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            credentials = await identities.credentials(member)
            hello = [b"HELLO", b"%d" % protocol]
            if credentials is not None:
                hello += [b"AUTH", credentials.user.encode(), credentials.password.encode()]
            hello += [b"SETNAME", CLIENT_NAME.encode()]
            address = member.address
            loop = asyncio.get_running_loop()

            def made() -> Wire:
                return Wire(lambda frames: None, identities.lease, options.reply_bytes)

            _, wire = await loop.create_connection(made, address.host, address.port)
            try:
                _check(await wire.ask(hello), member, identities)
            except BaseException:
                wire.abort("it could not be used")
                raise
    except TimeoutError:
        raise ConnectionError(f"no answer within {options.connect_timeout_s:g} s") from None
    return wire


def _check(greeting: bytes, member: Member, identities: Identities) -> None:
    if greeting[:1] == b"-":
        said = greeting[1:-2].decode("utf-8", "replace")
        if said.startswith(("WRONGPASS", "NOAUTH", "NOPERM")):
            identities.forget_credentials(member)
        raise ConnectionError(f"it refused the connection: {said}")


async def ask_aside(
    member: Member, identities: Identities, options: RouterOptions, argv: Sequence[bytes], protocol: int = 2
) -> bytes:
    """The raw reply to one command on a connection of its own, past whatever the others wait for; an error if none."""
    try:
        wire = await open_wire(member, identities, options, protocol)
        try:
            async with asyncio.timeout(options.member_timeout_s):
                return await wire.ask(argv)
        finally:
            wire.abort("it has been used")
    except (OSError, HeliosError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        return error_reply(f"CLUSTERDOWN {member.node} does not answer at {member.address} ({reason})")
