"""Numbers as servers read them among a command's arguments."""

from __future__ import annotations

import re

_INTEGER = re.compile(rb"(?:0|-?[1-9][0-9]{0,18})\Z")


def integer_of(word: bytes) -> int | None:
    """The integer of 64 bits that a word is; None for anything else, such as `007`, `+1` or ` 1`."""
    if not _INTEGER.match(word):
        return None
    number = int(word)
    return number if -(1 << 63) <= number < 1 << 63 else None
