"""What globs have to do with each other: whether a key can match two of them, and whether one needs another.

Both are decided on the patterns alone, so that a placement can be simplified without a look at any key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations

EVERYTHING = "*"
PATTERN_MAX_BYTES = 1024
"""How long a pattern of a rule may be: comparing two costs the product of their lengths."""

# An element is the set of the bytes that it matches, as bits; this one stands for any number of bytes.
_STAR = -1
_ANY_BYTE = (1 << 256) - 1
_CACHED = 1 << 14


def literal_beginning(patterns: Sequence[str]) -> bytes:
    """What every key that matches all of the patterns begins with; as much of it as the patterns say."""
    return max((_ends(pattern)[0] for pattern in patterns), key=len, default=b"")


def common_beginning(one: bytes, other: bytes) -> bytes:
    """What both begin with."""
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return one[:size]


def literal_ending(patterns: Sequence[str]) -> bytes:
    """What every key that matches all of the patterns ends with; as much of it as the patterns say."""
    return max((_ends(pattern)[1] for pattern in patterns), key=len, default=b"")[::-1]


def is_ends(patterns: Sequence[str]) -> bool:
    """Whether the keys are exactly those that have the literal beginning and, behind it, the literal ending."""
    if len(patterns) != 1:
        return not patterns
    beginning, ending = _ends(patterns[0])
    elements = _elements(patterns[0])
    return _STAR in elements and len(beginning) + 1 + len(ending) == len(elements)


def can_match_both(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a key may match all patterns of both; where it says no, none does."""
    return not any(_parted(a, b) for a in one for b in other)


def can_match(patterns: Sequence[str]) -> bool:
    """Whether a key may match all of the patterns; where it says no, none does."""
    return not any(_disjoint(pattern, pattern) for pattern in patterns) and not any(
        _parted(a, b) for a, b in combinations(patterns, 2)
    )


def includes(wide: Iterable[str], narrow: Iterable[str]) -> bool:
    """Whether every key that matches all of `narrow` matches all of `wide`; where it says yes, all do."""
    narrow = tuple(narrow)
    return all(any(_includes(pattern, other) for other in narrow) for pattern in wide)


def together(patterns: Iterable[str]) -> tuple[str, ...]:
    """The fewest of the patterns that say the same, sorted; never none."""
    kept: list[str] = []
    for pattern in sorted(set(patterns), key=lambda pattern: (len(pattern), pattern)):
        if not includes((pattern,), kept):
            kept = [other for other in kept if not _includes(other, pattern)]
            kept.append(pattern)
    return tuple(sorted(kept)) or (EVERYTHING,)


def _parted(one: str, other: str) -> bool:
    """Whether no key matches both; most patterns differ in what they begin or end with."""
    ours, theirs = _ends(one), _ends(other)
    if not (ours[0].startswith(theirs[0]) or theirs[0].startswith(ours[0])):
        return True
    if not (ours[1].startswith(theirs[1]) or theirs[1].startswith(ours[1])):
        return True
    return _disjoint(one, other)


@lru_cache(maxsize=_CACHED)
def _disjoint(one: str, other: str) -> bool:
    """The same, by following all ways through both patterns at once. Exact."""
    mine, theirs = _elements(one), _elements(other)
    if 0 in mine or 0 in theirs:
        return True
    steps = _Steps(theirs)
    places = steps.closed(1)
    for element in mine:
        if element == _STAR:
            places = steps.all_from(places)
        else:
            places = steps.closed((places & steps.stars) | (places & steps.meeting(element)) << 1)
        if not places:
            return True
    return not places >> len(theirs)


@lru_cache(maxsize=_CACHED)
def _includes(wide: str, narrow: str) -> bool:
    """Whether each key that matches `narrow` surely matches `wide`."""
    mine = _elements(narrow)
    if 0 in mine:
        return True
    steps = _Steps(_elements(wide))
    places = steps.closed(1)
    for element in mine:
        held = places & steps.stars
        places = steps.closed(held if element == _STAR else held | (places & steps.holding(element)) << 1)
        if not places:
            return False
    return bool(places >> steps.end)


class _Steps:
    """A pattern as an automaton: places between its elements, sets of them being the bits of a number."""

    def __init__(self, elements: tuple[int, ...]) -> None:
        self._elements = elements
        self.end = len(elements)
        self.stars = sum(1 << place for place, element in enumerate(elements) if element == _STAR)

    def closed(self, places: int) -> int:
        """The places, and those that can be reached from them without a byte."""
        return places | (places & self.stars) << 1  # two stars never stand side by side

    def all_from(self, places: int) -> int:
        """Every place that any bytes can lead to."""
        lowest = places & -places
        return ((1 << self.end + 1) - 1) & ~(lowest - 1)

    def meeting(self, element: int) -> int:
        """The places whose element has a byte in common with the given one."""
        return sum(1 << place for place, own in enumerate(self._elements) if own != _STAR and own & element)

    def holding(self, element: int) -> int:
        """The places whose element has all bytes of the given one."""
        return sum(1 << place for place, own in enumerate(self._elements) if own != _STAR and own & element == element)


@lru_cache(maxsize=_CACHED)
def _ends(pattern: str) -> tuple[bytes, bytes]:
    """What the pattern literally begins with, and what it ends with, read backwards."""
    elements = _elements(pattern)
    return _literal(elements), _literal(elements[::-1])


def _literal(elements: tuple[int, ...]) -> bytes:
    """The single bytes that a pattern begins with."""
    found = bytearray()
    for element in elements:
        if element == _STAR or element.bit_count() != 1:
            break
        found.append(element.bit_length() - 1)
    return bytes(found)


@lru_cache(maxsize=_CACHED)
def _elements(pattern: str) -> tuple[int, ...]:
    """The pattern element by element, one star for several (as placement.glob reads it)."""
    source = pattern.encode()
    found: list[int] = []
    i = 0
    while i < len(source):
        char = source[i]
        i += 1
        if char == ord("*"):
            if not found or found[-1] != _STAR:
                found.append(_STAR)
        elif char == ord("?"):
            found.append(_ANY_BYTE)
        elif char == ord("["):
            members, i = _class(source, i)
            found.append(members)
        else:
            if char == ord("\\") and i < len(source):
                char = source[i]
                i += 1
            found.append(1 << char)
    return tuple(found)


def _class(source: bytes, i: int) -> tuple[int, int]:
    """The bytes of a class whose first byte is at `i`, and where the pattern goes on."""
    negated = source[i : i + 1] == b"^"
    i += negated
    members = 0
    while i < len(source) and source[i] != ord("]"):
        low = high = source[i]
        if low == ord("\\") and i + 1 < len(source):
            low = high = source[i + 1]
            i += 2
        elif i + 2 < len(source) and source[i + 1] == ord("-"):
            low, high = sorted((low, source[i + 2]))
            i += 3
        else:
            i += 1
        members |= (1 << high + 1) - (1 << low)
    return (_ANY_BYTE & ~members if negated else members), i + 1
