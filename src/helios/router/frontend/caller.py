"""Whoever sends commands: its commands run in order, its replies leave in order, and it can be made to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from helios.access.authenticator import OWNER, Identity
from helios.errors import OutcomeUnknown, ProtocolError
from helios.placement.routing import Routes
from helios.resp.wire import Frame, RequestParser
from helios.router._fast_path import (
    ANSWERING,
    CLOSED,
    DONE,
    DRAINING,
    EVERY_REPLY,
    FULL,
    HELD,
    HOLD,
    IN_MULTI,
    IN_NO_DATABASE,
    IN_SUBSCRIPTION,
    NEXT_REPLY,
    PREPARE,
    PREPARING,
    SLOW,
    WAIT_ALL,
    WAIT_REPLY,
    ClientState,
    Confirmation,
    FastPath,
    LastSlot,
    Outbox,
    Push,
    Slot,
)
from helios.router.frontend.stale_reads import StaleReads
from helios.router.frontend.tracking import Tracking
from helios.router.frontend.transaction import Transaction

__all__ = [
    "ANSWERING",
    "CLOSED",
    "DONE",
    "DRAINING",
    "EVERY_REPLY",
    "FULL",
    "HELD",
    "HOLD",
    "IN_MULTI",
    "IN_NO_DATABASE",
    "IN_SUBSCRIPTION",
    "NEXT_REPLY",
    "NO_TOUCH",
    "PREPARE",
    "PREPARING",
    "SLOW",
    "WAIT_ALL",
    "WAIT_REPLY",
    "Caller",
    "Confirmation",
    "Dispatch",
    "FutureReply",
    "Holder",
    "LastSlot",
    "OneCommand",
    "Outbox",
    "Push",
    "Slot",
    "Waiter",
    "WaitingCommand",
    "WatchedKeys",
]


NO_TOUCH = 4  # variants of connections are 2 and 3, their RESP version, and the same two that touch no key, from here


class Waiter(Protocol):
    """Takes one reply, as it came from a server or as an error of the router's own."""

    def fill(self, reply: bytes) -> None:
        """Take the reply; called once."""


class Preparation(Protocol):
    """What has been found for a command with many arguments, and by which routes."""

    routes: Routes
    tries: int
    found: Any
    failure: bytes


class WaitingCommand(Protocol):
    """A command that waits at a server for something to come."""

    keys: Sequence[bytes]

    def follow(self, routes: Routes) -> None:
        """Go where its keys go."""

    def unblock(self, *, as_error: bool) -> None:
        """Let its caller go on, with an error or as if the time had run out."""

    def cut(self, reply: bytes) -> None:
        """Answer its caller with this, unless something came for it first."""

    def abandon(self) -> None:
        """Its caller has gone: nothing may be taken from the keys for it any more."""


class WatchedKeys(Protocol):
    """Keys that a caller watches until it runs its transaction."""

    keys: list[bytes]
    size: int

    def follow(self, routes: Routes) -> None:
        """Note whether a key has another owner now."""

    def end(self) -> None:
        """Watch no longer."""


class FutureReply(asyncio.Future[bytes]):
    """A reply that code waits for, rather than a client."""

    def fill(self, reply: bytes) -> None:
        """Take the reply, unless nobody waits any more."""
        if not self.done():
            self.set_result(reply)


Dispatch: TypeAlias = "Callable[[Caller, bytes, list[bytes]], int]"


class Holder(Protocol):
    """Keeps callers whose command is held."""

    def hold(self, caller: Caller) -> None:
        """Keep the caller until the topology has changed or it has waited too long."""

    def delay(self, caller: Caller) -> None:
        """Keep the caller for its `slow_s`."""

    def forget(self, caller: Caller) -> None:
        """The caller has gone."""


