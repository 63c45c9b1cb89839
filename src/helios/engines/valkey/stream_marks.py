"""Marks by which a stream that has changed since is known, also where its server names no key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from hashlib import md5

from helios.engines.valkey.connection import Connection

_AT_ONCE = 200  # each tells one entry
# What a client calls so, and what follows there, can only make a stream pass for one that has changed.
_SEEN_MS = re.compile(rb"seen-time\r\n:(\d+)")


async def stream_marks(connection: Connection, keys: Sequence[bytes], timeout_s: float) -> list[bytes | None]:
    """For each key a digest of XINFO STREAM FULL, with one entry of each list; None where it is no stream."""
    found: list[bytes | None] = []
    for start in range(0, len(keys), _AT_ONCE):
        questions = [("XINFO", "STREAM", key, "FULL", "COUNT", 1) for key in keys[start : start + _AT_ONCE]]
        # Sent in this order, and answered in it.
        (seconds, microseconds), replies = await asyncio.gather(
            connection.execute("TIME", timeout_s=timeout_s), connection.execute_raw(questions, timeout_s=timeout_s)
        )
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        found += (_mark(reply, now_ms) for reply in replies)
    return found


def _mark(reply: bytes, now_ms: int) -> bytes | None:
    if reply[:1] == b"-":
        return None
    if any(int(moment_ms) >= now_ms for moment_ms in _SEEN_MS.findall(reply)):
        return b""  # it may be seen once more within this millisecond
    return md5(reply, usedforsecurity=False).digest()
