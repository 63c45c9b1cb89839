"""A Valkey or Redis server as an Engine."""

from __future__ import annotations

import asyncio
import marshal
import re
from collections.abc import Mapping, Sequence
from hashlib import md5

from helios.engines.valkey.changes import TrackingStream
from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.engines.valkey.digests import digest_of
from helios.engines.valkey.durability import fsync_policy, persist, refusal
from helios.engines.valkey.payloads import accepts, is_payload_error, may_be_stream, sample_payload
from helios.engines.valkey.rights import setuser
from helios.engines.valkey.statistics import hits_behind, operations_in, script_calls_in
from helios.engines.valkey.stepwise import ChangedMeanwhile, KeyCopy, NotInSteps, copy_value
from helios.engines.valkey.understanding import understood
from helios.errors import EngineDenied, EngineError, EngineUnreachable, PayloadRefused
from helios.ports.engine import (
    CLIENT_NAME,
    ChangeStream,
    Dumped,
    Engine,
    EngineInfo,
    Notes,
    Pace,
    ScriptEnd,
    StepCopy,
    StreamState,
    UserRole,
    at_once,
)

_SPECIAL = re.compile(rb"[][*?^\\-]")  # what a glob would take for more than itself
_TAKE_OVER = """
local made = redis.pcall('RESTORE', KEYS[1], ARGV[1], ARGV[2], 'ABSTTL')
if made.err and not string.find(made.err, 'BUSYKEY', 1, true) then return made end
redis.call('SADD', KEYS[2], KEYS[1])
return made.err and 0 or 1
"""
_DIGESTS_AT_ONCE = 16  # values that are read side by side
_STREAMS_AT_ONCE = 50  # each tells its first and its last entry, too
_MARKS_AT_ONCE = 200  # each tells one entry
_MARSHAL = 2  # of later versions the same value may look different
_UNLINK_KEYS = 500  # keys in one UNLINK, so that no single command holds the server up
_NO_EXPIRY, _NO_KEY = -1, -2  # answers of PEXPIRETIME
_NAMELESS_S = 2  # how long a connection of Helios may take to say who it is


