"""Redis globs over bytes: `*`, `?`, `[a-z]`, `[^a]` and backslash escapes.

A key matches where the servers' own matcher says so. An unclosed class ends with the pattern; a class with its bounds
reversed is read the right way round; a lone backslash at the end stands for itself. Unlike there, the bytes of a range
count from 0 to 255 on every processor, and stars alone match the empty key.

Nothing is compiled and nothing is kept. What stands between two stars is looked for once, from left to right, in time
linear in key and pattern; a long part with classes or question marks takes a step for each 64 of its elements.
"""

from __future__ import annotations

from helios.placement._glob import Glob

__all__ = ["LONGEST_PATTERN", "Glob", "globs_of"]

# Where a router itself matches what a client writes, so that one command costs it no more than a moment.
LONGEST_PATTERN = 64 * 1024


def globs_of(patterns: tuple[str, ...]) -> tuple[Glob, ...]:
    """What a key must match, all of it, to match the patterns of a rule."""
    return tuple(Glob(pattern) for pattern in patterns)
