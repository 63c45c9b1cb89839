"""Copying given keys from a source to a target: small values in batches, big ones in steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass

from helios.errors import TooHot
from helios.ports.engine import BIG_VALUE_BYTES, Engine, Notes, Pace, StepCopy, at_once

STEP_BYTES = 256 << 10
# A server carries out a whole pipeline before it serves others.
BATCH_BYTES = 512 << 10
# What the copies of big values may take behind a fence. Routers hold commands a little longer than that.
FENCED_BIG_S = 3.0
_PASSES_MAX = 8
_STEP_KEYS = 500
_BETWEEN_PASSES_S = 1.0


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """How much is copied at a time, and how little may be left when the fence is asked for.

    With `verify` every copy is compared with its source before that.
    """

    batch_keys: int
    fence_budget_keys: int
    big_bytes: int = BIG_VALUE_BYTES
    step_bytes: int = STEP_BYTES
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Sorted:
    """Keys by how they are to be copied."""

    batches: list[list[bytes]]
    big: list[bytes]


def in_steps(keys: list[bytes]) -> Iterator[list[bytes]]:
    """Lists of some hundred keys, so that no step over many keeps the event loop from others for long."""
    return (keys[start : start + _STEP_KEYS] for start in range(0, len(keys), _STEP_KEYS))


def sort_by_size(keys: Collection[bytes], sizes: list[int], limits: CopyLimits) -> Sorted:
    """Batches that keep no server busy for long, in the order of the keys, and the big ones apart."""
    batches: list[list[bytes]] = []
    big: list[bytes] = []
    room_keys = room_bytes = 0
    for key, size in zip(keys, sizes, strict=True):
        if size > limits.big_bytes:
            big.append(key)
            continue
        if not batches or room_keys == 0 or room_bytes < size:
            batches.append([])
            room_keys, room_bytes = limits.batch_keys, max(BATCH_BYTES, size)
        batches[-1].append(key)
        room_keys -= 1
        room_bytes -= size
    return Sorted(batches, big)


async def copy_batches(source: Engine, target: Engine, batches: list[list[bytes]], streams: set[bytes]) -> None:
    """Make the target's copies of the keys equal to the source's. A batch is read while the one before is written."""
    async with WriteBehind() as writing:
        for batch in batches:
            await copy_batch(source, target, batch, at_once, writing, streams)


async def copy_batch(
    source: Engine, target: Engine, keys: list[bytes], pace: Pace, writing: WriteBehind, streams: set[bytes]
) -> int:
    """Read a batch and leave its writing to `writing`; how many of the keys the source had.

    Those that are streams are put into `streams`: see `StreamMarks`.
    """
    values = await source.dump(keys)
    present = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    absent = [key for key, value in zip(keys, values, strict=True) if value is None]
    streams.update(key for key, value in present if value.stream)
    await pace(sum(len(value.payload) for _, value in present))

    async def write() -> None:
        if present:
            await target.restore(present)
        if absent:
            await target.delete(absent)

    await writing.put(write())
    return len(present)


class WriteBehind:
    """Carries out one thing at a time, in order, behind the back of who gives it. Use it as a context."""

    def __init__(self) -> None:
        self._running: asyncio.Task[None] | None = None

    async def put(self, work: Coroutine[None, None, None]) -> None:
        """Begin the work when what was given before is done; raises what that raised."""
        try:
            await self.done()
        except BaseException:
            work.close()
            raise
        self._running = asyncio.create_task(work)

    async def done(self) -> None:
        """Wait for everything that was given; raises what it raised."""
        running, self._running = self._running, None
        if running is not None:
            await running

    async def __aenter__(self) -> WriteBehind:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.done()
        elif self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)


class Stopwatch:
    """Counts the time that a pace lets pass."""

    def __init__(self, pace: Pace) -> None:
        self.seconds = 0.0
        self._pace = pace

    async def pace(self, size: int) -> None:
        """The pace itself."""
        began_s = asyncio.get_running_loop().time()
        await self._pace(size)
        self.seconds += asyncio.get_running_loop().time() - began_s


class BigValues:
    """The big values of one pair: copied beside the rounds of small ones, and again only when it may help.

    A value that is written all the time is copied in no round of its own: its last copy is made behind
    the fence, where what the target has is compared and only differences are written. What that takes
    is known from the copy before.
    """

    def __init__(
        self,
        source: Engine,
        target: Engine,
        limits: CopyLimits,
        pace: Pace,
        begin: Callable[[Collection[bytes]], Awaitable[None]],
    ) -> None:
        self.changed: set[bytes] = set()
        self.unsynced = False  # whether a power cut at the target might leave a value half copied
        self._source = source
        self._target = target
        self._limits = limits
        self._pace = pace
        self._begin = begin  # awaited before keys are copied
        self._took_s: dict[bytes, float] = {}
        self._passes = 0
        self._running: asyncio.Task[None] | None = None
        self._copying: set[bytes] = set()
        self._notes: dict[bytes, Notes] = {}

    def take_over(self, keys: Collection[bytes]) -> set[bytes]:
        """Of keys that have changed, those that are in these hands already: no other copy may meet theirs."""
        mine = {key for key in keys if key in self.changed or key in self._copying}
        self.changed |= mine
        return mine

    @property
    def keys(self) -> set[bytes]:
        """Every key that was copied as a big value."""
        return set(self._took_s)

    def forget(self, keys: Collection[bytes]) -> None:
        """Others are about to write the target's copies of these keys."""
        for key in self._notes.keys() & set(keys) if self._notes else ():
            del self._notes[key]

    async def ready(self) -> bool:
        """Whether what has changed may wait for the fence; if not, it is being copied when this returns.

        Raises TooHot when nothing helps, and what a copy raised.
        """
        if self._running is not None:
            if not self._running.done():
                return False
            running, self._running = self._running, None
            await running
        if not self.changed or sum(self._took_s.get(key, FENCED_BIG_S + 1) for key in self.changed) <= FENCED_BIG_S:
            self._passes = 0
            return True
        if self._passes >= _PASSES_MAX:
            raise TooHot(self._complaint())
        self._passes += 1
        self._running = asyncio.create_task(self._copy_again(0.0 if self._passes == 1 else _BETWEEN_PASSES_S))
        return False

    async def copy_all(self) -> None:
        """Copy everything that has changed now."""
        await self._copy_changed(self._pace)

    async def finish(self) -> None:
        """The same behind the fence, without a limit of speed. A copy in the background ends, and is started over."""
        await self.stop()
        await self._copy_changed(at_once)

    async def stop(self) -> None:
        """End the copy in the background; what it had not finished counts as changed."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None

    async def _copy_again(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._copy_changed(self._pace)

    async def _copy_changed(self, pace: Pace) -> None:
        """Copy each key that has changed by now, once; it counts as changed until it is copied."""
        for key in sorted(self.changed):
            self.changed.discard(key)
            self._copying = {key}
            waiting = Stopwatch(pace)
            began_s = asyncio.get_running_loop().time()
            outcome = StepCopy.CHANGED
            self.unsynced = True
            try:
                await self._begin([key])
                outcome = await self._source.copy_in_steps(
                    key,
                    self._target,
                    patch=True,
                    notes=self._notes.setdefault(key, {}),
                    pace=waiting.pace,
                    step_bytes=self._limits.step_bytes,
                )
            finally:
                self._copying = set()
                self.unsynced = True  # also if a sync began on the way
                if outcome is StepCopy.CHANGED:
                    self.changed.add(key)
            self._took_s[key] = asyncio.get_running_loop().time() - began_s - waiting.seconds

    def _complaint(self) -> str:
        slow = sorted(((self._took_s.get(key, 0.0), key) for key in self.changed), reverse=True)[:3]
        names = ", ".join(f"{key[:100]!r} ({took_s:.1f} s)" for took_s, key in slow)
        return (
            f"big values are written all the time and take too long to copy behind a fence, which may last "
            f"{FENCED_BIG_S:g} s: {names}; write them less often while they move, or divide them"
        )
