"""A leader that was restarted past Helios may lack what its copies have: no key is read there to be moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.topologies import cluster

from helios.control.replicas import with_shard
from helios.coordinator.access import Access
from helios.coordinator.publisher import Publisher
from helios.engines.memory import MemoryConnector
from helios.engines.memory.server import MemoryServer
from helios.errors import EngineUnreachable
from helios.model.ids import Address
from helios.model.topology import Member, Term
from helios.ports.records import TERM
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

COPY = Member("a@b", "b", Address("b", 2))


async def access_to(server: MemoryServer, history: str, *, alone: bool) -> Access:
    """A coordinator's access to the leader of shard a, whose term has this history."""
    topology = with_shard(
        cluster("a", "b"),
        "a",
        lambda shard: replace(
            shard, members=shard.members if alone else (*shard.members, COPY), lineage=(Term(history, 0),)
        ),
    )
    store = MemoryStore()
    version = await store.commit([Put(TERM, b"1")])
    publisher = Publisher(store, SystemClock(), topology, 0, 1, version)
    return Access(MemoryConnector({topology.shards[0].leading.address: server}), publisher)


@pytest.mark.parametrize("alone", [False, True])
async def test_a_source_leads_in_its_term(alone: bool) -> None:
    server = MemoryServer("a", wall=SystemClock().wall, aof_fsync="everysec")
    access = await access_to(server, server.replication.promote().history, alone=alone)
    with access.identity() as identity:
        await (await access.open_source("a", identity)).close()
        server.crash()
        server.restart()
        if not alone:
            with pytest.raises(EngineUnreachable, match=r"a\.0 does not lead a any more: it was restarted"):
                await access.open_source("a", identity)
        else:
            await (await access.open_source("a", identity)).close()  # nobody has more