@understood
class ValkeyEngine:
    """One connection to one server, as one user. Not reopened when it is lost: open another engine.

    `timeout_s` bounds every call; after EngineUnreachable on a time-out the connection goes on, and what is
    sent later runs after what was sent before.
    """

    def __init__(self, connection: Connection, *, connect_timeout_s: float, timeout_s: float) -> None:
        self._connection = connection
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._by_frequency: bool | None = None

    @property
    def connection(self) -> Connection:
        """The connection itself, for commands that the port does not name."""
        return self._connection

    async def info(self) -> EngineInfo:
        """Who answers there. `keys` counts those of all databases, also where `count` (database 0) is less.

        Where the server does not tell how often it syncs its log, that is given as "no": nothing is promised.
        """
        text, config = await self._execute_many([("INFO", "default", "commandstats"), ("CONFIG", "GET", "appendfsync")])
        text = self._value(text, "INFO").decode(errors="replace")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        valkey = fields.get("valkey_version")
        try:
            return EngineInfo(
                product="valkey" if valkey else "redis",
                version=valkey or fields["redis_version"],
                run_id=fields["run_id"],
                keys=sum(_keys_of_database(value) for name, value in fields.items() if name[:2] == "db"),
                used_memory_bytes=int(fields.get("used_memory", 0)),
                aof_enabled=fields.get("aof_enabled") == "1",
                aof_fsync=fsync_policy(config),
                helios_node=fields.get("helios_node"),
                dataset_bytes=int(fields.get("used_memory_dataset", 0)),
                operations=operations_in(fields),
                script_calls=script_calls_in(fields),
                counts_accesses=fields.get("maxmemory_policy", "").endswith("lfu"),
            )
        except KeyError as missing:
            raise EngineError(f"{self._connection.endpoint} does not say its {missing} in INFO") from None

    async def count(self) -> int:
        """The number of keys in database 0 (DBSIZE)."""
        return int(await self._execute("DBSIZE"))

    async def now_s(self) -> float:
        """What the server's clock says (TIME): Unix seconds."""
        seconds, microseconds = await self._execute("TIME")
        return int(seconds) + int(microseconds) / 1e6

    async def refuses_writes(self) -> str:
        """Why the server takes no writes at the moment and what to do about it; empty where it takes them.

        Empty as well where it does not let this user ask.
        """
        try:
            return await refusal(self._connection)
        except EngineDenied:
            return ""

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
        found: list[bytes | None] = []
        for start in range(0, len(keys), _MARKS_AT_ONCE):
            commands: list[Command] = [("TIME",)]
            commands += (("XINFO", "STREAM", key, "FULL", "COUNT", 1) for key in keys[start : start + _MARKS_AT_ONCE])
            (seconds, microseconds), *replies = await self._execute_many(commands)
            now_ms = int(seconds) * 1000 + int(microseconds) // 1000
            found += (_stream_mark(reply, now_ms) for reply in replies)
        return found

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
        if not isinstance(target, ValkeyEngine):
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

    async def libraries(self) -> dict[bytes, bytes]:
        """The server's libraries of functions: code by name."""
        listed = await self._execute("FUNCTION", "LIST", "WITHCODE")
        return {library[b"library_name"]: library[b"library_code"] for library in listed}

    async def replace_libraries(self, libraries: Mapping[bytes, bytes]) -> None:
        """Make these the server's libraries, one after the other. Raises EngineError for code that it refuses."""
        present = await self.libraries()
        # What goes or changes goes first: a function may have moved from one library to another.
        gone = [name for name, code in present.items() if libraries.get(name) != code]
        fresh = [name for name, code in libraries.items() if present.get(name) != code]
        commands: list[Command] = [("FUNCTION", "DELETE", name) for name in gone]
        commands += [("FUNCTION", "LOAD", libraries[name]) for name in fresh]
        for reply, name in zip(await self._execute_many(commands), [*gone, *fresh], strict=True):
            self._value(reply, "FUNCTION", name)

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

    async def persist(self, timeout_s: float) -> bool:
        """Wait until everything that the server had executed before this call is on its disk.

        True if it is; False if the server does not promise it (AOF off, never synced, or not while it rewrites).
        Costs a round trip with `appendfsync always`, a little more than a second with `everysec`.
        Raises EngineUnreachable on time-out.
        """
        return await persist(self._connection, timeout_s)

    async def end_script(self) -> ScriptEnd:
        """End the script or function that runs (SCRIPT KILL, FUNCTION KILL), unless it has written something."""
        # Each of the two says BUSY of what only the other can end.
        for reply in await self._execute_many([("SCRIPT", "KILL"), ("FUNCTION", "KILL")]):
            if not isinstance(reply, ErrorReply):
                return ScriptEnd.ENDED
            if str(reply).startswith("UNKILLABLE"):
                return ScriptEnd.UNKILLABLE
            if not str(reply).startswith(("NOTBUSY", "BUSY")):
                self._value(reply, "SCRIPT KILL")
        return ScriptEnd.NONE

    async def memory(self, word: str) -> str:
        """What the server answers to MEMORY with this word: DOCTOR, MALLOC-STATS or PURGE."""
        return bytes(await self._execute("MEMORY", word)).decode("utf-8", "replace")

    async def changes(self, *, own: bool = True, beginning: bytes = b"") -> ChangeStream:
        """Open a change stream on a connection of its own; nothing that changes after this returns is missed.

        Without `own` it names what others change, told apart by this engine's connection.
        """
        return await TrackingStream.open(
            self._connection.endpoint,
            writer=None if own else self._connection,
            beginning=beginning,
            connect_timeout_s=self._connect_timeout_s,
            timeout_s=self._timeout_s,
        )

    async def users(self) -> list[str]:
        """The names of the server's ACL users. Raises EngineDenied where that is not allowed."""
        return [name.decode() for name in await self._administer("ACL", "USERS")]

    async def strangers(self) -> list[str]:
        """The addresses of clients that neither have Helios' name nor a user that Helios made."""
        listed = (await self._administer("CLIENT", "LIST")).decode(errors="backslashreplace")
        clients = [dict(field.partition("=")[::2] for field in line.split()) for line in listed.splitlines()]
        return [
            client.get("addr", "?")
            for client in clients
            if client.get("name") != CLIENT_NAME
            and not client.get("user", "").startswith("helios-")
            # Replicas and masters belong to the server itself.
            and not set(client.get("flags", "")) & {"S", "M"}
            # One that has only just connected may be of Helios and about to give its name.
            and not (client.get("cmd") == "NULL" and int(client.get("age", 0)) < _NAMELESS_S)
        ]

    async def allow(self, user: str, password: str, role: UserRole) -> None:
        """Create or replace an ACL user. Raises EngineDenied where that is not allowed."""
        await self._administer(*setuser(user, password, role))

    async def force_off(self, user: str) -> None:
        """Take every right from a user, end its connections and delete it. Nothing of it runs after this returns.

        A user that does not exist is no error. Raises EngineError for the engine's own user, and
        EngineDenied where users cannot be administered.
        """
        if user == (self._connection.endpoint.user or "default"):
            raise EngineError(f"user {user!r} of {self._connection.endpoint} cannot force itself off")
        rights, kill, delete = await self._execute_many(
            [("ACL", "SETUSER", user, "reset"), ("CLIENT", "KILL", "USER", user), ("ACL", "DELUSER", user)]
        )
        for step, reply in (("ACL SETUSER", rights), ("CLIENT KILL", kill), ("ACL DELUSER", delete)):
            self._value(reply, step, user.encode())

    async def close(self) -> None:
        """End the connection."""
        await self._connection.close()

    async def _administer(self, *command: str) -> Reply:
        """The same for users, which managed servers deny in many ways. Raises EngineDenied for any of them."""
        try:
            return await self._execute(*command)
        except EngineUnreachable:
            raise
        except EngineError as error:
            if "unknown command" in str(error) or "unknown subcommand" in str(error):
                raise EngineDenied(str(error)) from error
            raise

    async def _execute(self, *command: bytes | str | int) -> Reply:
        return await self._connection.execute(*command, timeout_s=self._timeout_s)

    async def _execute_many(self, commands: Sequence[Command]) -> list[Reply]:
        return await self._connection.execute_many(commands, timeout_s=self._timeout_s)

    def _value(self, reply: Reply, command: str, subject: bytes | None = None) -> Reply:
        """`reply` unless it is an error, which is raised with what it was about."""
        if isinstance(reply, ErrorReply):
            raise self._connection.failure(reply, command if subject is None else f"{command} of {subject[:100]!r}")
        return reply

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


def _stream_mark(about: Reply, now_ms: int) -> bytes | None:
    if isinstance(about, ErrorReply):
        return None
    seen_ms = (int(consumer[b"seen-time"]) for group in about[b"groups"] for consumer in group[b"consumers"])
    if any(moment_ms >= now_ms for moment_ms in seen_ms):
        return b""  # it may be seen once more within this millisecond
    return md5(marshal.dumps(about, _MARSHAL), usedforsecurity=False).digest()


def _keys_of_database(line: str) -> int:
    """The count in a line such as `keys=2,expires=0,avg_ttl=0`."""
    return sum(int(part[5:]) for part in line.split(",") if part.startswith("keys="))
