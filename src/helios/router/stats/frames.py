"""The keys of commands as they are sent to servers, told without decoding what may be large."""

from __future__ import annotations

from dataclasses import dataclass

from helios.errors import InvalidInput
from helios.resp.commands import find, key_positions

_MAX_ARGUMENTS = 1024
_MAX_BYTES = 1024


@dataclass(frozen=True, slots=True)
class SentKey:
    """A key of a command, its first kilobyte, and the bytes that follow until the next key or the command's end."""

    key: bytes
    bytes: int


def sent_keys(frame: bytes) -> list[SentKey]:
    """The keys of a command as it is sent; none where it has none, or they cannot be told cheaply."""
    arguments, places = _beginnings(frame)
    command = find(arguments[0]) if arguments else None
    if command is None:
        return []
    try:
        positions = list(key_positions(command, arguments))
        starts = [places[position] for position in positions]
    except (InvalidInput, IndexError):
        return []
    ends = [*starts[1:], len(frame)]
    return [
        SentKey(arguments[position], end - start) for position, start, end in zip(positions, starts, ends, strict=False)
    ]


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
