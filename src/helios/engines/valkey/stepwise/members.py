"""Hashes, sets and sorted sets: values whose parts have names."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.engines.valkey.stepwise.key_copy import MAX_ELEMENTS, BoundedTasks, ChangedMeanwhile, KeyCopy, ahead
from helios.errors import PayloadRefused

# What Valkey and Redis say of a database in which no hash has a field with an end.
_NO_FIELD_ENDS = re.compile(rb"^db0:.*\b(?:keys_with_volatile_items|subexpiry)=0\b", re.MULTILINE)
_NEVER = -1  # when a field ends that has no end of its own


@dataclass(frozen=True, slots=True)
class Rows:
    """Some members: their names, what belongs to each, and for the fields of hashes when they end (Unix ms)."""

    names: list[bytes]
    values: list[Any]
    ends: list[int] | None = None

    @property
    def size(self) -> int:
        """Bytes on the way, roughly."""
        values = sum(map(len, self.values)) if isinstance(self.values[0], bytes) else 8 * len(self.values)
        return sum(map(len, self.names)) + values

    def unlike(self, others: Rows) -> Rows:
        """These without those that `others`, of the same names in the same order, has just so."""
        if self.values == others.values and self.ends == others.ends:
            return Rows([], [])
        mine, theirs = self.ends or [_NEVER] * len(self.names), others.ends or [_NEVER] * len(self.names)
        wanted = [i for i, value in enumerate(self.values) if value != others.values[i] or mine[i] != theirs[i]]
        ends = None if self.ends is None else [self.ends[i] for i in wanted]
        return Rows([self.names[i] for i in wanted], [self.values[i] for i in wanted], ends)


class Members(Protocol):
    """The commands of one type."""

    length: str
    remove: str
    scan: str
    width: int  # items that a scan gives for each member

    def steps(self, copy: KeyCopy, count: int) -> AsyncGenerator[Rows, None]:
        """Every member of the source's value; one that stays is given at least once."""

    async def held(self, copy: KeyCopy, connection: Connection, names: Sequence[bytes]) -> Rows:
        """What a server has under these names; None as the value where it has nothing."""

    def writes(self, key: bytes, rows: Rows) -> list[Command]:
        """The commands that write these members."""


class Set:
    """A set: names only."""

    length, remove, scan, width = "SCARD", "SREM", "SSCAN", 1

    async def steps(self, copy: KeyCopy, count: int) -> AsyncGenerator[Rows, None]:
        cursor = b"0"
        while True:
            cursor, names = await copy.read("SSCAN", copy.key, cursor, "COUNT", count)
            if names:
                yield Rows(names, [1] * len(names))
            if cursor == b"0":
                return

    async def held(self, copy: KeyCopy, connection: Connection, names: Sequence[bytes]) -> Rows:
        (values,) = await copy.ask(connection, [("SMISMEMBER", copy.key, *names)])
        return Rows(list(names), [value or None for value in values])

    def writes(self, key: bytes, rows: Rows) -> list[Command]:
        return [("SADD", key, *rows.names)]


class SortedSet:
    """A sorted set, read by rank: the target's skip list grows fastest in order.

    Scores travel as the shortest decimals that mean the same double. (Servers do not show a zero's sign.)
    """

    length, remove, scan, width = "ZCARD", "ZREM", "ZSCAN", 2

    async def steps(self, copy: KeyCopy, count: int) -> AsyncGenerator[Rows, None]:
        rank = 0
        while True:
            pairs = await copy.read("ZRANGE", copy.key, rank, rank + count - 1, "WITHSCORES")
            if pairs:
                yield Rows([name for name, _ in pairs], [score for _, score in pairs])
            if len(pairs) < count:
                return
            rank += count

    async def held(self, copy: KeyCopy, connection: Connection, names: Sequence[bytes]) -> Rows:
        (values,) = await copy.ask(connection, [("ZMSCORE", copy.key, *names)])
        return Rows(list(names), values)

    def writes(self, key: bytes, rows: Rows) -> list[Command]:
        arguments: list[bytes | str] = [b""] * (2 * len(rows.names))
        arguments[::2] = [repr(float(score)) for score in rows.values]
        arguments[1::2] = rows.names
        return [("ZADD", key, *arguments)]