class Caller(ClientState):
    """One sender of commands. Subclasses bring frames (a parser, or `waiting`) and take replies away (`flush`).

    What every command passes through is compiled (`_fast_path.pyx`): `run` runs commands until there are no more or
    something makes it wait; `go_on` takes such a reason away; `take_ready` gives the replies that may leave, and
    `flush` writes them to the transport.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        outbox: Outbox,
        holder: Holder,
        parser: RequestParser | None = None,
        fast_path: FastPath | None = None,
    ) -> None:
        super().__init__(dispatch, outbox, holder, parser, fast_path)
        self.id = 0
        self.name = b""
        self.address = ""  # where it calls from; empty for code of this process
        self.library = {b"lib-name": b"", b"lib-ver": b""}
        self.capabilities = ""  # by CLIENT CAPA, in the letters of CLIENT LIST
        self.no_touch = False  # by CLIENT NO-TOUCH: its reading is no use of a key
        self.tracking: Tracking | None = None  # by CLIENT TRACKING: it caches what it reads
        self.transaction: Transaction | None = None  # what it has queued since MULTI
        self.watch: WatchedKeys | None = None
        self.database = b"0"  # the one that it has asked for; with another than 0 nothing of it is run
        self.preparation: Preparation | None = None  # for its command that waits to be tried again
        self.call: WaitingCommand | None = None  # its command that waits at a server
        self.resumed: tuple[list[bytes], float | None] | None = None  # that command, to be run again, and its deadline
        self.stale_reads: StaleReads | None = None  # replicas may answer what it reads
        self.stale_wish: bool | None = None  # whether it wants that, by READONLY and READWRITE; None: as its user does
        self._open_fast_path = fast_path
        self.become(OWNER)

    def become(self, identity: Identity) -> None:
        """Give commands as this user from now on; those with limited rights pass the dispatcher, one and all."""
        self.identity = identity
        self.rights = identity.rights
        wish = self.stale_wish if self.stale_wish is not None else identity.reads_replicas
        self.stale_reads = (self.stale_reads or StaleReads()) if wish else None
        looked_at = self.no_touch or self.tracking is not None or wish
        by_fast_path = (self.rights is None or self.rights.by_fast_path) and not looked_at
        self.fast_path = self._open_fast_path if by_fast_path else None

    @property
    def variant(self) -> int:
        """Which of a shard's connections carry its commands: those of its RESP version, or those that touch no key."""
        return self.protocol - 2 + NO_TOUCH if self.no_touch else self.protocol

    def let_go(self) -> None:
        """Forget its transaction and what it watches, and end what waits at a server for it."""
        self.transaction, self.resumed = None, None
        self.modes &= ~IN_MULTI
        watch, self.watch = self.watch, None
        if watch is not None:
            watch.end()
        call, self.call = self.call, None
        if call is not None:
            call.abandon()

    def gave_up(self) -> None:
        """Called when its command was held for too long: an EXEC has ended its transaction all the same."""
        if self.transaction is not None:
            self.let_go()

    def stalled(self) -> None:
        """Called when it stops running commands."""

    def read_on(self) -> None:
        """Called when nothing stops it any more."""

    def unread(self) -> None:
        """Called when replies have been written to a client that does not read them."""

    def flushed(self) -> None:
        """Called after a flush, where `ending` says so."""

    def broken(self, error: ProtocolError) -> None:
        """Called when what came is no frame; nothing more will."""

    def overflow(self) -> None:
        """Called when it is owed more than may be."""

    def close_after_replies(self) -> None:
        """Run no further command, and end the connection when everything has been answered."""

    def abort(self) -> None:
        """End the connection at once."""

    def answer(self, reply: bytes) -> None:
        """Answer the command that is being run, at once."""
        slot = Slot(self)
        self.replies.append(slot)
        slot.fill(reply)


class OneCommand(Caller):
    """A caller with a single command, whose reply is awaited in this process."""

    def __init__(self, dispatch: Dispatch, outbox: Outbox, holder: Holder, frame: Frame) -> None:
        super().__init__(dispatch, outbox, holder)
        self.waiting = [frame]
        self.result = FutureReply()

    def flush(self) -> None:
        """Hand the reply over, or run the command if it was held."""
        for reply in self.take_ready():
            self.result.fill(reply)
        if self.resume:
            self.resume = False
            self.run()

    def abandon(self) -> None:
        """Nobody waits for the reply any more."""
        self.stops |= CLOSED
        self.waiting = []
        self.replies.clear()
        self.let_go()
        if not self.result.done():
            self.result.set_exception(OutcomeUnknown("the router is stopping; whether the command ran is not known"))
            self.result.exception()
