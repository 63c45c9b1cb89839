"""Routers inside the test's own process, over real servers and a topology that the test writes itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import redis.asyncio
import uvloop
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.published import HandPublisher
from tests.servers import ADMIN_PASSWORD, ADMIN_USER, Server
from tests.waiting import until

from helios.admin.service import AdminService
from helios.engines.valkey.connector import ValkeyConnector
from helios.errors import StoreError
from helios.model.ids import Address
from helios.model.topology import (
    Member,
    Node,
    NodeKind,
    Pair,
    PairPhase,
    Placement,
    Rule,
    Shard,
    Topology,
    Transition,
    with_numbers,
)
from helios.placement.routing import Routes
from helios.ports.records import SESSIONS, SessionRecord, list_records
from helios.ports.store import Compare, Delete, Entry, Event, Put, Snapshot, Store
from helios.resp.wire import encode_command
from helios.router.core import Router
from helios.router.options import RouterOptions
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

# redis-py's annotations promise other types than its replies have, in one protocol or the other.
Client: TypeAlias = Any


class FailingStore:
    """A store that can be away."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.away = False

    def _check(self) -> None:
        if self.away:
            raise StoreError("the store is away, says the test")

    async def get(self, key: str) -> Entry | None:
        self._check()
        return await self._inner.get(key)

    async def list(self, prefix: str) -> Snapshot:
        self._check()
        return await self._inner.list(prefix)

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        self._check()
        return await self._inner.commit(operations, compares=compares)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        self._check()
        async for events in self._inner.watch(prefix, after):
            self._check()
            yield events

    async def grant(self, ttl_s: float) -> str:
        self._check()
        return await self._inner.grant(ttl_s)

    async def keep_alive(self, lease: str) -> None:
        self._check()
        await self._inner.keep_alive(lease)

    async def revoke(self, lease: str) -> None:
        self._check()
        await self._inner.revoke(lease)

    async def compact(self, revision: int) -> None:
        self._check()
        await self._inner.compact(revision)

    async def close(self) -> None:
        await self._inner.close()


async def _administrator(_member: Member) -> tuple[str, str]:
    return ADMIN_USER, ADMIN_PASSWORD