class Hash:
    """A hash, with the ends of its fields where the servers know such a thing (Valkey 9, Redis 7.4)."""

    length, remove, scan, width = "HLEN", "HDEL", "HSCAN", 2

    def __init__(self) -> None:
        self._without_ends: set[Connection] = set()

    async def steps(self, copy: KeyCopy, count: int) -> AsyncGenerator[Rows, None]:
        for server in (copy.source, copy.target):
            (keyspace,) = await copy.ask(server, [("INFO", "keyspace")])
            if _NO_FIELD_ENDS.search(keyspace):  # a field that gets one from now on changes its key
                self._without_ends.add(server)
        cursor = b"0"
        while True:
            cursor, flat = await copy.read("HSCAN", copy.key, cursor, "COUNT", count)
            names = flat[::2]
            if names:
                yield Rows(names, flat[1::2], await self._ends(copy, copy.source, names))
            if cursor == b"0":
                return

    async def held(self, copy: KeyCopy, connection: Connection, names: Sequence[bytes]) -> Rows:
        (values,) = await copy.ask(connection, [("HMGET", copy.key, *names)])
        return Rows(list(names), values, await self._ends(copy, connection, names))

    def writes(self, key: bytes, rows: Rows) -> list[Command]:
        arguments: list[bytes] = [b""] * (2 * len(rows.names))
        arguments[::2] = rows.names
        arguments[1::2] = rows.values
        commands: list[Command] = [("HSET", key, *arguments)]  # which takes the ends away
        by_end: dict[int, list[bytes]] = {}
        for name, end in zip(rows.names, rows.ends or (), strict=False):
            if end != _NEVER:
                by_end.setdefault(end, []).append(name)
        commands += (("HPEXPIREAT", key, end, "FIELDS", len(names), *names) for end, names in by_end.items())
        return commands

    async def _ends(self, copy: KeyCopy, connection: Connection, names: Sequence[bytes]) -> list[int] | None:
        if connection in self._without_ends:
            return None
        command: Command = ("HPEXPIRETIME", copy.key, "FIELDS", len(names), *names)
        (reply,) = await connection.execute_many([command], timeout_s=copy.timeout_s)
        if isinstance(reply, ErrorReply):
            if "unknown command" not in str(reply):
                raise ChangedMeanwhile(str(reply))
            self._without_ends.add(connection)
            return None
        if len(reply) != len(names):
            raise ChangedMeanwhile("the hash has gone")
        return [max(_NEVER, end) for end in reply]


async def copy_members(copy: KeyCopy, kind: Members, *, patch: bool) -> None:
    """Every member of the source; with `patch`, nothing is written that is there, and then what is too much goes."""
    length = int(await copy.read(kind.length, copy.key))
    count = await copy.elements_in_step(length)
    seen = 0
    ending = False
    async with BoundedTasks() as writing, aclosing(ahead(kind.steps(copy, count))) as steps:
        async for rows in steps:
            seen += len(rows.names)
            ending = ending or (rows.ends is not None and max(rows.ends) != _NEVER)
            await copy.pace(rows.size)
            await writing.put(_write(copy, kind, rows, patch=patch))
    if patch:
        # Fields that have ended count in HLEN until the server removes them: then lengths prove nothing.
        counts = int(await copy.read(kind.length, copy.key)), int(await copy.write(kind.length, copy.key))
        if counts[0] != counts[1] or seen != counts[0] or ending:
            await _remove_surplus(copy, kind, count)


async def _write(copy: KeyCopy, kind: Members, rows: Rows, *, patch: bool) -> None:
    if patch:
        rows = rows.unlike(await kind.held(copy, copy.target, rows.names))
        if not rows.names:
            return
    commands = kind.writes(copy.key, rows)
    replies = await copy.target.execute_many(commands, timeout_s=copy.timeout_s)
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, ErrorReply):
            if "unknown command" in str(reply):
                raise PayloadRefused(
                    f"{copy.target.endpoint} cannot take {copy.key[:100]!r}, whose fields end by themselves ({reply}): "
                    "move keys only to servers of the same or a newer version"
                )
            raise copy.target.failure(reply, f"{command[0]!s} of {copy.key[:100]!r}")


async def _remove_surplus(copy: KeyCopy, kind: Members, count: int) -> None:
    """Walk through the target's members and remove those that the source does not have."""
    surplus: list[bytes] = []
    cursor: Reply = b"0"
    while True:
        cursor, flat = await copy.write(kind.scan, copy.key, cursor, "COUNT", count)
        names = flat[:: kind.width]
        if names:
            held = await kind.held(copy, copy.source, names)
            surplus += (name for name, value in zip(names, held.values, strict=True) if value is None)
        if cursor == b"0":
            break
    for start in range(0, len(surplus), MAX_ELEMENTS):
        await copy.write(kind.remove, copy.key, *surplus[start : start + MAX_ELEMENTS])
