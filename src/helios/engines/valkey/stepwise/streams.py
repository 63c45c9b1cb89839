"""Streams: entries, which never change but may be deleted, and what consumer groups know of them.

Not reproduced: when consumers were last seen (IDLE and INACTIVE of XINFO CONSUMERS start over). Times of
deliveries are right to a few milliseconds. A pending entry that is no longer in the stream cannot be made
by commands: such a stream is copied whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.engines.valkey.stepwise.appends import Entry, entries_of, follow, note_added, note_of, number, steps_of
from helios.engines.valkey.stepwise.key_copy import (
    MAX_ELEMENTS,
    ChangedMeanwhile,
    KeyCopy,
    NotInSteps,
    StartAfresh,
    ahead,
)

_MADE_BY = b"\0helios"  # a group that exists for a moment: there is no other way to make an empty stream
_NOTHING = b"0-0"
_SAME_MOMENT_MS = 10  # delivery times are known by the age that a server gives, in milliseconds, on its way


async def copy_stream(copy: KeyCopy, *, patch: bool) -> None:
    """By XRANGE and XADD; with `patch`, deletions are repeated and new entries added.

    The notes are the id of the last entry of each step and the step's digest: where it has not changed, the
    target need not be asked. Where nothing but additions and trimming has happened, only these are looked at.
    """
    length = int(await copy.read("XLEN", copy.key))
    count = await copy.elements_in_step(length)
    if not (patch and await follow(copy, count, _add)):
        await _entries(copy, count, patch=patch)
    about = await copy.read("XINFO", "STREAM", copy.key)
    if about[b"last-entry"] is None or about[b"last-entry"][0] in copy.notes:
        await _counters(copy, about, patch=patch)
    # Else there are new entries already, which come with the next copy: the target must still take their ids.
    await _groups(copy, count)


async def _counters(copy: KeyCopy, about: dict[bytes, Reply], *, patch: bool) -> None:
    """What the source says of the stream as a whole."""
    if patch and about[b"max-deleted-entry-id"] == _NOTHING:
        there = await copy.write("XINFO", "STREAM", copy.key)
        if there[b"max-deleted-entry-id"] != _NOTHING:
            raise StartAfresh  # XSETID cannot take it back
    counters: Command = (
        *("XSETID", copy.key, about[b"last-generated-id"]),
        *("ENTRIESADDED", about[b"entries-added"], "MAXDELETEDID", about[b"max-deleted-entry-id"]),
    )
    (reply,) = await copy.target.execute_many([counters], timeout_s=copy.timeout_s)
    if isinstance(reply, ErrorReply):
        if "specified in XSETID" not in str(reply):
            raise copy.target.failure(reply, f"XSETID of {copy.key[:100]!r}")
        raise ChangedMeanwhile(str(reply))  # what the source says of itself does not fit the entries that it gave


async def _entries(copy: KeyCopy, count: int, *, patch: bool) -> None:
    last = b""  # the id of the last entry dealt with
    hole = False  # whether entries behind it, which an earlier step ended with, have been deleted
    noted, top = (steps_of(copy), await _top(copy)) if patch else ([], None)
    copy.notes.clear()
    about = await copy.read("XINFO", "STREAM", copy.key)
    added, until = about[b"entries-added"], number(about[b"last-generated-id"])
    async with aclosing(ahead(_ranges(copy, noted, count))) as steps:
        async for end, note, entries in steps:
            if not entries:
                hole = True
                continue
            if number(entries[-1][0]) > until:
                added += sum(number(entry[0]) > until for entry in entries)
            seen, size = note_of(entries)
            await copy.pace(size)
            if top is None:
                await _add(copy, entries)
            elif hole or note != seen:
                if not last:
                    await copy.write("XTRIM", copy.key, "MINID", entries[0][0])
                known = [entry for entry in entries if number(entry[0]) <= top]
                await _repeat_deletions(copy, known, last, entries[-1][0], count)
                await _add(copy, entries[len(known) :])
            last = entries[-1][0]
            hole = end not in (last, b"")
            copy.notes[last] = seen
    if not last:
        await make_empty(copy, patch=patch)
        return
    note_added(copy, added)
    if top is not None and await copy.write("XRANGE", copy.key, b"(" + last, "+", "COUNT", 1):
        raise StartAfresh  # the newest entries were deleted


async def _ranges(
    copy: KeyCopy, noted: list[tuple[bytes, bytes]], count: int
) -> AsyncGenerator[tuple[bytes, bytes, list[Entry]], None]:
    """All entries: first those up to each id that is noted, with what is noted, then those behind."""
    start = b"-"
    for last, digest in noted:
        entries = await copy.read("XRANGE", copy.key, start, last, "COUNT", MAX_ELEMENTS + 1)
        if len(entries) > MAX_ELEMENTS:
            raise StartAfresh  # no note covers so many: the stream was made again
        yield last, digest, entries
        start = b"(" + last
    async with aclosing(entries_of(copy, count, start)) as steps:
        async for entries in steps:
            yield b"", b"", entries


async def _top(copy: KeyCopy) -> tuple[int, int] | None:
    newest = await copy.write("XREVRANGE", copy.key, "+", "-", "COUNT", 1)
    return number(newest[0][0]) if newest else None


async def _repeat_deletions(copy: KeyCopy, entries: list[Entry], after: bytes, last: bytes, count: int) -> None:
    """Delete on the target, between two ids, what the source has no more; all that is left must be the same."""
    start = b"(" + after if after else b"-"
    there = await copy.write("XRANGE", copy.key, start, last, "COUNT", 2 * count)
    if there == entries:
        return
    stay = {entry[0] for entry in entries}
    gone = [entry[0] for entry in there if entry[0] not in stay]
    if len(there) == 2 * count or [entry for entry in there if entry[0] in stay] != entries:
        raise StartAfresh
    await copy.write("XDEL", copy.key, *gone)


async def _add(copy: KeyCopy, entries: list[Entry]) -> None:
    commands: list[Command] = [("XADD", copy.key, entry[0], *entry[1]) for entry in entries]
    for reply in await copy.target.execute_many(commands, timeout_s=copy.timeout_s):
        if isinstance(reply, ErrorReply):
            if "equal or smaller" in str(reply):
                raise StartAfresh  # the source's last id was set back
            raise copy.target.failure(reply, f"XADD of {copy.key[:100]!r}")


async def make_empty(copy: KeyCopy, *, patch: bool = False) -> None:
    """Make the target's value a stream without entries. Raises StartAfresh where it is one that has some."""
    if patch and await copy.write("XLEN", copy.key):
        raise StartAfresh
    if not patch:
        create: Command = ("XGROUP", "CREATE", copy.key, _MADE_BY, "0", "MKSTREAM")
        await copy.ask(copy.target, [create, ("XGROUP", "DESTROY", copy.key, _MADE_BY)])


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry that was delivered and not acknowledged."""

    consumer: bytes
    delivered_ms: int
    times: int

    def like(self, other: Pending | None) -> bool:
        """Whether this is the other, as far as a server tells."""
        return (
            other is not None
            and (self.consumer, self.times) == (other.consumer, other.times)
            and abs(self.delivered_ms - other.delivered_ms) <= _SAME_MOMENT_MS
        )


async def _groups(copy: KeyCopy, count: int) -> None:
    mine = {group[b"name"]: group for group in await copy.read("XINFO", "GROUPS", copy.key)}
    theirs = {group[b"name"] for group in await copy.write("XINFO", "GROUPS", copy.key)}
    for name in theirs - mine.keys():
        await copy.write("XGROUP", "DESTROY", copy.key, name)
    for name, group in mine.items():
        read = group.get(b"entries-read")
        position: Command = (group[b"last-delivered-id"], "ENTRIESREAD", -1 if read is None else read)
        await copy.write("XGROUP", "SETID" if name in theirs else "CREATE", copy.key, name, *position)
        await _consumers(copy, name, count)


async def _consumers(copy: KeyCopy, group: bytes, count: int) -> None:
    mine = {consumer[b"name"] for consumer in await copy.read("XINFO", "CONSUMERS", copy.key, group)}
    theirs = {consumer[b"name"] for consumer in await copy.write("XINFO", "CONSUMERS", copy.key, group)}
    made: list[Command] = [("XGROUP", "CREATECONSUMER", copy.key, group, name) for name in sorted(mine - theirs)]
    await copy.ask(copy.target, made)
    last = b""
    while True:
        pending = await pending_of(copy, copy.source, group, last, b"+", count)
        end = max(pending, key=number) if len(pending) == count else b"+"
        await _claim(copy, group, pending, await pending_of(copy, copy.target, group, last, end, -1))
        if end == b"+":
            break
        last = end
    left: list[Command] = [("XGROUP", "DELCONSUMER", copy.key, group, name) for name in sorted(theirs - mine)]
    await copy.ask(copy.target, left)


async def pending_of(
    copy: KeyCopy, server: Connection, group: bytes, after: bytes, last: bytes, count: int
) -> dict[bytes, Pending]:
    """Pending entries by id, from behind `after` to `last`; `count` of them at most, or all (-1), in steps."""
    found: dict[bytes, Pending] = {}
    step = MAX_ELEMENTS if count < 0 else count
    while True:
        start = b"(" + after if after else b"-"
        time, rows = await copy.ask(server, [("TIME",), ("XPENDING", copy.key, group, start, last, step)])
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        found.update({row[0]: Pending(row[1], now_ms - int(row[2]), int(row[3])) for row in rows})
        if count >= 0 or len(rows) < step:
            return found
        after = rows[-1][0]


async def _claim(copy: KeyCopy, group: bytes, mine: dict[bytes, Pending], theirs: dict[bytes, Pending]) -> None:
    claims: list[Command] = [
        (
            *("XCLAIM", copy.key, group, pending.consumer, 0, entry),
            *("TIME", max(0, pending.delivered_ms), "RETRYCOUNT", pending.times, "FORCE", "JUSTID"),
        )
        for entry, pending in mine.items()
        if not pending.like(theirs.get(entry))
    ]
    if not all(await copy.ask(copy.target, claims)):
        raise NotInSteps("an entry is pending that is no longer in the stream")
    settled = [entry for entry in theirs if entry not in mine]
    for start in range(0, len(settled), MAX_ELEMENTS):
        await copy.write("XACK", copy.key, group, *settled[start : start + MAX_ELEMENTS])
