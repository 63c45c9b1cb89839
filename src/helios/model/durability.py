"""When a write is acknowledged, for all keys and by patterns of keys."""

from __future__ import annotations

from enum import StrEnum

_PATTERN_MAX_BYTES = 1024


class Durability(StrEnum):
    """When a write is acknowledged: once its leader has it, or once a majority of the shard's members has."""

    ASYNC = "async"
    QUORUM = "quorum"


def durabilities_of(text: str) -> tuple[tuple[str, Durability], ...]:
    """The patterns, in their order, behind `cache:*=async, *=quorum`; none behind an empty text. Raises ValueError."""
    found = []
    for part in text.split(",") if text.strip() else ():
        pattern, _, word = (word.strip() for word in part.rpartition("="))
        if not pattern or word not in list(Durability):
            raise ValueError(f"{part.strip()!r} is not a pattern with async or quorum: write cache:*=async")
        if len(pattern.encode()) > _PATTERN_MAX_BYTES:
            raise ValueError(f"a pattern has at most {_PATTERN_MAX_BYTES} bytes")
        found.append((pattern, Durability(word)))
    return tuple(found)


def parse_durabilities(value: object) -> str:
    """The patterns in one way of writing; raises ValueError."""
    text = value if isinstance(value, str) else repr(value)
    return ", ".join(f"{pattern}={durability}" for pattern, durability in durabilities_of(text))
