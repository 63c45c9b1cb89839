"""What streams know beside their entries, of which no change stream tells: consumer groups above all."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from helios.coordinator.copying import in_steps
from helios.ports.engine import Engine


class StreamMarks:
    """Which streams of a source have not changed since they were copied to one target.

    Each is marked before it is copied: as long as its source gives the same mark again, the copy is right.
    """

    def __init__(self, source: Engine, target: Engine) -> None:
        self._source = source
        self._target = target
        self._marks: dict[bytes, bytes] = {}
        self._writes = b""  # at the source, at the last look
        self._passed_over: set[bytes] = set()  # by looks, although marked: not among the keys

    async def note(self, keys: Collection[bytes]) -> None:
        """Mark keys that are about to be copied; those that are no streams are passed over."""
        for step in in_steps(sorted(keys)):
            self._keep(step, await self._source.stream_marks(step))

    def _keep(self, keys: list[bytes], marks: list[bytes | None]) -> None:
        for key, mark in zip(keys, marks, strict=True):
            if mark:
                self._marks[key] = mark
            else:
                self._marks.pop(key, None)

    async def changed(self, keys: Collection[bytes]) -> set[bytes]:
        """Those of the keys that are streams and whose copies may be wrong.

        Costs a question for each key, or a single one where the source has done nothing to streams, that it would not
        have named, since the last look. A stream that has no mark yet gets one where its copy has all that it knows.
        """
        writes = await self._source.stream_writes()
        same = bool(writes) and writes == self._writes
        marked = sorted((self._passed_over if same else set(self._marks)).intersection(self._marks, keys))
        self._passed_over = (self._passed_over if same else set(self._marks)).difference(keys)
        found: set[bytes] = set()
        # Two steps at a time: the server answers the one while the answers to the other are looked at.
        for steps in _pairs(in_steps(marked)):
            for step, marks in zip(steps, await asyncio.gather(*map(self._source.stream_marks, steps)), strict=True):
                found.update(key for key, mark in zip(step, marks, strict=True) if mark != self._marks.get(key))
        unmarked = sorted(set(keys) - self._marks.keys())
        for step in in_steps(unmarked):
            marks = await self._source.stream_marks(step)
            differing = await differing_streams(self._source, self._target, step)
            equal = [(key, mark) for key, mark in zip(step, marks, strict=True) if key not in differing]
            self._keep([key for key, _ in equal], [mark for _, mark in equal])
            found |= differing
        self._writes = writes
        return found


def _pairs(steps: Iterable[list[bytes]]) -> Iterator[list[list[bytes]]]:
    ahead = iter(steps)
    while pair := list(islice(ahead, 2)):
        yield pair


async def differing_streams(source: Engine, target: Engine, keys: Collection[bytes]) -> set[bytes]:
    """Those among the keys that are streams and may differ in what servers do not name when it changes.

    That are the ids that a stream has given and deleted, which are compared, and all of its consumer groups: where
    either side has any, that is not compared. Costs two small questions for each key.
    """
    found: set[bytes] = set()
    for step in in_steps(sorted(keys)):
        here, there = await asyncio.gather(source.stream_states(step), target.stream_states(step))
        for key, one, other in zip(step, here, there, strict=True):
            if one != other or (one is not None and one.groups):
                found.add(key)
    return found
