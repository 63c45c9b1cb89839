"""Redis globs over bytes: `*`, `?`, `[a-z]`, `[^a]` and backslash escapes."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> re.Pattern[bytes]:
    """A regular expression that matches whole keys exactly where Redis' own matcher does.

    An unclosed class ends with the pattern; a class with its bounds reversed is read the right way
    round; a lone backslash at the end stands for itself (as in stringmatchlen of the servers).
    """
    source = pattern.encode()
    parts: list[bytes] = []
    i = 0
    while i < len(source):
        char = source[i : i + 1]
        i += 1
        if char == b"*":
            if not parts or parts[-1] != b".*":
                parts.append(b".*")
        elif char == b"?":
            parts.append(b".")
        elif char == b"[":
            part, i = _class(source, i)
            parts.append(part)
        elif char == b"\\" and i < len(source):
            parts.append(re.escape(source[i : i + 1]))
            i += 1
        else:
            parts.append(re.escape(char))
    return re.compile(b"".join(parts) + rb"\Z", re.DOTALL)


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


def matches(patterns: tuple[str, ...], key: bytes) -> bool:
    """Whether the key matches every one of the patterns."""
    return all(compile_glob(pattern).match(key) is not None for pattern in patterns)
