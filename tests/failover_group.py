"""One shard whose members a coordinator cares for: servers in memory or real ones, whose agents the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from tests.engine_lab import Lab, open_lab
from tests.waiting import until

from helios.coordinator.failover import Failover
from helios.coordinator.fencing import Fencing
from helios.coordinator.following import Following
from helios.coordinator.publisher import Publisher
from helios.coordinator.replicas import Replicas
from helios.coordinator.term_context import TermContext
from helios.engines.memory import MemoryServer
from helios.model.ids import Address, founder_id, replica_id
from helios.model.sections import ReplicationSettings, ShardingSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import Member, Node, Placement, Shard, Topology
from helios.ports.records import TERM, MemberRecord
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

NODES = ("a", "b", "c")
LONG_S = 60.0


def settings(factor: int) -> ClusterSettings:
    return ClusterSettings(
        sharding=ShardingSettings(replication_factor=factor),
        # By the real clock; the tests that are about it turn it on.
        replication=ReplicationSettings(rebalance_leaders=False),
    )


@dataclass
class Group:
    """The servers of shard a on three nodes, whose agents the test plays, and who coordinates them."""

    labs: dict[str, Lab]  # by member id
    store: MemoryStore = field(default_factory=MemoryStore)
    records: dict[str, MemberRecord] = field(default_factory=dict)
    context: TermContext | None = None
    replicas: Replicas | None = None
    coordinating: asyncio.Task[None] | None = None
    terms: count[int] = field(default_factory=lambda: count(1))
    keys: count[int] = field(default_factory=count)

    def announce(self, member_id: str, *, dead: bool = False, leaving: bool = False) -> None:
        """The record that an agent writes when its server has come up, or has died, or is to be stopped."""
        node = member_id.partition("@")[2] or member_id.removesuffix(".0")
        address = self.labs[member_id].member.address
        self.records[member_id] = MemberRecord(member_id, node, address, "admin", dead=dead, leaving=leaving)
        if self.replicas is not None:
            self.replicas.take(self.records.values())

    async def coordinate(self, factor: int) -> None:
        """Let a new coordinator take over, as an election does."""
        await self.resign()
        term = next(self.terms)
        version = await self.store.commit([Put(TERM, str(term).encode())])
        publisher = await Publisher.open(self.store, SystemClock(), term, version)
        if not publisher.topology.nodes:
            await publisher.publish(lambda topology: self.founded(topology))
        connector = self.labs["a.0"].connector
        names = map(str, count())
        self.context = TermContext(publisher, connector, SystemClock(), settings(factor), lambda: next(names))
        self.replicas = Replicas(self.context)
        self.replicas.take(self.records.values())
        self.coordinating = asyncio.create_task(self.replicas.run())

    def founded(self, topology: Topology) -> Topology:
        nodes = tuple(Node(name, Address(name, 1)) for name in NODES)
        member = Member("a.0", "a", self.labs["a.0"].member.address)
        return replace(
            topology, nodes=nodes, shards=(Shard("a", "a.0", (member,)),), placement=Placement(8, (("a", 1.0),))
        )

    async def resign(self) -> None:
        if self.coordinating is not None:
            self.coordinating.cancel()
            with suppress(asyncio.CancelledError):
                await self.coordinating

    def following(self) -> Following:
        """What tells servers whom to follow, of the coordinator that has resigned last."""
        assert self.context is not None
        return Following(self.context.access, self.context.clock)

    def failover(self, following: Following, successor: Member, **how: Any) -> Failover:
        """One in which the leader hands over, by the coordinator that has resigned last."""
        assert self.context is not None
        context = self.context
        fencing = Fencing(context.publisher, context.sessions, ack_timeout_s=LONG_S)
        return Failover(
            context.publisher, following, self.shard, quorum=True, fencing=fencing, successor=successor, **how
        )

    @property
    def shard(self) -> Shard:
        assert self.context is not None
        shard = self.context.publisher.topology.shard("a")
        assert shard is not None
        return shard

    @property
    def epoch(self) -> int:
        assert self.context is not None
        return self.context.publisher.topology.epoch

    @property
    def settled(self) -> bool:
        assert self.context is not None
        return not (self.shard.outgoing or self.shard.learners or self.context.publisher.topology.fenced_shards)

    def members(self) -> set[str]:
        return {member.id for member in self.shard.members}

    async def becomes(self, condition: Callable[[], bool]) -> None:
        """Wait for what the coordinator is to bring about; raises what it fails with."""

        async def fulfilled() -> bool:
            assert self.coordinating is not None
            if self.coordinating.done():
                self.coordinating.result()
            return condition()

        await until(fulfilled)

    async def grown(self, members: int) -> None:
        await self.becomes(lambda: self.settled and len(self.shard.members) == members)

    async def counts_no_more(self, member_id: str) -> None:
        await self.becomes(lambda: member_id not in self.members() and not self.shard.outgoing)

    async def write(self) -> bytes:
        """Write a key, and return when a majority has it."""
        lab = self.labs[self.shard.leader]
        engine = await lab.open()
        key = b"key:%d" % next(self.keys)
        await lab.set(engine, key, b"value")
        enough = len(self.shard.members) // 2
        assert await engine.round(enough, LONG_S) >= enough
        await engine.close()
        return key

    async def complete(self) -> None:
        """Return when all members have all."""
        engine = await self.labs[self.shard.leader].open()
        others = len(self.shard.members) - 1
        # A round does not wait for a server that is not attached yet.

        async def attached() -> bool:
            return await engine.round(others, 1.0) >= others

        await until(attached)
        await engine.close()

    async def has(self, key: bytes) -> bool:
        """Whether who leads has the key."""
        lab = self.labs[self.shard.leader]
        engine = await lab.open()
        value = await lab.get(engine, key)
        await engine.close()
        return value == b"value"


@asynccontextmanager
async def group_of(kind: str, folder: Path) -> AsyncIterator[Group]:
    servers: dict[Address, MemoryServer] = {}
    async with AsyncExitStack() as opened:
        labs = [await opened.enter_async_context(open_lab(kind, folder / node, servers)) for node in NODES]
        ids = (founder_id("a"), replica_id("a", "b"), replica_id("a", "c"))
        made = Group(dict(zip(ids, labs, strict=True)))
        for member_id in ids:
            made.announce(member_id)
        try:
            yield made
        finally:
            await made.resign()