@dataclass
class RouterLab:
    """Servers by shard, a store with the topology of the moment, and one router over both."""

    servers: dict[str, Server]
    kind: NodeKind = NodeKind.SUPERVISED
    options: RouterOptions = field(default_factory=lambda: RouterOptions(node="shard-1"))
    admin: AdminService | None = None

    def __post_init__(self) -> None:
        self.store = MemoryStore()
        self._publisher = HandPublisher(self.store)
        self.routers_store = FailingStore(self.store)
        self.clock = SystemClock()
        self.port = 0
        nodes = [
            Node(name, Address("127.0.0.1", server.port), self.kind) for name, server in sorted(self.servers.items())
        ]
        self.topology = Topology(
            epoch=1,
            nodes=tuple(nodes),
            shards=with_numbers([Shard(n.id, f"{n.id}.0", (Member(f"{n.id}.0", n.id, n.address),)) for n in nodes]),
            placement=Placement(weights=tuple((node.id, 1.0) for node in nodes)),
        )
        connector = ValkeyConnector() if self.kind is NodeKind.EXTERNAL else ValkeyConnector(_administrator)
        self.router = Router(self.routers_store, connector, cast(AdminService, self.admin), self.clock, self.options)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[RouterLab]:
        """The router, serving on `port`."""
        await self._publisher.publish(self.topology)
        await self.router.start()
        try:
            self.port = await self.router.serve("127.0.0.1", 0)
            yield self
        finally:
            await self.router.stop()

    def client(self, protocol: int = 2) -> Client:
        """A client of the router that tries nothing twice."""
        return redis.asyncio.Redis(
            port=self.port, protocol=protocol, retry=Retry(NoBackoff(), 0), socket_timeout=30, legacy_responses=True
        )

    async def empty(self) -> None:
        """Remove every key, script and function from the servers themselves, and their statistics."""
        for shard in self.servers:
            async with self.direct(shard) as direct:
                await direct.flushall()
                await direct.script_flush()
                await direct.function_flush()
                await direct.config_resetstat()

    def direct(self, shard: str) -> Client:
        """A client of the shard's server itself."""
        if self.kind is NodeKind.EXTERNAL:
            return redis.asyncio.Redis(port=self.servers[shard].port)
        return redis.asyncio.Redis(port=self.servers[shard].port, username=ADMIN_USER, password=ADMIN_PASSWORD)

    def owner(self, key: str | bytes) -> str:
        """Who owns the key by the topology of the moment."""
        return Routes(self.topology).owner(key.encode() if isinstance(key, str) else key)

    def key_of(self, shard: str, prefix: str = "key", number: int = 0) -> str:
        """A key that the shard owns; another one for each number."""
        found = (f"{prefix}:{i}" for i in range(100_000) if self.owner(f"{prefix}:{i}") == shard)
        return next(key for index, key in enumerate(found) if index == number)

    # --- what a coordinator does ---

    async def publish(self, **changes: Any) -> int:
        """The next topology; gives its epoch."""
        self.topology = replace(self.topology, epoch=self.topology.epoch + 1, **changes)
        await self._publisher.publish(self.topology)
        return self.topology.epoch

    async def publish_move(
        self, phase: PairPhase, source: str, target: str, pattern: str = "m:*", slow_ms: int = 0
    ) -> int:
        """The epoch in which the keys of `source` that match are on their way to `target`."""
        present = self.topology.placement
        rule = Rule(source, target, (pattern,))
        following = replace(present, rules=(*present.rules, rule))
        pairs = (Pair(source, target, "migration", phase, slow_ms),)
        return await self.publish(transition=Transition("change", following, pairs), unclean=frozenset((target,)))

    async def sessions(self) -> list[SessionRecord]:
        return [record.value for record in await list_records(self.store, SessionRecord, SESSIONS)]

    async def acknowledged(self, epoch: int) -> None:
        """Return when the router has acknowledged the epoch."""

        async def has() -> bool:
            sessions = await self.sessions()
            return len(sessions) == 1 and sessions[0].acked_epoch >= epoch and not sessions[0].deaf

        await until(has, f"the router acknowledges epoch {epoch}")


class RawClient:
    """A connection to the router, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, *words: str | bytes) -> None:
        argv = [word.encode() if isinstance(word, str) else word for word in words]
        self.writer.write(encode_command(argv))

    async def line(self) -> bytes:
        async with asyncio.timeout(20):
            return await self.reader.readline()

    async def exactly(self, reply: bytes) -> None:
        async with asyncio.timeout(20):
            assert await self.reader.readexactly(len(reply)) == reply

    async def ask(self, *words: str | bytes) -> bytes:
        self.send(*words)
        return await self.line()

    async def before(self, end: bytes) -> bytes:
        """What comes before these bytes."""
        async with asyncio.timeout(20):
            return (await self.reader.readuntil(end)).removesuffix(end)

    async def closed(self) -> bytes:
        """What comes until the router ends the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def answers_to(script: Sequence[str], port: int, protocol: str) -> bytes:
    """What somebody who has no keys answers to these lines, sent at once."""
    raw = await RawClient.connect(port)
    for line in ("FLUSHALL", f"HELLO {protocol}", "ECHO begun", *script, "ECHO end-of-replies"):
        raw.send(*line.split())
    await raw.before(b"$5\r\nbegun\r\n")
    answers = await raw.before(b"$14\r\nend-of-replies\r\n")
    raw.close()
    return answers


@contextmanager
def served_aside(servers: dict[str, Server]) -> Iterator[RouterLab]:
    """A lab over these servers, whose router is on a loop in a thread of its own: for clients that block."""

    @asynccontextmanager
    async def lab_running() -> AsyncIterator[RouterLab]:
        async with RouterLab(servers).running() as lab:
            yield lab

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        running = lab_running()
        lab = runner.run(running.__aenter__())
        loop = runner.get_loop()
        thread = threading.Thread(target=loop.run_forever, name="router")
        thread.start()
        try:
            yield lab
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            runner.run(running.__aexit__(None, None, None))
