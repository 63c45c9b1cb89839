"""The keys whose values were big on their way through the router, for the coordinator to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from helios.ports.engine import BIG_VALUE_BYTES
from helios.router.stats.frames import sent_keys

CAPACITY = 32  # keys; the biggest are kept
_REMEMBERED_S = 60.0
_LONGEST_KEY_BYTES = 256
_FEW_KEYS = 8  # of a command: any of them may have what it brings


class BigKeys:
    """Which keys big commands were about, or small ones with big replies, within the last minute.

    Nothing here is certain: a big command may fail, and a big reply may be put together from small values. How big a
    value is its server says.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._found: dict[bytes, tuple[int, float]] = {}  # bytes, and until when it is remembered
        self._news = asyncio.Event()

    def sent(self, frame: bytes) -> None:
        """A big command goes to a server."""
        keys, sizes = sent_keys(frame)
        few = len(keys) <= _FEW_KEYS
        for key, size in zip(keys, sizes, strict=True):
            self._note(key, len(frame) if few else size)

    def answered(self, frame: bytes, reply_bytes: int) -> None:
        """A command has a big reply."""
        keys, _ = sent_keys(frame)
        if len(keys) <= _FEW_KEYS:
            for key in keys:
                self._note(key, reply_bytes)

    async def other_than(self, known: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Wait until the keys of the last minute are others than these; they are in order."""
        while (keys := self._recent()) == known:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_REMEMBERED_S if known else None):
                    await self._news.wait()
        return keys

    def _recent(self) -> tuple[bytes, ...]:
        now = self._now()
        self._found = {key: found for key, found in self._found.items() if found[1] > now}
        return tuple(sorted(self._found))

    def _note(self, key: bytes, size: int) -> None:
        if size < BIG_VALUE_BYTES or len(key) > _LONGEST_KEY_BYTES:
            return
        most = max(size, self._found[key][0]) if key in self._found else size
        self._found[key] = (most, self._now() + _REMEMBERED_S)
        if len(self._found) > CAPACITY:
            del self._found[min(self._found, key=lambda one: self._found[one][0])]
        self._news.set()
