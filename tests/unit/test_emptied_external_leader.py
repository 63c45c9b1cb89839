"""An external leader that comes back empty while its first copy is admitted: the copy leads, and no router goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from helios.control.failover import Position
from helios.coordinator.failover import Failover
from helios.coordinator.fencing import Fencing
from helios.coordinator.following import Following
from helios.coordinator.publisher import Publisher
from helios.model.ids import Address
from helios.model.topology import Member, Node, NodeKind, Shard, Term, Topology
from helios.ports.engine import Replication
from helios.ports.records import TERM
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

OUTSIDE = Member("outside.0", "outside", Address("outside", 1))
COPY = Member("outside@a", "a", Address("a", 1))
NODES = (Node("outside", OUTSIDE.address, kind=NodeKind.EXTERNAL), Node("a", Address("a", 2)))
TERMS = (Term("first", 0),)


class Servers:
    """The external server, restarted and with so many keys, and its copy."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    @asynccontextmanager
    async def ready(self, members: Iterable[Member]) -> AsyncIterator[None]:
        yield

    async def look(self, member: Member) -> Replication:
        return Replication(leads=True, history="second", offset=0)

    async def is_empty(self, member: Member) -> bool:
        return not self.keys

    async def detach(self, member: Member, shard: Shard) -> Replication:
        return Replication(leads=False, history="first", offset=9)

    async def promote(self, member: Member, position: Position, shard: Shard) -> str:
        return "third"

    async def follow(self, member: Member, leader: Member) -> None:
        pass


class Routers:
    """One router that has not heard of the fence yet."""

    def __init__(self) -> None:
        self.asked, self.heard = asyncio.Event(), asyncio.Event()

    async def known(self) -> None:
        self.asked.set()
        await self.heard.wait()


async def begun(outgoing: tuple[Member, ...], keys: int) -> tuple[Publisher, Routers, asyncio.Task[None]]:
    store = MemoryStore()
    publisher = await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")]))
    shard = Shard("outside", OUTSIDE.id, (OUTSIDE, COPY), lineage=TERMS, outgoing=outgoing)
    await publisher.publish(lambda _: Topology(1, nodes=NODES, shards=(shard,)))
    routers = Routers()
    following, fencing = cast(Following, Servers(keys)), cast(Fencing, routers)
    failover = Failover(publisher, following, shard, quorum=True, fencing=fencing, external={OUTSIDE.id})
    return publisher, routers, asyncio.create_task(failover.run())


def leader(publisher: Publisher) -> str:
    shard = publisher.topology.shard("outside")
    assert shard is not None
    return shard.leader


async def test_its_copy_leads_when_every_router_has_heard_of_it() -> None:
    publisher, routers, failing = await begun((OUTSIDE,), keys=0)
    await routers.asked.wait()
    assert leader(publisher) == OUTSIDE.id
    routers.heard.set()
    await failing
    assert leader(publisher) == COPY.id


@pytest.mark.parametrize(("outgoing", "keys", "leads"), [((OUTSIDE,), 1, OUTSIDE), ((), 0, COPY)])
async def test_nobody_is_waited_for_where_no_router_can_go_on_alone(
    outgoing: tuple[Member, ...], keys: int, leads: Member
) -> None:
    publisher, routers, failing = await begun(outgoing, keys)
    await failing
    assert leader(publisher) == leads.id
    assert not routers.asked.is_set()
