"""Where the keys stand among a command's arguments.

The notation, several parts apart by spaces: `1` the argument 1; `1..-1` the arguments from 1 to the
last; `1..-1/2` every second of them; `#2` as many arguments as argument 2 says, beginning behind it
(`#1/2` every second one). A word names a rule of its own: `sort`, `place` and `member`
(of GEORADIUS), `streams`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache

from helios.errors import InvalidInput

Arguments = Sequence[bytes]
KeyPositions = Callable[[Arguments], Sequence[int]]


class Malformed(InvalidInput):
    """No server takes these arguments, so that any of them can be asked for the words that it refuses them with."""


_PART = re.compile(r"(?P<count>#)?(?P<first>\d+)(?:\.\.(?P<last>-?\d+))?(?:/(?P<step>\d+))?\Z")
_INTEGER = re.compile(rb"-?[0-9]+\Z")
_COUNT = re.compile(rb"[0-9]{1,9}\Z")


def one_position(notation: str) -> int:
    """The position of the only key a command of this notation has; 0 where it may have several or none."""
    return int(notation) if notation.isdigit() else 0


def key_range(notation: str) -> tuple[int, int, int]:
    """First key, last key and step, as far as three numbers can say it: parts that follow each other are one."""
    if notation in ("sort", "place", "member"):
        return 1, 1, 1
    whole: tuple[int, int, int] | None = None
    for part in notation.split():
        match = _PART.match(part)
        if match is None or match["count"]:
            break
        first, step = int(match["first"]), int(match["step"] or 1)
        last = int(match["last"] or first)
        if whole is None:
            whole = (first, last, step)
        elif whole[1] + 1 == first and whole[2] == step:
            whole = (whole[0], last, step)
        else:
            break
    return whole or (0, 0, 0)


@cache  # many commands have the same notation
def compile_keys(notation: str) -> KeyPositions:
    """The function from arguments to key positions; it raises InvalidInput where the arguments cannot be right.

    That is a Malformed where every server, be it newer than this, refuses them.
    """
    if notation in _NAMED:
        return _NAMED[notation]
    parts = [_compile_part(part) for part in notation.split()]
    if len(parts) == 1:
        return parts[0]

    def positions(arguments: Arguments) -> list[int]:
        return [position for part in parts for position in part(arguments)]

    return positions


def _compile_part(part: str) -> KeyPositions:
    match = _PART.match(part)
    if match is None:
        raise ValueError(f"{part!r} is not a notation for key positions")
    first, step = int(match["first"]), int(match["step"] or 1)
    if match["count"]:
        return lambda arguments: _counted(arguments, first, step)
    last = int(match["last"] or first)
    if last < 0 and step > 1:
        return lambda arguments: _in_steps(arguments, first, last, step)
    if last < 0:
        return lambda arguments: range(first, len(arguments) + last + 1, step)
    return lambda arguments: range(first, min(last + 1, len(arguments)), step)


def _in_steps(arguments: Arguments, first: int, last: int, step: int) -> range:
    end = len(arguments) + last + 1
    if (end - first) % step:
        raise Malformed("wrong number of arguments")
    return range(first, end, step)


def _counted(arguments: Arguments, at: int, step: int) -> range:
    if not _COUNT.match(arguments[at]):
        raise Malformed("numkeys should be greater than 0")
    end = at + 1 + int(arguments[at]) * step
    if end > len(arguments):
        raise Malformed("Number of keys can't be greater than number of args")
    return range(at + 1, end, step)


_SORT_OPTIONS = {b"ASC": 0, b"DESC": 0, b"ALPHA": 0, b"LIMIT": 2, b"STORE": 1, b"BY": 1, b"GET": 1}
_GEO_OPTIONS = {b"WITHDIST": 0, b"WITHHASH": 0, b"WITHCOORD": 0, b"ANY": 0, b"ASC": 0, b"DESC": 0, b"COUNT": 1}
_GEO_OPTIONS |= {b"STORE": 1, b"STOREDIST": 1}


def _stored(arguments: Arguments, start: int, options: dict[bytes, int]) -> list[int]:
    """The first key, and the one behind the last STORE among options that begin at `start`.

    `options` says how many arguments each has.
    """
    stored: list[int] = []
    i = start
    while i < len(arguments):
        word = arguments[i].upper()
        if word not in options or i + options[word] >= len(arguments):
            raise InvalidInput("syntax error")
        if word.startswith(b"STORE"):
            stored = [i + 1]
        i += 1 + options[word]
    return [1, *stored]


def _sort(arguments: Arguments) -> list[int]:
    return _stored(arguments, 2, _SORT_OPTIONS)


def _by_member(arguments: Arguments) -> list[int]:
    return _stored(arguments, 5, _GEO_OPTIONS)


def _by_place(arguments: Arguments) -> list[int]:
    return _stored(arguments, 6, _GEO_OPTIONS)


_STREAM_OPTIONS = {b"COUNT": 1, b"BLOCK": 1, b"CLAIM": 1, b"GROUP": 2, b"NOACK": 0}


def stream_options(arguments: Arguments) -> tuple[int, int]:
    """For XREAD and XREADGROUP: where STREAMS stands, and the time-out of BLOCK (0: it does not block)."""
    i, timeout = 1, 0
    while i < len(arguments):
        word = arguments[i].upper()
        if word == b"STREAMS":
            return i, timeout
        if word not in _STREAM_OPTIONS:
            break
        if word in (b"COUNT", b"BLOCK") and i + 1 < len(arguments) and not _INTEGER.match(arguments[i + 1]):
            raise Malformed(f"the value of {word.decode()} is not an integer")
        timeout = i + 1 if word == b"BLOCK" else timeout
        i += 1 + _STREAM_OPTIONS[word]
    raise InvalidInput("syntax error")


def _streams(arguments: Arguments) -> range:
    at, _ = stream_options(arguments)
    names_and_ids = len(arguments) - at - 1
    if names_and_ids % 2 or not names_and_ids:
        raise Malformed("each stream needs an ID")
    return range(at + 1, at + 1 + names_and_ids // 2)


_NAMED: dict[str, KeyPositions] = {
    "": lambda arguments: [],
    "sort": _sort,
    "place": _by_place,
    "member": _by_member,
    "streams": _streams,
}
