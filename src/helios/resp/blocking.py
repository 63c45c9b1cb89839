"""Commands that wait until there is something for them: where their time-out stands, and how it is made shorter.

A time-out that is not a plain number is the server's to judge: the command is sent as it is then, however often.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from helios.resp.commands import Command
from helios.resp.keys import stream_options

_SECONDS = re.compile(rb"(?:[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})\Z")
_MILLISECONDS = re.compile(rb"[0-9]{1,15}\Z")
# 0 means forever: what has run out while a command could not be sent still gets one look at the key.
_MIN_S = 0.001


@dataclass(frozen=True, slots=True)
class Timeout:
    """The argument that says how long a command waits, and whether in milliseconds."""

    position: int
    milliseconds: bool = False

    def seconds(self, argv: Sequence[bytes]) -> float | None:
        """How long it waits; None forever, or if the number is not plain."""
        text = argv[self.position]
        if not (_MILLISECONDS if self.milliseconds else _SECONDS).match(text):
            return None
        seconds = float(text) / (1000 if self.milliseconds else 1)
        return seconds or None

    def shortened(self, argv: Sequence[bytes], left_s: float) -> list[bytes]:
        """The command with what is left of its time."""
        left_s = max(left_s, _MIN_S)
        text = b"%d" % round(left_s * 1000) if self.milliseconds else b"%.3f" % left_s
        return [*argv[: self.position], text, *argv[self.position + 1 :]]


def timeout_of(command: Command, argv: Sequence[bytes]) -> Timeout | None:
    """Where the time-out stands; None where this form of the command waits for nothing.

    Raises InvalidInput where the arguments make no sense to the server either.
    """
    if command.name in ("xread", "xreadgroup"):
        _, position = stream_options(argv)
        return Timeout(position, milliseconds=True) if position else None
    if "blocking" not in command.flags:
        return None
    return Timeout(1 if command.name in ("blmpop", "bzmpop") else len(argv) - 1)


def new_entries_of(command: Command, argv: Sequence[bytes]) -> list[tuple[int, int]]:
    """Where XREAD names streams of which it wants what comes from now on, each with the place of its `$`."""
    if command.name != "xread":
        return []
    at, _ = stream_options(argv)
    half = (len(argv) - at - 1) // 2
    return [(i, i + half) for i in range(at + 1, at + 1 + half) if argv[i + half] == b"$"]
