"""Redis globs over bytes: `*`, `?`, `[a-z]`, `[^a]` and backslash escapes."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> re.Pattern[bytes]:
    """A regular expression that matches whole keys where Redis' own matcher does.

    An unclosed class ends with the pattern; a class with its bounds reversed is read the right way
    round; a lone backslash at the end stands for itself (as in stringmatchlen of the servers). Unlike
    there, the bytes of a range count from 0 to 255 on every processor, and stars alone match the empty key.
    Matching costs at most the length of the pattern times that of the key, whatever they are.
    """
    source = pattern.encode()
    # What stands between the stars; each element of a part matches exactly one byte.
    parts: list[list[bytes]] = [[]]
    i = 0
    while i < len(source):
        char = source[i : i + 1]
        i += 1
        if char == b"*":
            parts.append([])
        elif char == b"?":
            parts[-1].append(b".")
        elif char == b"[":
            part, i = _class(source, i)
            parts[-1].append(part)
        elif char == b"\\" and i < len(source):
            parts[-1].append(re.escape(source[i : i + 1]))
            i += 1
        else:
            parts[-1].append(re.escape(char))
    first, *others = [b"".join(part) for part in parts]
    if not others:
        return re.compile(first + rb"\Z", re.DOTALL)
    # A part between two stars is best matched as early as it can be, so an atomic group loses nothing. Without
    # it a few stars and one long key would keep a router busy for hours, going back over every combination.
    found = b"".join(b"(?>.*?%s)" % part for part in others[:-1] if part)
    return re.compile(first + found + b".*" + others[-1] + rb"\Z", re.DOTALL)


def _class(source: bytes, i: int) -> tuple[bytes, int]:
    """The expression for a class whose first byte is at `i`, and where the pattern goes on."""
    negated = source[i : i + 1] == b"^"
    if negated:
        i += 1
    members: set[int] = set()
    while i < len(source) and source[i : i + 1] != b"]":
        if source[i : i + 1] == b"\\" and i + 1 < len(source):
            members.add(source[i + 1])
            i += 2
        elif i + 2 < len(source) and source[i + 1 : i + 2] == b"-":
            low, high = sorted((source[i], source[i + 2]))
            members.update(range(low, high + 1))
            i += 3
        else:
            members.add(source[i])
            i += 1
    chosen = set(range(256)) - members if negated else members
    if not chosen:
        return b"(?!)", i + 1
    return b"[" + b"".join(b"\\x%02x" % code for code in sorted(chosen)) + b"]", i + 1


def globs_of(patterns: tuple[str, ...]) -> tuple[re.Pattern[bytes], ...]:
    """What a key must match, all of it, to match the patterns of a rule."""
    return tuple(compile_glob(pattern) for pattern in patterns)
