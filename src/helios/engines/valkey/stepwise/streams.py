"""Streams: entries, which never change but may be deleted, and what consumer groups know of them.

Not reproduced: when consumers were last seen (IDLE and INACTIVE of XINFO CONSUMERS begin anew). Times of
deliveries are right to a few milliseconds. A pending entry that is no longer in the stream cannot be made
by commands: such a stream is copied whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.engines.valkey.stepwise.appends import Entry, entries_of, follow, note_added, note_of, number, steps_of
from helios.engines.valkey.stepwise.way import MAX_ELEMENTS, ChangedMeanwhile, NotInSteps, StartAfresh, Way, ahead

_MADE_BY = b"\0helios"  # a group that exists for a moment: there is no other way to make an empty stream
_NOTHING = b"0-0"
_SAME_MOMENT_MS = 10  # delivery times are known by the age that a server gives, in milliseconds, on its way


async def copy_stream(way: Way, *, patch: bool) -> None:
    """By XRANGE and XADD; with `patch`, deletions are repeated and new entries added.

    The notes are the id of the last entry of each step and the step's digest: where it has not changed, the
    target need not be asked. Where nothing but additions and trimming has happened, only these are looked at.
    """
    length = int(await way.read("XLEN", way.key))
    count = await way.elements_in_step(length)
    if not (patch and await follow(way, count, _add)):
        await _entries(way, count, patch=patch)
    about = await way.read("XINFO", "STREAM", way.key)
    if about[b"last-entry"] is None or about[b"last-entry"][0] in way.notes:
        await _counters(way, about, patch=patch)
    # Else there are new entries already, which come with the next copy: the target must still take their ids.
    await _groups(way, count)


async def _counters(way: Way, about: dict[bytes, Reply], *, patch: bool) -> None:
    """What the source says of the stream as a whole."""
    if patch and about[b"max-deleted-entry-id"] == _NOTHING:
        there = await way.write("XINFO", "STREAM", way.key)
        if there[b"max-deleted-entry-id"] != _NOTHING:
            raise StartAfresh  # XSETID cannot take it back
    counters: Command = (
        *("XSETID", way.key, about[b"last-generated-id"]),
        *("ENTRIESADDED", about[b"entries-added"], "MAXDELETEDID", about[b"max-deleted-entry-id"]),
    )
    (reply,) = await way.target.execute_many([counters], timeout_s=way.timeout_s)
    if isinstance(reply, ErrorReply):
        if "specified in XSETID" not in str(reply):
            raise way.target.failure(reply, f"XSETID of {way.key[:100]!r}")
        raise ChangedMeanwhile(str(reply))  # what the source says of itself does not fit the entries that it gave


async def _entries(way: Way, count: int, *, patch: bool) -> None:
    last = b""  # the id of the last entry dealt with
    hole = False  # whether entries behind it, which an earlier step ended with, have been deleted
    noted, top = (steps_of(way), await _top(way)) if patch else ([], None)
    way.notes.clear()
    about = await way.read("XINFO", "STREAM", way.key)
    added, until = about[b"entries-added"], number(about[b"last-generated-id"])
    async with aclosing(ahead(_ranges(way, noted, count))) as steps:
        async for end, note, entries in steps:
            if not entries:
                hole = True
                continue
            if number(entries[-1][0]) > until:
                added += sum(number(entry[0]) > until for entry in entries)
            seen, size = note_of(entries)
            await way.pace(size)
            if top is None:
                await _add(way, entries)
            elif hole or note != seen:
                if not last:
                    await way.write("XTRIM", way.key, "MINID", entries[0][0])
                known = [entry for entry in entries if number(entry[0]) <= top]
                await _repeat_deletions(way, known, last, entries[-1][0], count)
                await _add(way, entries[len(known) :])
            last = entries[-1][0]
            hole = end not in (last, b"")
            way.notes[last] = seen
    if not last:
        await make_empty(way, patch=patch)
        return
    note_added(way, added)
    if top is not None and await way.write("XRANGE", way.key, b"(" + last, "+", "COUNT", 1):
        raise StartAfresh  # the newest entries were deleted


async def _ranges(
    way: Way, noted: list[tuple[bytes, bytes]], count: int
) -> AsyncGenerator[tuple[bytes, bytes, list[Entry]], None]:
    """All entries: first those up to each id that is noted, with what is noted, then those behind."""
    start = b"-"
    for last, digest in noted:
        entries = await way.read("XRANGE", way.key, start, last, "COUNT", MAX_ELEMENTS + 1)
        if len(entries) > MAX_ELEMENTS:
            raise StartAfresh  # no note covers so many: the stream was made anew
        yield last, digest, entries
        start = b"(" + last
    async with aclosing(entries_of(way, count, start)) as steps:
        async for entries in steps:
            yield b"", b"", entries


async def _top(way: Way) -> tuple[int, int] | None:
    newest = await way.write("XREVRANGE", way.key, "+", "-", "COUNT", 1)
    return number(newest[0][0]) if newest else None


async def _repeat_deletions(way: Way, entries: list[Entry], after: bytes, last: bytes, count: int) -> None:
    """Delete on the target, between two ids, what the source has no more; all that is left must be the same."""
    start = b"(" + after if after else b"-"
    there = await way.write("XRANGE", way.key, start, last, "COUNT", 2 * count)
    if there == entries:
        return
    stay = {entry[0] for entry in entries}
    gone = [entry[0] for entry in there if entry[0] not in stay]
    if len(there) == 2 * count or [entry for entry in there if entry[0] in stay] != entries:
        raise StartAfresh
    await way.write("XDEL", way.key, *gone)


async def _add(way: Way, entries: list[Entry]) -> None:
    commands: list[Command] = [("XADD", way.key, entry[0], *entry[1]) for entry in entries]
    for reply in await way.target.execute_many(commands, timeout_s=way.timeout_s):
        if isinstance(reply, ErrorReply):
            if "equal or smaller" in str(reply):
                raise StartAfresh  # the source's last id was set back
            raise way.target.failure(reply, f"XADD of {way.key[:100]!r}")


async def make_empty(way: Way, *, patch: bool = False) -> None:
    """Make the target's value a stream without entries. Raises StartAfresh where it is one that has some."""
    if patch and await way.write("XLEN", way.key):
        raise StartAfresh
    if not patch:
        create: Command = ("XGROUP", "CREATE", way.key, _MADE_BY, "0", "MKSTREAM")
        await way.ask(way.target, [create, ("XGROUP", "DESTROY", way.key, _MADE_BY)])


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


