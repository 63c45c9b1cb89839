"""Where the keys stand among a command's arguments.

The notation, several parts apart by spaces: `1` the argument 1; `1..-1` the arguments from 1 to the
last; `1..-1/2` every second of them; `#2` as many arguments as argument 2 says, beginning behind it
(`#1/2` every second one). A word names a rule of its own: `sort`, `store`, `streams`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from helios.errors import InvalidInput

Arguments = Sequence[bytes]
KeyPositions = Callable[[Arguments], list[int]]

_PART = re.compile(r"(?P<count>#)?(?P<first>\d+)(?:\.\.(?P<last>-?\d+))?(?:/(?P<step>\d+))?\Z")
_COUNT = re.compile(rb"[0-9]{1,9}\Z")


def one_position(notation: str) -> int:
    """The position of the only key a command of this notation has; 0 where it may have several or none."""
    return int(notation) if notation.isdigit() else 0


def key_range(notation: str) -> tuple[int, int, int]:
    """First key, last key and step, as far as three numbers can say it: parts that follow each other are one."""
    if notation in ("sort", "store"):
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


def compile_keys(notation: str) -> KeyPositions:
    """The function from arguments to key positions; it raises InvalidInput where the arguments cannot be right."""
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
    if last < 0:
        return lambda arguments: list(range(first, len(arguments) + last + 1, step))
    return lambda arguments: list(range(first, min(last + 1, len(arguments)), step))


def _counted(arguments: Arguments, at: int, step: int) -> list[int]:
    if not _COUNT.match(arguments[at]):
        raise InvalidInput("numkeys should be greater than 0")
    end = at + 1 + int(arguments[at]) * step
    if end > len(arguments):
        raise InvalidInput("Number of keys can't be greater than number of args")
    return list(range(at + 1, end, step))


def _behind_words(arguments: Arguments, words: frozenset[bytes], start: int) -> list[int]:
    """Whatever stands behind one of the words. It may name too much where a word is an argument's value.

    Too many keys lead to a refusal at worst, too few to a write on the wrong shard.
    """
    return [i + 1 for i in range(start, len(arguments) - 1) if arguments[i].upper() in words]


def _sort(arguments: Arguments) -> list[int]:
    return [1, *_behind_words(arguments, frozenset((b"STORE",)), 2)]


def _store(arguments: Arguments) -> list[int]:
    return [1, *_behind_words(arguments, frozenset((b"STORE", b"STOREDIST")), 5)]


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
        timeout = i + 1 if word == b"BLOCK" else timeout
        i += 1 + _STREAM_OPTIONS[word]
    raise InvalidInput("syntax error")


def _streams(arguments: Arguments) -> list[int]:
    at, _ = stream_options(arguments)
    names_and_ids = len(arguments) - at - 1
    if not names_and_ids:
        raise InvalidInput("syntax error")
    if names_and_ids % 2:
        raise InvalidInput(
            f"Unbalanced '{arguments[0].decode('ascii', 'replace').lower()}' list of streams: "
            "for each stream key an ID, '+', '>', or '$' must be specified."
        )
    return list(range(at + 1, at + 1 + names_and_ids // 2))


_NAMED: dict[str, KeyPositions] = {"": lambda arguments: [], "sort": _sort, "store": _store, "streams": _streams}
