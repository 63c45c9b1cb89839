"""What changes on servers while keys are copied, taken from their change streams as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from helios.errors import ChangesLost
from helios.ports.engine import ChangeStream

LOOK_EVERY_S = 1.0
# What waits to be copied again, of one pair. Beyond this, copying everything again takes no more time.
MAX_CHANGED_BYTES = 256 << 20
# From here on it costs more to remember which keys left a server than to look for them there.
MANY_KEYS = 20_000
_ENTRY_BYTES = 100  # a bytes object and its place in a set, roughly


class ChangedKeys:
    """Keys that have changed and wait to be copied again. Their names take a bounded part of the memory."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, keys: Collection[bytes]) -> None:
        """Let them wait, too. Raises ChangesLost where they are too many."""
        fresh = set(keys) - self.keys
        self._bytes += sum(map(len, fresh)) + _ENTRY_BYTES * len(fresh)
        if self._bytes > MAX_CHANGED_BYTES:
            self.take()
            raise ChangesLost(
                f"more than {MAX_CHANGED_BYTES} bytes of names of changed keys waited to be copied (was the move "
                "paused?): copy everything again"
            )
        self.keys |= fresh

    def take(self) -> set[bytes]:
        """All of them; none waits any more."""
        taken, self.keys, self._bytes = self.keys, set(), 0
        return taken


class MetKeys:
    """The keys that leave a source, as all of its copies together met them, as long as these are few.

    They are all that its server had while they were copied: the first pass sees what is there, and the change stream
    names what comes. That holds for the run in which they were met: a server that loses its power may wake with
    keys that were deleted just before.
    """

    def __init__(self) -> None:
        self.run_id = ""
        self.any = False
        self._keys: set[bytes] | None = set()

    def add(self, keys: Collection[bytes]) -> None:
        """They were met."""
        self.any |= bool(keys)
        if self._keys is not None:
            self._keys.update(keys)
            if len(self._keys) > MANY_KEYS:
                self._keys = None

    def keys(self, run_id: str) -> list[bytes] | None:
        """All that the server of this run can have; None where only a walk through all of its keys would tell."""
        return None if self._keys is None or run_id != self.run_id else sorted(self._keys)


class Follower:
    """Takes names from a change stream, now and then by itself, so that they pile up nowhere. Use it as a context.

    It goes on while the copy waits for its rate, for its fence, or for the end of a pause. What ends it, as a lost
    stream or a flush does, is raised by the next `check` or `look`.
    """

    def __init__(self, stream: ChangeStream, note: Callable[[Collection[bytes]], Awaitable[None]]) -> None:
        self._stream = stream
        self._note = note
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raise what has ended it, if anything has."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def look(self) -> None:
        """Return when every key that was changed before this call has been noted."""
        self.check()
        async with self._looking:  # else names might be on their way to be noted when this returns
            await self._note(await self._stream.barrier())

    async def _follow(self) -> None:
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                async with self._looking:
                    await self._note(await self._stream.barrier())
        finally:
            await self._stream.close()

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._follow())
        return self

    async def stop(self) -> None:
        """Follow the stream no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._stream.close()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
