"""Clients that are let go: idle, stuck in the middle of a command, or owed more than there is room for."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

from helios.resp.encoding import error_reply
from helios.router.options import RouterOptions

logger = logging.getLogger(__name__)
_LOOK_S = 0.25
_CLIENTS_A_SECOND = 20_000  # looked at, at most: so many cost a few thousandths of a processor
_FULLEST = 0.9  # to what part of the limit the clients' memory is brought down
_GIVEN_BACK_BYTES = 128 << 20  # below that, what has become free is kept: it is soon used again

IDLE = "idle"
STUCK = "command_timeout"
SLOW_READER = "client_memory"
MEMORY = "clients_memory"
NO_LOGIN = "login_timeout"
_LOGIN_PATIENCE = 3  # so many times the limit, where the last attempt is still being checked
MAX_CLIENTS = "max_clients"
MAX_CLIENTS_REACHED = "ERR max number of clients reached"
STOPPING = "stopping"


class LimitedClient(Protocol):
    """A client as its limits see it."""

    address: str
    arrived_ns: int
    aborted: bool
    spared: bool
    connected_ns: int

    @property
    def nameless(self) -> bool:
        """Whether it must log in and has not."""

    @property
    def held_bytes(self) -> int:
        """What it is owed, and what it has sent and is not carried out."""

    @property
    def idle(self) -> bool:
        """Whether it has sent nothing that is to be answered."""

    @property
    def amid_command(self) -> bool:
        """Whether the end of a command is missing, or it has never sent a whole one."""

    def answer(self, reply: bytes) -> None:
        """Answer the command that is being run, at once."""

    def close_after_replies(self) -> None:
        """Run no further command, and end the connection when everything has been answered."""

    def abort(self) -> None:
        """End the connection at once."""


C = TypeVar("C", bound=LimitedClient)


class ClientLimits(Generic[C]):
    """Looks at all clients several times a second and ends those that are over a limit; counts those by reason."""

    def __init__(
        self,
        clients: Mapping[int, C],
        options: RouterOptions,
        subscribed: Callable[[C], int],
    ) -> None:
        self._clients = clients
        self._subscribed = subscribed  # what a client's subscriptions take; with any it need not send anything
        self.options = options
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.held_bytes = 0  # by all clients, at the last look
        self._most_bytes = 0  # since memory was last given back

    @property
    def pause_s(self) -> float:
        """How long to wait before the next look."""
        return max(_LOOK_S, len(self._clients) / _CLIENTS_A_SECOND)

    def look(self) -> None:
        """End the clients that are over a limit now."""
        options, now_ns = self.options, time.monotonic_ns()
        sizes: list[tuple[int, C]] = []
        self.held_bytes = 0
        for client in list(self._clients.values()):
            if client.aborted:
                continue  # What it was owed is given up once its connection is gone.
            subscribed = self._subscribed(client)
            size = client.held_bytes + subscribed
            self.held_bytes += size
            if size > options.client_bytes:
                self.end(client, SLOW_READER)
                continue
            if size:
                sizes.append((size, client))
            if client.nameless and self._is_late(client, (now_ns - client.connected_ns) / 1e9):
                continue
            silent_s = (now_ns - client.arrived_ns) / 1e9
            if options.command_timeout_s and silent_s > options.command_timeout_s and client.amid_command:
                self.end(client, STUCK, f"nothing more of a command has come for {options.command_timeout_s:g} s")
            elif options.idle_timeout_s and silent_s > options.idle_timeout_s and client.idle and not subscribed:
                self.end(client, IDLE)
        if self.held_bytes > options.clients_bytes:
            self._make_room(sizes)
        self._most_bytes = max(self._most_bytes, self.held_bytes)
        if self._most_bytes - self.held_bytes > _GIVEN_BACK_BYTES:
            self._most_bytes = self.held_bytes
            asyncio.get_running_loop().run_in_executor(None, give_back)

    def _is_late(self, client: C, nameless_s: float) -> bool:
        """End a client that has not logged in, in time; one whose login is being checked gets some more."""
        limit_s = self.options.login_timeout_s
        if nameless_s > limit_s and client.idle:
            self.end(client, NO_LOGIN, f"no login within {limit_s:g} s")
            return True
        if nameless_s > _LOGIN_PATIENCE * limit_s:
            self.end(client, NO_LOGIN)
            return True
        return False

    def _make_room(self, sizes: list[tuple[int, C]]) -> None:
        """End the clients that hold the most until the others fit."""
        sizes.sort(key=lambda entry: (entry[1].spared, -entry[0]))
        for size, client in sizes:
            if self.held_bytes <= self.options.clients_bytes * _FULLEST:
                return
            self.end(client, MEMORY)
            self.held_bytes -= size

    def end(self, client: C, reason: str, told: str = "") -> None:
        """Disconnect a client; one that may still read is told why."""
        self.ended[reason] += 1
        level = logging.INFO if reason == IDLE else logging.WARNING
        logger.log(
            level, "client disconnected: address=%s reason=%s bytes=%d", client.address, reason, client.held_bytes
        )
        if told:
            client.answer(error_reply(f"ERR {told}"))
            client.close_after_replies()
        else:
            client.abort()


def give_back() -> None:
    """Return the memory that has become free to the system, which glibc keeps where a used piece lies behind it.

    It takes up to a tenth of a second for a gigabyte.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_alive(transport: asyncio.Transport, after_s: float) -> None:
    """Let the system ask now and then whether the other end of a silent connection is still there."""
    found = transport.get_extra_info("socket")
    if not after_s or found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # As the servers do: three questions in the time that the silence may last.
    for name, value in (("TCP_KEEPIDLE", after_s), ("TCP_KEEPINTVL", after_s / 3), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(value)))
