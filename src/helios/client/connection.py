"""A blocking RESP3 connection: one socket, one parser, pipelines that cannot deadlock."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any, cast

import hiredis

from helios.client.entry import Entry, not_secured, refused
from helios.errors import HeliosError, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from ssl import SSLContext, SSLSocket

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 60.0
_CHUNK_BYTES = 256 * 1024

_NOTHING_YET = object()
_AS_ANYBODY = Entry()


def pack(*argv: bytes) -> bytes:
    """A command as it is sent."""
    packed: bytes = hiredis.pack_command(argv)  # type: ignore[arg-type]  # its stub allows one word only
    return packed


class CommandRefused(HeliosError):
    """The server answered a command with an error; the message is the server's own."""

    code = "ERR"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]

    @property
    def sentence(self) -> str:
        """The message for people: what it says first, its code for programs last."""
        code, _, words = str(self).partition(" ")
        return f"{words} ({code})" if words and code.isupper() else str(self)


class RespClient:
    """Talks to any node of Helios, or to a plain server, as one client.

    Raises Unavailable where nobody can be reached before anything was sent, OutcomeUnknown where the
    connection breaks or stays silent for `reply_timeout_s` after that. Either leaves it unusable.
    """

    def __init__(
        self, host: str, port: int, reply_timeout_s: float = REPLY_TIMEOUT_S, entry: Entry = _AS_ANYBODY
    ) -> None:
        self._reply_timeout_s = reply_timeout_s
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._reader = hiredis.Reader(notEnoughData=_NOTHING_YET)
        context = entry.context()
        self._again: tuple[type[OSError], ...] = (BlockingIOError,)
        try:
            self._socket = socket.create_connection((host.strip("[]"), port), timeout=CONNECT_TIMEOUT_S)
        except (OSError, UnicodeError) as error:
            raise Unavailable(
                f"cannot connect to {self.address} ({getattr(error, 'strerror', None) or error}); is it running? "
                "`helios up` starts a cluster, --host and --port name another one"
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._secure(context, host.strip("[]"))
        self._socket.setblocking(False)
        self._hello_awaited = True
        self.send(pack(*entry.greeting()))

    def _secure(self, context: SSLContext, host: str) -> None:
        """Speak TLS from here on; raises Unavailable."""
        import ssl

        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=host)
        except OSError as error:
            self._socket.close()
            raise not_secured(self.address, error) from error
        self._again = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def __enter__(self) -> RespClient:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def idle(self) -> bool:
        """Whether it is open and silent, as it must be between commands."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return self._hello_awaited or not poll.poll(0)

    def call(self, *argv: bytes, timeout_s: float | None = None) -> Any:
        """The reply to one command; raises CommandRefused where it is an error.

        `timeout_s` is for this command alone, `reply_timeout_s` where it is not given.
        """
        usual_s = self._reply_timeout_s
        self._reply_timeout_s = timeout_s or usual_s
        try:
            self.send(pack(*argv))
            reply = self.read()
        finally:
            self._reply_timeout_s = usual_s
        if isinstance(reply, hiredis.ReplyError):
            raise CommandRefused(str(reply))
        return reply

    def send(self, data: bytes) -> None:
        """Send commands, receiving meanwhile, so that a server that waits for its replies to be read goes on."""
        view = memoryview(data)
        while view:
            readable, writable = self._wait(write=True)
            if readable:
                self._receive()
            if writable:
                try:
                    view = view[self._socket.send(view[:_CHUNK_BYTES]) :]
                except self._again:
                    continue
                except OSError as error:
                    raise self._broken(str(error)) from error

    def read(self) -> Any:
        """The next reply of those that are due; an error reply is returned as hiredis.ReplyError."""
        if self._hello_awaited:
            greeting = self._next()
            self._hello_awaited = False
            if isinstance(greeting, hiredis.ReplyError):
                raise refused(self.address, str(greeting))
        return self._next()

    def _next(self) -> Any:
        while True:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError as error:
                raise Unavailable(f"{self.address} does not speak RESP: {error}") from error
            if reply is not _NOTHING_YET:
                return reply
            if not self._wait(write=False)[0]:
                continue
            self._receive()

    def _wait(self, *, write: bool) -> tuple[bool, bool]:
        """Whether the socket can be read and written, after waiting for either."""
        # What TLS has decrypted already does not show in the socket.
        if len(self._again) > 1 and cast("SSLSocket", self._socket).pending():
            return True, False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if write else 0))
        ready = poll.poll(self._reply_timeout_s * 1000)
        if not ready:
            raise self._broken(f"nothing came in {self._reply_timeout_s:g} s")
        flags = ready[0][1]
        # Errors and hang-ups show in the next receive.
        return bool(flags & ~select.POLLOUT), bool(flags & select.POLLOUT)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK_BYTES)
        except self._again:
            return
        except OSError as error:
            raise self._broken(str(error)) from error
        if not data:
            hint = ", before its first answer: does it speak TLS, or ask for a certificate?" * self._hello_awaited
            raise self._broken(f"closed by the server{hint}")
        self._reader.feed(data)

    def _broken(self, why: str) -> OutcomeUnknown:
        return broken(self.address, why)


def broken(address: str, why: str) -> OutcomeUnknown:
    """What is to be said of commands that were sent over a connection which is lost."""
    return OutcomeUnknown(
        f"the connection to {address} broke ({why}): what was not answered may or may not have been carried out"
    )
