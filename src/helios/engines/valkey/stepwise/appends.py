"""Streams that grow at their end and are trimmed at their head: what is new is copied, and the rest is not read again.

Entries never change and none can come between others. So a stream that has as many entries as are noted, from its
first on, has just those, if it is still the one that was read: its counter of entries that were ever added has
grown by the new ones alone. Only a stream recreated under the same name with the same number of entries added,
the same ids and other values would pass for that, were it not for steps that are looked at all the same.
"""

from __future__ import annotations

import marshal
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from hashlib import blake2b
from itertools import pairwise
from typing import TypeAlias

from helios.engines.valkey.connection import Reply
from helios.engines.valkey.stepwise.key_copy import MAX_ELEMENTS, KeyCopy

Entry: TypeAlias = list[Reply]  # [id, [field, value, …]]
_ADDED = b""  # no entry has this id
_DIGEST_BYTES = 16
_COUNT_BYTES = 4
_TRIES = 8
_SAMPLES = 16


def number(entry: bytes) -> tuple[int, int]:
    """An id, for comparing."""
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)


def note_of(entries: list[Entry]) -> tuple[bytes, int]:
    """What to remember of a step: a digest of its entries and how many they are; and their size in bytes, roughly."""
    # Version 2 writes equal values equally: later ones write references to what they have met.
    written = marshal.dumps(entries, 2)
    digest = blake2b(written, digest_size=_DIGEST_BYTES).digest()
    return digest + len(entries).to_bytes(_COUNT_BYTES), len(written)


def steps_of(copy: KeyCopy) -> list[tuple[bytes, bytes]]:
    """The steps that are noted, in order: the id of each one's last entry, and its note."""
    return [(last, note) for last, note in copy.notes.items() if last != _ADDED]


async def entries_of(copy: KeyCopy, count: int, start: bytes = b"-") -> AsyncGenerator[list[Entry], None]:
    """The source's entries in order, `count` at a time."""
    while True:
        entries = await copy.read("XRANGE", copy.key, start, "+", "COUNT", count)
        if entries:
            yield entries
        if len(entries) < count:
            return
        start = b"(" + entries[-1][0]


def note_added(copy: KeyCopy, added: int) -> None:
    """Remember how many entries had ever been added to the source when the last that is noted was."""
    copy.notes[_ADDED] = b"%d" % added


async def follow(copy: KeyCopy, count: int, add: Callable[[KeyCopy, list[Entry]], Awaitable[None]]) -> bool:
    """Trim the target and add to it what is new; False if more than that has happened.

    A stream that grows all the time is left behind by a little: who changes a value while it is copied has it copied
    once more. When nobody does, everything is compared.
    """
    if _ADDED not in copy.notes:
        return False
    for _ in range(_TRIES):
        about = await copy.read("XINFO", "STREAM", copy.key)
        if not await _trim(copy, about[b"first-entry"]):
            return False
        steps = steps_of(copy)
        added = int(copy.notes[_ADDED])
        if about[b"entries-added"] == added:
            whole = sum(_count(note) for _, note in steps) == about[b"length"]
            return whole and await _same(copy, steps)
        if not await _add_behind(copy, steps[-1][0], count, add):
            return False
    return True


async def _add_behind(
    copy: KeyCopy, last: bytes, count: int, add: Callable[[KeyCopy, list[Entry]], Awaitable[None]]
) -> bool:
    """Whether there was anything new."""
    found = False
    async with aclosing(entries_of(copy, count, b"(" + last)) as following:
        async for entries in following:
            found = True
            note, size = note_of(entries)
            await copy.pace(size)
            await add(copy, entries)
            copy.notes[entries[-1][0]] = note
            note_added(copy, int(copy.notes[_ADDED]) + len(entries))
    return found


async def _trim(copy: KeyCopy, first: Entry | None) -> bool:
    """Forget, and remove from the target, what is before the source's first entry; False if others are missing."""
    steps = steps_of(copy)
    if first is None or number(first[0]) > number(steps[-1][0]):
        return False
    before = [last for last, _ in steps if number(last) < number(first[0])]
    head, note = steps[len(before)]
    entries = await copy.read("XRANGE", copy.key, first[0], head, "COUNT", MAX_ELEMENTS + 1)
    if not entries or len(entries) > _count(note):
        return False
    now, _ = note_of(entries)
    if now == note and not before:
        return True
    for last in before:
        del copy.notes[last]
    await copy.write("XTRIM", copy.key, "MINID", first[0])
    if await copy.write("XRANGE", copy.key, "-", head, "COUNT", MAX_ELEMENTS + 1) != entries:
        return False
    copy.notes[head] = now
    return True


async def _same(copy: KeyCopy, steps: list[tuple[bytes, bytes]]) -> bool:
    """Whether some steps, which nobody can foresee, are as they were noted."""
    behind = {last: before for (before, _), (last, _) in pairwise(steps)}
    for last, note in random.sample(steps[1:], min(_SAMPLES, len(steps) - 1)):
        entries = await copy.read("XRANGE", copy.key, b"(" + behind[last], last, "COUNT", MAX_ELEMENTS + 1)
        if note_of(entries)[0] != note:
            return False
    return True


def _count(note: bytes) -> int:
    return int.from_bytes(note[_DIGEST_BYTES:])
