"""One target of a copy: what waits to be copied there, and what a power cut there must not undo."""

from __future__ import annotations

import asyncio

from helios.coordinator.changes import ChangedKeys, Follower
from helios.coordinator.copying import BigValues, CopyLimits, copy_batches, in_steps, sort_by_size
from helios.coordinator.streams import StreamMarks
from helios.coordinator.sweep import make_durable
from helios.ports.engine import Engine, Pace

# A power cut may take what clients have written last. What was written longer ago than this when it was copied is
# synced before the switch, since its source may have had it on disk.
_OLD_S = 1.0
_LOOK_EVERY_S = 0.5  # for what changes unnamed, while a pair waits for its fence
_SYNCS = 3  # before the fence, where old changes keep coming
_FENCED_SYNC_TIMEOUT_S = 3.0


class CopyTarget:
    """One target of a source.

    It is *unsynced* while a power cut there might take copies that it must not take: the bulk, copies made again,
    changes of long ago. Or while it might leave a big value half copied.
    """

    def __init__(
        self, source: Engine, engine: Engine, follower: Follower, limits: CopyLimits, pace: Pace, *, fsync: str
    ) -> None:
        self.engine = engine
        self.follower = follower  # of what others change there
        self.changed = ChangedKeys()
        self.streams: set[bytes] = set()  # among small values; they change unnamed
        self.marks = StreamMarks(source, engine)
        self.big = BigValues(source, engine, limits, pace, self.marks.note)
        self.dropped = 0  # copies that others changed there, or the server itself, and that wait to be made again
        self.unsynced = False
        self.durable = False  # whether its disk has been waited for since anything was copied
        self.last_round = 0
        self.gainless = 0
        self.looks = 0  # at what changes unnamed, since the pair was announced last
        self.announced = False
        self.drained = False  # it may own its keys from now on, also if nobody here learns of the switch
        self._source = source
        self._limits = limits
        self._every_write_synced = fsync == "always"
        self._old = False  # whether some of what waits may have changed long ago
        self._copied_s = self._looked_s = _now_s()
        self._syncing: asyncio.Task[None] | None = None
        self._syncs = 0

    def left(self) -> int:
        """How many small values are to be copied again. For big ones `BigValues` decides what may wait for a fence."""
        return len(self.changed.keys - self.big.keys) if self.changed else 0

    def announce(self) -> None:
        """The pair is about to be fenced."""
        self.announced, self.looks, self._syncs = True, 0, 0

    async def copy_changed(self) -> None:
        """Copy the small values that have changed, and set the big ones apart. No limit may stop the rounds."""
        before_s, self._copied_s = self._copied_s, _now_s()
        waiting = self.changed.take()
        self.durable &= not waiting
        if waiting and (self._old or self.dropped or self._copied_s - before_s > _OLD_S):
            self.unsynced = True
        self._old, self.dropped = False, 0
        changed = sorted(waiting - self.big.take_over(waiting))
        for keys in in_steps(changed):
            by_size = sort_by_size(keys, await self._source.sizes(keys), self._limits)
            self.big.changed.update(by_size.big)
            self.big.forget(set(keys).difference(by_size.big))
            await self.marks.note(self.streams.intersection(keys))
            await copy_batches(self._source, self.engine, by_size.batches, self.streams)

    async def look(self, every_s: float = 0.0) -> bool:
        """Let streams that have changed without being named wait to be copied, too; whether there were any.

        Does nothing so soon after the look before.
        """
        began_s = _now_s()
        if began_s - self._looked_s < every_s:
            return False
        unnamed = await self.marks.changed(self.streams | self.big.keys)
        self._old |= bool(unnamed) and began_s - self._looked_s > _OLD_S
        self._looked_s = began_s
        self.changed.add(unnamed)
        return bool(unnamed)

    async def look_while_waiting(self) -> None:
        """What has changed unnamed is copied before the fence rather than behind it, and is never old there."""
        await self.look(_LOOK_EVERY_S)

    async def syncing(self) -> bool:
        """Whether its disk is being waited for. Raises what that has raised."""
        if self._syncing is not None and self._syncing.done():
            syncing, self._syncing = self._syncing, None
            await syncing
        return self._syncing is not None

    def synced(self) -> bool:
        """Whether its disk has what it must have before the fence; if not, that is waited for from now on.

        Also true where old changes keep coming: `finish` will see to these.
        """
        if not (self.unsynced or self.big.unsynced) or self._syncs >= _SYNCS:
            return True
        self._syncs += 1
        self.unsynced = self.big.unsynced = False
        self.durable = True  # when that is through, which the switch waits for
        self._syncing = asyncio.create_task(make_durable(self.engine))
        return False

    async def finish(self) -> None:
        """Behind the fence, when all is copied: bring to its disk what no power cut may take.

        A target that has lost its power since the last copy may have lost that, too, and does not answer here any more.
        """
        if self._every_write_synced or self.unsynced or self.big.unsynced or self._syncing is not None:
            await self.engine.persist(_FENCED_SYNC_TIMEOUT_S)
            self.unsynced = self.big.unsynced = False
            self.durable = True
        else:
            await self.engine.count()

    async def stop(self) -> None:
        """End what goes on in the background."""
        await self.big.stop()
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
            self._syncing = None


def _now_s() -> float:
    return asyncio.get_running_loop().time()
