"""A coordinator that has just begun knows which members there are, and not yet which servers run."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from tests.waiting import until

from helios.coordinator.publisher import Publisher
from helios.coordinator.replicas import Replicas
from helios.coordinator.term_context import TermContext
from helios.engines.memory import MemoryConnector, MemoryServer
from helios.model.ids import Address
from helios.model.settings import ClusterSettings
from helios.model.topology import Member, Node, Shard, Term
from helios.ports.records import TERM, MemberRecord
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

MEMBERS = tuple(Member(name, node, Address(name, 1)) for name, node in (("s.0", "s"), ("s@t", "t"), ("s@u", "u")))
NODES = tuple(Node(name, Address(name, 2)) for name in ("s", "t", "u"))
SETTINGS = ClusterSettings.of({"sharding": {"replication_factor": 3}})


async def test_no_member_is_dismissed_before_it_is_known_which_servers_run() -> None:
    servers = {member.address: MemoryServer(member.id, wall=SystemClock().wall) for member in MEMBERS}
    leader, follower, _ = servers.values()
    follower.replication.follow(MEMBERS[0].address, servers)

    async def followed() -> bool:
        return any(one.online for one in leader.replication.state().followers)

    await until(followed)
    term = Term(leader.replication.state().history, 0)
    shard = Shard("s", "s.0", MEMBERS[:2], lineage=(term,))
    store, clock = MemoryStore(), SystemClock()
    publisher = await Publisher.open(store, clock, 1, await store.commit([Put(TERM, b"1")]))
    await publisher.publish(lambda topology: replace(topology, nodes=NODES, shards=(shard,)))
    replicas = Replicas(TermContext(publisher, MemoryConnector(servers), clock, SETTINGS, lambda: "name"))
    looking = asyncio.create_task(replicas.run())
    try:
        for _ in range(200):
            await asyncio.sleep(0)
        assert publisher.topology.shards == (shard,)
        replicas.take([MemberRecord(member.id, member.node, member.address, "", "") for member in MEMBERS])

        async def enlisted() -> bool:
            return publisher.topology.shards[0].learners == MEMBERS[2:]

        await until(enlisted)
        assert publisher.topology.shards[0].members == MEMBERS[:2]
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
