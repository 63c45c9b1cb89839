"""Whoever sends commands: its commands run in order, its replies leave in order, and it can be made to wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from helios.errors import OutcomeUnknown
from helios.resp.wire import Frame

# What the dispatcher says of a command.
DONE: Final = 0  # answered, or under way
HOLD: Final = 1  # touched nothing; try it again when the topology has changed
WAIT_REPLY: Final = 2  # under way, and the next command must wait for its reply
WAIT_ALL: Final = 3  # touched nothing; try it again when every earlier command has been answered
SLOW: Final = 4  # touched nothing; try it again after `slow_s`

# Why a caller does not go on, as bits.
HELD: Final = 1
ANSWERING: Final = 2
DRAINING: Final = 4
FULL: Final = 8
UNREAD: Final = 16
CLOSED: Final = 32

BATCH: Final = 128


class Waiter(Protocol):
    """Takes one reply, as it came from a server or as an error of the router's own."""

    def fill(self, reply: bytes) -> None:
        """Take the reply; called once."""


class Slot:
    """A place in a caller's row of replies."""

    __slots__ = ("caller", "reply")

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.reply: bytes | None = None

    def fill(self, reply: bytes) -> None:
        """Take the reply; it leaves when all before it have."""
        self.reply = reply
        caller = self.caller
        caller.owed += len(reply)
        replies = caller.replies
        if replies and replies[0] is self and not caller.dirty:
            caller.outbox.mark(caller)
        if caller.owed > caller.most_owed:
            caller.overflow()


class LastSlot(Slot):
    """A slot whose reply the caller's next command waits for."""

    __slots__ = ()

    def fill(self, reply: bytes) -> None:
        """Take the reply and let the caller go on."""
        super().fill(reply)
        self.caller.go_on(ANSWERING)


class FutureReply(asyncio.Future[bytes]):
    """A reply that code waits for, rather than a client."""

    def fill(self, reply: bytes) -> None:
        """Take the reply, unless nobody waits any more."""
        if not self.done():
            self.set_result(reply)


class Outbox:
    """The callers with replies to send; each is flushed once in a turn of the loop, whoever answered."""

    __slots__ = ("_callers", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callers: list[Caller] = []

    def now(self) -> float:
        """The loop's time, in seconds."""
        return self._loop.time()

    def mark(self, caller: Caller) -> None:
        """See to it that `caller` is flushed before the loop waits again."""
        caller.dirty = True
        if not self._callers:
            self._loop.call_soon(self._flush)
        self._callers.append(caller)

    def _flush(self) -> None:
        callers, self._callers = self._callers, []
        for caller in callers:
            caller.dirty = False
            caller.flush()


Dispatch: TypeAlias = "Callable[[Caller, bytes, list[bytes]], int]"


class Holder(Protocol):
    """Keeps callers whose command is held."""

    def hold(self, caller: Caller) -> None:
        """Keep the caller until the topology has changed or it has waited too long."""

    def delay(self, caller: Caller) -> None:
        """Keep the caller for its `slow_s`."""

    def forget(self, caller: Caller) -> None:
        """The caller has gone."""


class Caller:
    """The state of one sender of commands. Subclasses bring frames (`more`) and take replies away (`flush`)."""

    protocol = 2
    most_owed = 1 << 62
    most_commands = 1 << 30
    hold_until: float | None = None  # on the loop's clock, while its first command is held
    slow_s = 0.0  # how long its first command is to be delayed
    slowed = False  # that delay is over

    def __init__(self, dispatch: Dispatch, outbox: Outbox, holder: Holder) -> None:
        self.dispatch = dispatch
        self.outbox = outbox
        self.holder = holder
        self.replies: deque[Slot] = deque()
        self.owed = 0  # bytes of replies that have not been handed to the network
        self.dirty = False
        self.stops = 0
        self.resume = False  # nothing stops it any more: the next flush lets it run
        self.waiting: list[Frame] = []  # taken from the stream and not yet run
        self.id = 0
        self.name = b""
        self.library = {b"lib-name": b"", b"lib-ver": b""}

    def more(self) -> list[Frame]:
        """Up to BATCH further frames; an empty list where there are none now."""
        return []

    def flush(self) -> None:
        """Send the replies that are ready."""
        raise NotImplementedError

    def stalled(self) -> None:
        """Called when it stops running commands."""

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

    def run(self) -> None:
        """Run commands until there are no more or something makes it wait."""
        dispatch = self.dispatch
        while not self.stops:
            frames = self.waiting or self.more()
            if not frames:
                return
            self.waiting = []
            for index, (raw, argv) in enumerate(frames):
                verdict = dispatch(self, raw, argv)
                if verdict or self.stops:
                    self._stop(verdict, frames, index)
                    break
            else:
                self.hold_until = None
            if len(self.replies) >= self.most_commands:
                self.stops |= FULL
        self.stalled()

    def _stop(self, verdict: int, frames: list[Frame], index: int) -> None:
        if self.stops & CLOSED:
            return
        again = verdict in (HOLD, WAIT_ALL, SLOW)
        self.waiting = frames[index:] if again else frames[index + 1 :]
        if verdict == HOLD:
            if index:
                self.hold_until = None
            self.stops |= HELD
            self.holder.hold(self)
            return
        if verdict == SLOW:
            self.stops |= HELD
            self.holder.delay(self)
            return
        self.hold_until = None
        if verdict == WAIT_REPLY and self.replies and self.replies[-1].reply is None:
            self.stops |= ANSWERING
        elif verdict == WAIT_ALL:
            self.stops |= DRAINING

    def go_on(self, reason: int) -> None:
        """A reason to wait is gone; runs in the next turn of the loop if there is no other."""
        if self.stops & reason:
            self.stops &= ~reason
            if not self.stops:
                self.resume = True
                if not self.dirty:
                    self.outbox.mark(self)

    def take_ready(self) -> list[bytes]:
        """The replies that can leave now, in order; lets the caller go on where it waited for that."""
        replies = self.replies
        ready: list[bytes] = []
        while replies:
            reply = replies[0].reply
            if reply is None:
                break
            ready.append(reply)
            self.owed -= len(reply)
            replies.popleft()
        if self.stops & (FULL | DRAINING):
            if len(replies) * 2 <= self.most_commands:
                self.stops &= ~FULL
            if not replies:
                self.stops &= ~DRAINING
            self.resume = not self.stops
        return ready


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
        if not self.result.done():
            self.result.set_exception(OutcomeUnknown("the router is stopping; whether the command ran is not known"))
            self.result.exception()
