"""The keys of commands as they are sent to servers, told without decoding what may be large."""

from __future__ import annotations

from typing import NamedTuple

from helios.errors import InvalidInput
from helios.resp.commands import find, key_positions

_MAX_ARGUMENTS = 1024
_MAX_BYTES = 1024


class SentKeys(NamedTuple):
    """The keys of a command, the first kilobyte of each, and the bytes from each to the next, or to the command's end.

    Two lists, and no object for each key: a thousand of them have the garbage collector look through all that is new,
    which takes long beside a command with a million arguments.
    """

    keys: list[bytes]
    sizes: list[int]


def sent_keys(frame: bytes) -> SentKeys:
    """The keys of a command as it is sent; none where it has none, or they cannot be told cheaply."""
    arguments, places = _beginnings(frame)
    command = find(arguments[0]) if arguments else None
    if command is None:
        return SentKeys([], [])
    try:
        positions = list(key_positions(command, arguments))
        starts = [places[position] for position in positions]
    except (InvalidInput, IndexError):
        return SentKeys([], [])
    ends = [*starts[1:], len(frame)]
    sizes = [end - start for start, end in zip(starts, ends, strict=False)]
    return SentKeys([arguments[position] for position in positions], sizes)


def _beginnings(frame: bytes) -> tuple[list[bytes], list[int]]:
    """The first thousand arguments, the first kilobyte of each, and where they begin."""
    at = frame.index(b"\r\n") + 2
    arguments, places = [], []
    for _ in range(min(int(frame[1 : at - 2]), _MAX_ARGUMENTS)):
        begin = frame.index(b"\r\n", at) + 2
        size = int(frame[at + 1 : begin - 2])
        arguments.append(frame[begin : begin + min(size, _MAX_BYTES)])
        places.append(begin)
        at = begin + size + 2
    return arguments, places