async def _groups(way: Way, count: int) -> None:
    mine = {group[b"name"]: group for group in await way.read("XINFO", "GROUPS", way.key)}
    theirs = {group[b"name"] for group in await way.write("XINFO", "GROUPS", way.key)}
    for name in theirs - mine.keys():
        await way.write("XGROUP", "DESTROY", way.key, name)
    for name, group in mine.items():
        read = group.get(b"entries-read")
        position: Command = (group[b"last-delivered-id"], "ENTRIESREAD", -1 if read is None else read)
        await way.write("XGROUP", "SETID" if name in theirs else "CREATE", way.key, name, *position)
        await _consumers(way, name, count)


async def _consumers(way: Way, group: bytes, count: int) -> None:
    mine = {consumer[b"name"] for consumer in await way.read("XINFO", "CONSUMERS", way.key, group)}
    theirs = {consumer[b"name"] for consumer in await way.write("XINFO", "CONSUMERS", way.key, group)}
    made: list[Command] = [("XGROUP", "CREATECONSUMER", way.key, group, name) for name in sorted(mine - theirs)]
    await way.ask(way.target, made)
    last = b""
    while True:
        pending = await pending_of(way, way.source, group, last, b"+", count)
        end = max(pending, key=number) if len(pending) == count else b"+"
        await _claim(way, group, pending, await pending_of(way, way.target, group, last, end, -1))
        if end == b"+":
            break
        last = end
    left: list[Command] = [("XGROUP", "DELCONSUMER", way.key, group, name) for name in sorted(theirs - mine)]
    await way.ask(way.target, left)


async def pending_of(
    way: Way, server: Connection, group: bytes, after: bytes, last: bytes, count: int
) -> dict[bytes, Pending]:
    """Pending entries by id, from behind `after` to `last`; `count` of them at most, or all (-1), in steps."""
    found: dict[bytes, Pending] = {}
    step = MAX_ELEMENTS if count < 0 else count
    while True:
        start = b"(" + after if after else b"-"
        time, rows = await way.ask(server, [("TIME",), ("XPENDING", way.key, group, start, last, step)])
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        found.update({row[0]: Pending(row[1], now_ms - int(row[2]), int(row[3])) for row in rows})
        if count >= 0 or len(rows) < step:
            return found
        after = rows[-1][0]


async def _claim(way: Way, group: bytes, mine: dict[bytes, Pending], theirs: dict[bytes, Pending]) -> None:
    claims: list[Command] = [
        (
            *("XCLAIM", way.key, group, pending.consumer, 0, entry),
            *("TIME", max(0, pending.delivered_ms), "RETRYCOUNT", pending.times, "FORCE", "JUSTID"),
        )
        for entry, pending in mine.items()
        if not pending.like(theirs.get(entry))
    ]
    if not all(await way.ask(way.target, claims)):
        raise NotInSteps("an entry is pending that is no longer in the stream")
    settled = [entry for entry in theirs if entry not in mine]
    for start in range(0, len(settled), MAX_ELEMENTS):
        await way.write("XACK", way.key, group, *settled[start : start + MAX_ELEMENTS])
