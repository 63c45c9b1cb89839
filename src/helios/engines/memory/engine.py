"""Servers in memory as engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from helios.engines.memory.connection import MemoryConnection
from helios.engines.memory.server import Listener, MemoryServer
from helios.errors import ChangesLost, EngineError, EngineUnreachable
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import (
    ChangeStream,
    Dumped,
    Engine,
    EngineInfo,
    Notes,
    Pace,
    Replication,
    ScriptEnd,
    StepCopy,
    StreamState,
    UserRole,
    Vitals,
    at_once,
)

_Again: TypeAlias = Callable[[], Awaitable[MemoryConnection]]


class MemoryChangeStream:
    """Keys named by the server wait with the listener until a barrier's reply brings them."""

    def __init__(self, server: MemoryServer, listener: Listener) -> None:
        self._server = server
        self._listener = listener
        self._brought: set[bytes] = set()

    async def barrier(self) -> set[bytes]:
        """Every key named since the last call, at least those changed before this call was made."""
        connection = self._listener.connection
        try:
            await connection.call(self._bring)
        except EngineUnreachable as error:
            if connection.lost is None:
                raise
            raise ChangesLost(f"changes went unseen, copy everything again: {error}") from error
        if self._listener.broken is not None:
            raise ChangesLost(
                f"changes of {connection.endpoint} went unseen, copy everything again: {self._listener.broken}"
            )
        brought, self._brought = self._brought, set()
        return brought

    async def close(self) -> None:
        """Stop listening."""
        self._server.end(self._listener.connection)

    def _bring(self) -> None:
        # Kept on this side at once: a call that is cancelled or late leaves the keys to the next one.
        self._server.name_expired()
        self._brought |= self._listener.pending
        self._listener.pending = set()


