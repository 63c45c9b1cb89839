"""One data server of each kind, with the same handles for what tests do to it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias, cast

from tests.servers import ADMIN_ONLY, ADMIN_PASSWORD, ADMIN_USER, Server, redis_binary, start_valkey

from helios.engines.memory import MemoryConnector, MemoryEngine, MemoryServer
from helios.engines.valkey import ValkeyConnector
from helios.engines.valkey.connection import Connection, Reply
from helios.engines.valkey.engine import ValkeyEngine
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import Connector, Engine

REAL = ["valkey", *(["redis"] if redis_binary() else [])]
KINDS = ["memory", *REAL]
SHORT_S = 1.0  # a time-out that is meant to pass
# As Helios runs servers that may follow each other, but for how little a leader remembers for those that come back.
FOLLOWING = {
    "replica-serve-stale-data": "no",
    "repl-diskless-sync-delay": "0",
    "repl-backlog-ttl": "0",
    "repl-backlog-size": "64kb",
}
REMEMBERED = 30  # changes, and those of real servers have more than 64 KB where they are as many

Commands: TypeAlias = list[tuple[bytes | str | int, ...]]


class Lab(ABC):
    """A running server, its connector, and what the ports do not offer: raw writes and faults."""

    kind: str
    member: Member
    connector: Connector

    def __init__(self) -> None:
        self._opened: list[Engine] = []

    async def open(self, user: str | None = None, password: str | None = None) -> Engine:
        """An engine that is closed after the test."""
        engine = await self.connector.open(self.member, user=user, password=password)
        self._opened.append(engine)
        return engine

    async def close(self) -> None:
        """Close what was opened."""
        for engine in self._opened:
            await engine.close()

    @abstractmethod
    def with_timeout(self, timeout_s: float) -> Connector:
        """Another connector, whose calls give up after `timeout_s`."""

    @abstractmethod
    async def set(self, engine: Engine, key: bytes, value: bytes, expire_at_ms: int | None = None) -> None:
        """Write a key as a client does."""

    @abstractmethod
    async def get(self, engine: Engine, key: bytes) -> bytes | None:
        """Read a key as a client does."""

    @abstractmethod
    async def incr(self, engine: Engine, key: bytes) -> int:
        """Count as a client does."""

    @abstractmethod
    def freeze(self) -> None:
        """Let the server answer nothing."""

    @abstractmethod
    def thaw(self) -> None:
        """Let it go on."""

    @abstractmethod
    def crash(self) -> None:
        """End the server at once."""

    @abstractmethod
    def restart(self, *, detached: bool = False) -> None:
        """Start it after a crash; `detached`: following nobody, and taking no writes."""

    @abstractmethod
    async def copies(self, engine: Engine) -> int:
        """How many whole copies the server has given to followers."""

    @abstractmethod
    async def set_fsync(self, policy: str) -> None:
        """Set how often the server syncs its log."""


Two: TypeAlias = tuple[Lab, Lab]
Three: TypeAlias = tuple[Lab, Lab, Lab]


class MemoryLab(Lab):
    """A server in memory."""

    kind = "memory"

    def __init__(self, servers: dict[Address, MemoryServer] | None = None) -> None:
        super().__init__()
        self.servers = {} if servers is None else servers
        number = len(self.servers)
        self.member = Member(f"shard-1.{number}", f"shard-{number + 1}", Address("memory", number + 1))
        self.server = MemoryServer(self.member.id, wall=time.time, admin=(ADMIN_USER, ADMIN_PASSWORD))
        self.server.replication.kept = REMEMBERED
        self.servers[self.member.address] = self.server
        self.connector = MemoryConnector(self.servers)

    def with_timeout(self, timeout_s: float) -> Connector:
        return MemoryConnector(self.servers, timeout_s=timeout_s, connect_timeout_s=timeout_s)

    async def set(self, engine: Engine, key: bytes, value: bytes, expire_at_ms: int | None = None) -> None:
        await cast(MemoryEngine, engine).set(key, value, expire_at_ms)

    async def get(self, engine: Engine, key: bytes) -> bytes | None:
        return await cast(MemoryEngine, engine).get(key)

    async def incr(self, engine: Engine, key: bytes) -> int:
        return await cast(MemoryEngine, engine).incr(key)

    def freeze(self) -> None:
        self.server.freeze()

    def thaw(self) -> None:
        self.server.thaw()

    def crash(self) -> None:
        self.server.crash()

    def restart(self, *, detached: bool = False) -> None:
        self.server.replication.detached_at_start = detached
        self.server.restart()

    async def copies(self, engine: Engine) -> int:
        return self.server.replication.copies

    async def set_fsync(self, policy: str) -> None:
        self.server.aof_fsync = policy


class RealLab(Lab):
    """A server process, with the default user off as Helios runs its members."""

    def __init__(self, kind: str, server: Server) -> None:
        super().__init__()
        self.kind = kind
        self.server = server
        self.member = Member("shard-1.0", "shard-1", Address("127.0.0.1", server.port))
        self.connector = ValkeyConnector(_admin)

    def with_timeout(self, timeout_s: float) -> Connector:
        return ValkeyConnector(_admin, timeout_s=timeout_s, connect_timeout_s=timeout_s)

    async def set(self, engine: Engine, key: bytes, value: bytes, expire_at_ms: int | None = None) -> None:
        ttl = () if expire_at_ms is None else ("PXAT", expire_at_ms)
        await raw(engine).execute("SET", key, value, *ttl)

    async def get(self, engine: Engine, key: bytes) -> bytes | None:
        return cast("bytes | None", await raw(engine).execute("GET", key))

    async def incr(self, engine: Engine, key: bytes) -> int:
        return int(await raw(engine).execute("INCR", key))

    def freeze(self) -> None:
        self.server.stop()

    def thaw(self) -> None:
        self.server.cont()

    def crash(self) -> None:
        self.server.kill()

    def restart(self, *, detached: bool = False) -> None:
        self.server.config["replicaof"] = "127.0.0.1 1" if detached else "no one"
        self.server.start()

    async def copies(self, engine: Engine) -> int:
        return int((await raw(engine).execute("INFO", "stats")).partition(b"sync_full:")[2].split()[0])

    async def set_fsync(self, policy: str) -> None:
        await raw(await self.open()).execute("CONFIG", "SET", "appendfsync", policy)


def raw(engine: Engine) -> Connection:
    """The connection of an engine of a real server."""
    return cast(ValkeyEngine, engine).connection


async def run(engine: Engine, *command: bytes | str | int) -> Reply:
    """A command on a real server."""
    return await raw(engine).execute(*command)


async def configure(engine: Engine, options: Mapping[str, int]) -> None:
    """Set those options that this server knows."""
    known = await run(engine, "CONFIG", "GET", *options)
    for name, value in options.items():
        if name.encode() in known:
            await run(engine, "CONFIG", "SET", name, value)


@asynccontextmanager
async def open_lab(kind: str, folder: Path, servers: dict[Address, MemoryServer] | None = None) -> AsyncIterator[Lab]:
    """A server of that kind; whatever happens, it ends with the test. Those in memory reach each other in `servers`."""
    if kind == "memory":
        yield MemoryLab(servers)
        return
    binary = redis_binary() if kind == "redis" else None
    with start_valkey(folder, users=ADMIN_ONLY, binary=binary, config=FOLLOWING) as server:
        lab = RealLab(kind, server)
        try:
            yield lab
        finally:
            await lab.close()


async def _admin(_member: Member) -> tuple[str, str]:
    return ADMIN_USER, ADMIN_PASSWORD


async def scan_all(engine: Engine, count: int = 10) -> list[bytes]:
    """Everything that a whole scan gives."""
    cursor, keys = await engine.scan(0, count)
    while cursor:
        cursor, more = await engine.scan(cursor, count)
        keys += more
    return keys


async def clients(engine: Engine) -> list[bytes]:
    """What the server says of its connections."""
    return bytes(await run(engine, "CLIENT", "LIST")).splitlines()


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Member]:
    """A peer of another kind."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield Member("legacy.0", "legacy", Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    finally:
        server.close()
