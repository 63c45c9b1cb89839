"""Keys and values of a Valkey or Redis server: listed, read, written, compared, copied, deleted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from helios.engines.valkey.connection import Command, ErrorReply, Reply
from helios.engines.valkey.conversation import Conversation
from helios.engines.valkey.digests import digest_of
from helios.engines.valkey.payloads import accepts, is_payload_error, may_be_stream, sample_payload
from helios.engines.valkey.statistics import hits_behind, stream_writes_in
from helios.engines.valkey.stepwise import ChangedMeanwhile, KeyCopy, NotInSteps, copy_value
from helios.engines.valkey.stream_marks import stream_marks
from helios.engines.valkey.understanding import understood
from helios.errors import EngineDenied, EngineError, EngineUnreachable, PayloadRefused
from helios.ports.engine import Dumped, Engine, Notes, Pace, StepCopy, StreamState, at_once

_SPECIAL = re.compile(rb"[][*?^\\-]")  # what a glob would take for more than itself
_TAKE_OVER = """
local made = redis.pcall('RESTORE', KEYS[1], ARGV[1], ARGV[2], 'ABSTTL')
if made.err and not string.find(made.err, 'BUSYKEY', 1, true) then return made end
redis.call('SADD', KEYS[2], KEYS[1])
return made.err and 0 or 1
"""
_DIGESTS_AT_ONCE = 16  # values that are read side by side
_STREAMS_AT_ONCE = 50  # each tells its first and its last entry, too
_UNLINK_KEYS = 500  # keys in one UNLINK, so that no single command holds the server up
_NO_EXPIRY, _NO_KEY = -1, -2  # answers of PEXPIRETIME


@understood
class Keys(Conversation):
    """What a server holds in database 0."""

    async def count(self) -> int:
        """The number of keys in database 0 (DBSIZE)."""
        return int(await self._execute("DBSIZE"))

    async def scan(self, cursor: int, count: int, beginning: bytes = b"") -> tuple[int, list[bytes]]:
        """The next cursor (0 = the end) and, of about `count` keys, those that begin so."""
        match: list[str | bytes] = ["MATCH", _SPECIAL.sub(rb"\\\g<0>", beginning) + b"*"] if beginning else []
        following, keys = await self._execute("SCAN", cursor, *match, "COUNT", count)
        return int(following), list(keys)

    async def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether the server has it."""
        replies = await self._execute_many([("EXISTS", key) for key in keys])
        return [bool(self._value(reply, "EXISTS", key)) for key, reply in zip(keys, replies, strict=True)]

    async def dump(self, keys: Sequence[bytes]) -> list[Dumped | None]:
        """For each key its value, None where it does not exist (any more).

        TTL and value are read one after the other: a key that changes between is one that a change
        stream names, and must be read again.
        """
        by_frequency = await self._begin_reading()
        usage = "FREQ" if by_frequency else "IDLETIME"
        commands: list[Command] = []
        for key in keys:
            commands += (("OBJECT", usage, key), ("PEXPIRETIME", key), ("DUMP", key))
        replies = await self._execute_many(commands)
        found: list[Dumped | None] = []
        for key, used, end, dump in zip(keys, replies[::3], replies[1::3], replies[2::3], strict=True):
            expire_at_ms = int(self._value(end, "PEXPIRETIME", key))
            payload = self._value(dump, "DUMP", key)
            if payload is None or expire_at_ms == _NO_KEY:
                found.append(None)
                continue
            ends = None if expire_at_ms == _NO_EXPIRY else expire_at_ms
            known = used if isinstance(used, int) else None  # an error where the server's policy has just changed
            idle_s, frequency = (None, known) if by_frequency else (known, None)
            found.append(Dumped(payload, ends, may_be_stream(payload), idle_s, frequency))
        return found

    async def _begin_reading(self) -> bool:
        """From now on this connection's reading is no use of a key; whether the server counts how often there is one.

        Servers before 7.2 have no such connections, and go on without.
        """
        if self._by_frequency is None:
            policy, _ = await self._execute_many([("CONFIG", "GET", "maxmemory-policy"), ("CLIENT", "NO-TOUCH", "ON")])
            said = policy.get(b"maxmemory-policy", b"") if isinstance(policy, dict) else b""
            self._by_frequency = bytes(said).endswith(b"lfu")
        return self._by_frequency

    async def restore(self, items: Sequence[tuple[bytes, Dumped]], *, replace: bool = True) -> list[bool]:
        """Write the keys with their absolute TTL; False where `replace` is off and the key existed.

        A key whose time has passed is not there afterwards. All are tried; the first failure is raised:
        PayloadRefused if the server cannot read a payload, EngineError (out of memory, read only) otherwise.
        """
        options = ("REPLACE", "ABSTTL") if replace else ("ABSTTL",)
        replies = await self._execute_many(
            [
                ("RESTORE", key, dumped.expire_at_ms or 0, dumped.payload, *options, *_used(dumped))
                for key, dumped in items
            ]
        )
        written: list[bool] = []
        for (key, _), reply in zip(items, replies, strict=True):
            if isinstance(reply, ErrorReply) and str(reply).startswith("BUSYKEY") and not replace:
                written.append(False)
                continue
            if isinstance(reply, ErrorReply) and is_payload_error(str(reply)):
                raise await self._payload_refused(key, reply)
            self._value(reply, "RESTORE", key)
            written.append(True)
        return written

    async def take_over(self, items: Sequence[tuple[bytes, Dumped]], register: bytes) -> list[bool]:
        """Write the keys that are not there yet, and enter each into a set, by a script for each key."""
        replies = await self._execute_many(
            [("EVAL", _TAKE_OVER, 2, key, register, dumped.expire_at_ms or 0, dumped.payload) for key, dumped in items]
        )
        written: list[bool] = []
        for (key, _), reply in zip(items, replies, strict=True):
            if isinstance(reply, ErrorReply) and is_payload_error(str(reply)):
                raise await self._payload_refused(key, reply)
            written.append(bool(self._value(reply, "RESTORE", key)))
        return written

    async def register(self, register: bytes, keys: Sequence[bytes]) -> None:
        """Enter keys into a register."""
        await self._execute("SADD", register, *keys)

    async def registered(self, register: bytes) -> frozenset[bytes]:
        """The keys in a register, which is a set."""
        return frozenset(await self._execute("SMEMBERS", register))

    async def sizes(self, keys: Sequence[bytes]) -> list[int]:
        """For each key about how many bytes its value occupies, by five of its elements; 0 where it does not exist."""
        replies = await self._execute_many([("MEMORY", "USAGE", key) for key in keys])
        return [int(self._value(reply, "MEMORY USAGE", key) or 0) for key, reply in zip(keys, replies, strict=True)]

    async def stream_marks(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a digest of XINFO STREAM FULL, with one entry of each list; None where it is no stream.

        Whatever changes a group without changing ids or counts sets the time at which its consumer was seen.
        """
        return await stream_marks(self._connection, keys, self._timeout_s)

    async def stream_writes(self) -> bytes:
        """What the server counts of the commands that change streams unnamed; any call of one shows."""
        text = self._value(await self._execute("INFO", "commandstats"), "INFO")
        return stream_writes_in(text)

    async def stream_states(self, keys: Sequence[bytes]) -> list[StreamState | None]:
        """For each key what it knows as a stream, None where it is none."""
        await self._begin_reading()
        found: list[StreamState | None] = []
        for start in range(0, len(keys), _STREAMS_AT_ONCE):
            replies = await self._execute_many(
                [("XINFO", "STREAM", key) for key in keys[start : start + _STREAMS_AT_ONCE]]
            )
            found += map(_stream_state, replies)
        return found

    async def frequencies(self, keys: Sequence[bytes]) -> list[int]:
        """For each key about how often it has been accessed lately; 0 where it is gone or the server does not count."""
        replies = await self._execute_many([("OBJECT", "FREQ", key) for key in keys])
        return [hits_behind(reply) if isinstance(reply, int) else 0 for reply in replies]

    async def copy_in_steps(
        self,
        key: bytes,
        target: Engine,
        *,
        patch: bool,
        notes: Notes | None = None,
        pace: Pace = at_once,
        step_bytes: int = 256 << 10,
    ) -> StepCopy:
        """Make the target's value and TTL of `key` what they are here, in commands of about `step_bytes` each.

        Copied whole, at the cost that DUMP and RESTORE have: values of types that servers learned from modules,
        and streams in which an entry is pending that was deleted. A single element is never divided.
        """
        if not isinstance(target, Keys):
            raise EngineError(f"{key[:100]!r} cannot be copied to an engine of another kind")
        by_frequency = await self._begin_reading()
        await target._begin_reading()  # nor is its writing, there
        word = "FREQ" if by_frequency else "IDLETIME"
        (used,) = await self._execute_many([("OBJECT", word, key)])
        copy = KeyCopy(
            key,
            self._connection,
            target._connection,
            self._timeout_s,
            step_bytes,
            pace,
            {} if notes is None else notes,
            (word, used) if isinstance(used, int) else None,
        )
        try:
            return StepCopy.COPIED if await copy_value(copy, patch=patch) else StepCopy.ABSENT
        except ChangedMeanwhile:
            await target.delete([key])
            return StepCopy.CHANGED
        except NotInSteps:
            return await self._copy_whole(key, target, pace)

    async def _copy_whole(self, key: bytes, target: Engine, pace: Pace) -> StepCopy:
        (dumped,) = await self.dump([key])
        if dumped is None:
            await target.delete([key])
            return StepCopy.ABSENT
        await pace(len(dumped.payload))
        await target.restore([(key, dumped)])
        return StepCopy.COPIED

    async def digests(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a digest of its type, content and end; None where it does not exist.

        Not told apart: when consumers of streams were last seen, and when entries were delivered to them.
        """
        await self._begin_reading()
        commands: list[Command] = []
        for key in keys:
            commands += (("TYPE", key), ("PEXPIRETIME", key))
        replies = await self._execute_many(commands)
        found: list[bytes | None] = []
        for start in range(0, len(keys), _DIGESTS_AT_ONCE):
            part = range(start, min(start + _DIGESTS_AT_ONCE, len(keys)))
            found += await asyncio.gather(*(self._digest(keys[i], *replies[2 * i : 2 * i + 2]) for i in part))
        return found

    async def _digest(self, key: bytes, kind: Reply, expire_at_ms: Reply) -> bytes | None:
        kind = self._value(kind, "TYPE", key)
        end = int(self._value(expire_at_ms, "PEXPIRETIME", key))
        if kind == b"none" or end == _NO_KEY:
            return None
        return await digest_of(self._connection, key, kind, end, self._timeout_s)

    async def sample_payload(self) -> bytes:
        """What this server writes for a small value, made and removed in one transaction."""
        return await sample_payload(self._connection, self._timeout_s)

    async def accepts(self, payload: bytes) -> bool:
        """Whether this server can read a payload, tried and removed in one transaction."""
        return await accepts(self._connection, payload, self._timeout_s)

    async def delete(self, keys: Sequence[bytes]) -> int:
        """Remove the keys without blocking the server (UNLINK); the number that existed."""
        steps = [keys[at : at + _UNLINK_KEYS] for at in range(0, len(keys), _UNLINK_KEYS)]
        replies = await self._execute_many([("UNLINK", *step) for step in steps])
        return sum(int(self._value(reply, "UNLINK", step[0])) for step, reply in zip(steps, replies, strict=True))

    async def flush(self) -> None:
        """Remove every key of database 0; they are gone when this returns, their memory a little later."""
        await self._execute("FLUSHDB", "ASYNC")

    async def _payload_refused(self, key: bytes, reply: ErrorReply) -> PayloadRefused:
        try:
            info = await self.info()
            server = f"{info.product} {info.version}"
        except (EngineDenied, EngineUnreachable):
            server = "a server of unknown version"
        return PayloadRefused(
            f"{self._connection.endpoint} ({server}) cannot read the value of {key[:100]!r} as its source wrote it "
            f"({reply}): the source is a newer server; move keys only to servers of the same or a newer version"
        )


def _used(dumped: Dumped) -> tuple[str | int, ...]:
    """The options of RESTORE by which the target goes on with what the source knows of a key's use."""
    if dumped.frequency is not None:
        return ("FREQ", dumped.frequency)
    return () if dumped.idle_s is None else ("IDLETIME", dumped.idle_s)


def _stream_state(about: Reply) -> StreamState | None:
    if isinstance(about, ErrorReply):
        return None
    return StreamState(
        about[b"last-generated-id"], about[b"entries-added"], about[b"max-deleted-entry-id"], about[b"groups"]
    )