class MemoryEngine:
    """A connection to a MemoryServer as an Engine, with the commands of clients (get, set, incr) beside it."""

    def __init__(
        self,
        server: MemoryServer,
        connection: MemoryConnection,
        again: _Again,
        servers: Mapping[Address, MemoryServer] | None = None,
    ) -> None:
        self.connection = connection
        self._server = server
        self._again = again
        self._servers = servers or {}

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        return await self.connection.call(partial(self._server.get, key))

    async def set(self, key: bytes, value: bytes, expire_at_ms: int | None = None) -> None:
        """Write a key."""
        await self.connection.call(partial(self._server.set, key, value, expire_at_ms))

    async def incr(self, key: bytes) -> int:
        """Count up."""
        return await self.connection.call(partial(self._server.incr, key))

    async def info(self) -> EngineInfo:
        """Who answers there."""
        return await self.connection.call(self._server.info)

    async def count(self) -> int:
        """The number of keys."""
        return len(await self.connection.call(self._server.keys))

    async def now_s(self) -> float:
        """What the server's clock says."""
        return await self.connection.call(self._server.now_s)

    async def refuses_writes(self) -> str:
        """Never: it has no disk that could be full."""
        return await self.connection.call(str)

    async def vitals(self) -> Vitals:
        """How many keys there are."""
        return Vitals(await self.count(), "")

    async def scan(self, cursor: int, count: int, beginning: bytes = b"") -> tuple[int, list[bytes]]:
        """The next cursor and, of some keys, those that begin so."""
        following, keys = await self.connection.call(partial(self._server.scan, cursor, count))
        return following, [key for key in keys if key.startswith(beginning)]

    async def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether the server has it."""
        return await self.connection.call(lambda: [self._server.get(key) is not None for key in keys])

    async def dump(self, keys: Sequence[bytes]) -> list[Dumped | None]:
        """For each key its value, None where it does not exist."""
        return await self.connection.call(partial(self._server.dump, keys))

    async def restore(self, items: Sequence[tuple[bytes, Dumped]], *, replace: bool = True) -> list[bool]:
        """Write the keys with their absolute TTL."""
        return await self.connection.call(partial(self._server.restore, items, replace))

    async def take_over(self, items: Sequence[tuple[bytes, Dumped]], register: bytes) -> list[bool]:
        """Write the keys that are not there yet, and enter each into a register."""
        return await self.connection.call(partial(self._server.take_over, items, register))

    async def register(self, register: bytes, keys: Sequence[bytes]) -> None:
        """Enter keys into a register."""
        await self.connection.call(partial(self._server.register, register, keys))

    async def registered(self, register: bytes) -> frozenset[bytes]:
        """The keys in a register."""
        return await self.connection.call(partial(self._server.registered, register))

    async def sizes(self, keys: Sequence[bytes]) -> list[int]:
        """For each key the bytes of its value, 0 where it does not exist."""
        return await self.connection.call(lambda: [len(self._server.get(key) or b"") for key in keys])

    async def frequencies(self, keys: Sequence[bytes]) -> list[int]:
        """Nothing is known: accesses are not counted."""
        return [0] * len(keys)

    async def stream_marks(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a mark of what it is as a stream, None where it is none."""
        return await self.connection.call(lambda: [self._server.stream_mark(key) for key in keys])

    async def stream_writes(self) -> bytes:
        """How many changes have not been named."""
        return await self.connection.call(lambda: b"%d" % self._server.unnamed)

    async def stream_states(self, keys: Sequence[bytes]) -> list[StreamState | None]:
        """For each key what it knows as a stream, None where it is none."""
        return await self.connection.call(lambda: [self._server.stream_state(key) for key in keys])

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
        """Make the target's value and TTL of `key` what they are here, a piece at a time."""
        if not isinstance(target, MemoryEngine):
            raise EngineError(f"{key!r} cannot be copied to an engine of another kind")
        there = await target.connection.call(partial(target._server.begin_pieces, key, patch))
        offset = 0
        while piece := await self.connection.call(partial(self._server.piece, key, offset, step_bytes)):
            await pace(len(piece))
            same = False
            if offset < there:
                same = piece == await target.connection.call(partial(target._server.piece, key, offset, len(piece)))
            if not same:
                await target.connection.call(partial(target._server.put_piece, key, offset, piece))
            offset += len(piece)
            if len(piece) < step_bytes:
                break
        ((dumped,), (length,)) = await asyncio.gather(self.dump([key]), self.sizes([key]))
        if dumped is None:
            await target.delete([key])
            return StepCopy.ABSENT
        if dumped.stream and notes is not None:
            notes[b"stream"] = b""
        if length != offset:
            await target.delete([key])
            return StepCopy.CHANGED
        await target.connection.call(partial(target._server.end_pieces, key, offset, dumped.expire_at_ms))
        return StepCopy.COPIED

    async def digests(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a digest of its value and end, None where it does not exist."""
        return await self.connection.call(partial(self._server.digests, keys))

    async def libraries(self) -> dict[bytes, bytes]:
        """The libraries of functions, which are only kept, never run: code by name."""
        return await self.connection.call(lambda: dict(self._server.libraries))

    async def replace_libraries(self, libraries: Mapping[bytes, bytes]) -> None:
        """Make these the server's libraries."""
        await self.connection.call(partial(self._server.replace_libraries, libraries))

    async def sample_payload(self) -> bytes:
        """What this server writes for an empty value."""
        return await self.connection.call(self._server.sample_payload)

    async def accepts(self, payload: bytes) -> bool:
        """Whether this server can read a payload."""
        return await self.connection.call(partial(self._server.accepts, payload))

    async def delete(self, keys: Sequence[bytes]) -> int:
        """Remove the keys; the number that existed."""
        return await self.connection.call(partial(self._server.delete, keys))

    async def flush(self) -> None:
        """Remove every key."""
        await self.connection.call(self._server.flush, administers=True)

    async def persist(self, timeout_s: float) -> bool:
        """Bring everything executed before to disk."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.connection.call(self._server.sync)
        except TimeoutError:
            raise EngineUnreachable(f"{self._server.name} did not sync within {timeout_s:g} s") from None

    async def replication(self) -> Replication:
        """What the server is to other servers, and how much it has."""
        return await self.connection.call(self._server.replication.state, administers=True)

    async def follow(self, leader: Member, user: str | None = None, password: str | None = None) -> None:
        """Make the server a read-only copy of `leader`, to which it logs in as `user` if one is given."""
        login = None if user is None else (user, password)
        follow = partial(self._server.replication.follow, leader.address, self._servers, login)
        await self.connection.call(follow, administers=True)

    async def forget_login(self) -> None:
        """Make the server forget how it logs in to its leader."""
        await self.connection.call(self._server.replication.forget_login, administers=True)

    async def keep_history(self) -> None:
        """It does."""
        await self.connection.call(lambda: None, administers=True)

    async def databases(self) -> int:
        """One."""
        return await self.connection.call(lambda: 1)

    async def detach(self) -> Replication:
        """Make the server follow nobody."""
        return await self.connection.call(self._server.replication.detach, administers=True)

    async def promote(self) -> Replication:
        """Make the server lead, under a new history."""
        return await self.connection.call(self._server.replication.promote, administers=True)

    async def round(self, count: int, timeout_s: float) -> int:
        """How many followers have all that the server had executed before this call; other calls need not wait."""
        return await self.connection.call(partial(self._server.replication.round, count, timeout_s), also_s=timeout_s)

    async def end_script(self) -> ScriptEnd:
        """There are no scripts here."""
        return await self.connection.call(lambda: ScriptEnd.NONE)

    async def memory(self, word: str) -> str:
        """Nothing: its memory is this process's."""
        return await self.connection.call(str)

    async def changes(self, *, own: bool = True, beginning: bytes = b"") -> ChangeStream:
        """Open a change stream on a connection of its own."""
        listener = Listener(await self._again(), None if own else self.connection, beginning)
        await listener.connection.call(partial(self._server.listen, listener))
        return MemoryChangeStream(self._server, listener)

    async def users(self) -> list[str]:
        """The names of the server's users."""
        return await self.connection.call(self._server.users, administers=True)

    async def strangers(self) -> list[str]:
        """Nobody but Helios can connect here."""
        return []

    async def allow(self, user: str, password: str, role: UserRole) -> None:
        """Create or replace a user."""
        await self.connection.call(partial(self._server.allow, user, password, role), administers=True)

    async def force_off(self, user: str) -> None:
        """Delete a user and end its connections."""
        if user == self.connection.user:
            raise EngineError(f"user {user!r} of {self._server.name} cannot force itself off")
        await self.connection.call(partial(self._server.force_off, user), administers=True)

    async def close(self) -> None:
        """End the connection; what was sent and not answered may still be carried out."""
        self._server.abandon(self.connection, "the connection was closed on this side")


class MemoryConnector:
    """Opens engines on servers in memory, as one `origin` that a server can be cut off from."""

    def __init__(
        self,
        servers: Mapping[Address, MemoryServer],
        *,
        origin: str = "",
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
    ) -> None:
        self._servers = servers
        self._origin = origin
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._opened: list[MemoryConnection] = []

    async def open(self, member: Member, *, user: str | None = None, password: str | None = None) -> MemoryEngine:
        """Connect to a member; without a user, as its administrator.

        Nothing that earlier engines of this connector left unanswered there as the same user runs after this
        returns. Raises EngineUnreachable or EngineDenied, naming the member and its address.
        """
        server = self._servers.get(member.address)
        if server is None:
            raise EngineUnreachable(f"{member.id} at {member.address} cannot be reached: nothing listens there")
        if user is None:
            user, password = server.admin or ("default", None)
        connection = await self._connect(server, member, user, password)
        formers = [former for former in self._opened if former.server is server and former.user == user and former.lost]
        try:
            for former in formers:
                if former.inbox:
                    await connection.call(partial(server.end, former))
                if former in self._opened:  # another open may have been quicker
                    self._opened.remove(former)
        except BaseException:
            server.abandon(connection, "the connection was closed on this side")
            raise
        self._opened.append(connection)
        return MemoryEngine(server, connection, partial(self._connect, server, member, user, password), self._servers)

    async def _connect(self, server: MemoryServer, member: Member, user: str, password: str | None) -> MemoryConnection:
        connection = MemoryConnection(server, f"{member.id} at {member.address}", self._origin, user, self._timeout_s)
        if not server.reachable_from(self._origin):
            # A server that is down refuses at once; a network that is down says nothing.
            await asyncio.sleep(self._connect_timeout_s if server.up else 0)
            raise EngineUnreachable(f"{connection.endpoint} cannot be reached")
        server.accept(connection)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await connection.call(partial(server.join, connection, password))
        except TimeoutError:
            raise EngineUnreachable(
                f"{connection.endpoint} did not answer within {self._connect_timeout_s:g} s"
            ) from None
        finally:
            if not connection.joined:
                server.end(connection)
        return connection
