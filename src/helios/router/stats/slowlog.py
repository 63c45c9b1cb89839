"""What took long: the slow log, and the moments that LATENCY tells of."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_MAX_ARGUMENTS = 32
_MAX_BYTES = 128
_HISTORY = 160

COMMAND = "command"
HELD = "held"


@dataclass(frozen=True, slots=True)
class SlowCommand:
    """A command that took long. `at` is in Unix seconds; its arguments are shortened as the servers do it."""

    id: int
    at: float
    took_s: float
    arguments: tuple[bytes, ...]
    client: str
    name: bytes


class Moment(NamedTuple):
    """When something took how long."""

    at: float
    took_s: float


class SlowLog:
    """The commands that took long, the last ones of them, and for each kind of delay its worst moments by second."""

    def __init__(self, threshold_s: float, length: int) -> None:
        self.threshold_s = threshold_s
        self.total = 0
        self.commands: deque[SlowCommand] = deque(maxlen=length)
        self.moments: dict[str, deque[Moment]] = {}
        self.worst_s: dict[str, float] = {}
        self._ids = itertools.count()

    def configure(self, threshold_s: float, length: int) -> None:
        """Use another threshold from now on, and keep another number of commands."""
        self.threshold_s = threshold_s
        if length != self.commands.maxlen:
            self.commands = deque(self.commands, maxlen=length)

    def add(self, at: float, took_s: float, frame: bytes, client: str, name: bytes) -> None:
        """Note a command, given as it came."""
        self.total += 1
        self.commands.append(SlowCommand(next(self._ids), at, took_s, shortened(frame), client, name))
        self.note(COMMAND, at, took_s)

    def note(self, event: str, at: float, took_s: float) -> None:
        """Note a delay, if it was long."""
        if not self.threshold_s or took_s < self.threshold_s:
            return
        moments = self.moments.setdefault(event, deque(maxlen=_HISTORY))
        self.worst_s[event] = max(took_s, self.worst_s.get(event, 0.0))
        if moments and int(moments[-1].at) == int(at):
            moments[-1] = max(moments[-1], Moment(at, took_s), key=lambda moment: moment.took_s)
        else:
            moments.append(Moment(at, took_s))

    def last(self, count: int) -> Sequence[SlowCommand]:
        """The latest commands, the last one first; all for a negative count."""
        newest = reversed(self.commands)
        return list(newest if count < 0 else itertools.islice(newest, count))

    def forget_moments(self, events: Sequence[str]) -> int:
        """Forget the moments of these events, of all where none is named; of how many there were some."""
        named = [event for event in (events or list(self.moments)) if event in self.moments]
        for event in named:
            del self.moments[event], self.worst_s[event]
        return len(named)


def shortened(frame: bytes) -> tuple[bytes, ...]:
    """The arguments of a request, at most 32 of 128 bytes; what is left out is told in their place."""
    count = int(frame[1 : frame.index(b"\r\n")])
    shown = count if count <= _MAX_ARGUMENTS else _MAX_ARGUMENTS - 1
    at = frame.index(b"\r\n") + 2
    arguments = []
    for _ in range(shown):
        line = frame.index(b"\r\n", at)
        size = int(frame[at + 1 : line])
        begin = line + 2
        argument = frame[begin : begin + min(size, _MAX_BYTES)]
        arguments.append(argument if size <= _MAX_BYTES else b"%b... (%d more bytes)" % (argument, size - _MAX_BYTES))
        at = begin + size + 2
    if shown < count:
        arguments.append(b"... (%d more arguments)" % (count - shown))
    return tuple(arguments)
