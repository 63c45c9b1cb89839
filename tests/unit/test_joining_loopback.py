"""Servers at loopback addresses do not join where other hosts would look for them on themselves."""

from __future__ import annotations

import pytest
from tests.memory_shards import MemoryShards, memory_shards

from helios.engines.memory import MemoryServer
from helios.errors import Refused
from helios.model.ids import Address, founder_id
from helios.model.topology import NodeKind
from helios.ports.records import AGENTS, MEMBERS, RUNNING, AgentRecord, MemberRecord, RunningRecord, put_record

TOLD = "a loopback address means another server on each host: start every node with an address that all hosts reach"


async def started(cluster: MemoryShards, name: str, host: str) -> str:
    """The address of a node that `helios node` runs, all of them on the same port of their hosts."""
    address, server = Address(host, 6379), Address(host, 16379)
    cluster.by_address.setdefault(server, MemoryServer(name, wall=cluster.clock.wall, version=9))
    records = {
        AGENTS: AgentRecord(name, address, NodeKind.SUPERVISED, seen_at=0.0),
        RUNNING: RunningRecord(name, address, f"host of {name}", "boot", 1, "folder", name),
    }
    await cluster.store.commit([put_record(prefix + name, record) for prefix, record in records.items()])
    member = MemberRecord(founder_id(name), name, server, "helios-admin", "")
    await cluster.store.commit([put_record(MEMBERS + founder_id(name), member)])
    return str(address)


async def test_nodes_that_no_other_host_finds_do_not_join_each_other() -> None:
    async with memory_shards(["a"], a=9) as cluster:
        await cluster.admin.add_node("b", await started(cluster, "b", "localhost"))
        for name, host in (("c", "localhost"), ("d", "10.0.0.2")):
            with pytest.raises(Refused, match=TOLD):
                await cluster.admin.add_node(name, await started(cluster, name, host))


async def test_a_node_of_a_host_does_not_join_a_server_that_only_another_one_finds() -> None:
    async with memory_shards(["a"], a=9, b=9) as cluster:
        local = Address("127.0.0.1", 6390)
        cluster.by_address[local] = cluster.servers["b"]
        await cluster.admin.add_node("b", str(local))
        with pytest.raises(Refused, match=f"that of b at {local}, and {TOLD}"):
            await cluster.admin.add_node("c", await started(cluster, "c", "10.0.0.2"))
