"""Two requests about one server that joins."""

from __future__ import annotations

from typing import Any

import pytest
from tests.memory_shards import memory_shards
from tests.shards import Latch
from tests.waiting import until

from helios.errors import Refused
from helios.model.ids import Address
from helios.model.topology import NodeKind
from helios.ports.failpoints import Point
from helios.ports.records import AGENTS, RUNNING, AgentRecord, RunningRecord, put_record


async def test_a_server_is_not_emptied_while_it_joins_by_an_earlier_request() -> None:
    """It may be a node by the time at which it would be emptied."""
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9, c=9) as cluster:
        cluster.servers["c"].set(b"of c", b"value")
        latch.arm(Point.IMPORTING)
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        with pytest.raises(Refused, match="c at memory:3 joins by an earlier request: wait for its end"):
            await cluster.admin.add_node("c", str(cluster.addresses["c"]), flush=True)
        latch.open()

        async def joined() -> bool:
            return (await cluster.topology()).node("c") is not None

        await until(joined, "it joins")
        assert sum(server.get(b"of c") == b"value" for server in cluster.servers.values()) == 1


async def test_a_node_that_runs_is_not_taken_in_under_another_id() -> None:
    """It was told that the server there wants a password."""
    async with memory_shards(["a"], a=9) as cluster:
        address = Address("10.0.0.2", 6379)
        agent = AgentRecord("b", address, NodeKind.SUPERVISED, seen_at=0.0)
        runs = RunningRecord("b", address, "host", "boot", 1, "folder", "instance")
        await cluster.store.commit([put_record(AGENTS + "b", agent), put_record(RUNNING + "b", runs)])
        with pytest.raises(Refused, match=r"the node b listens at 10\.0\.0\.2:6379: add it by that id, not as c"):
            await cluster.admin.add_node("c", str(address))


@pytest.mark.parametrize("how", ["", "flush", "import_keys"])
async def test_a_server_of_the_cluster_does_not_join_under_another_name(how: str) -> None:
    """It would be emptied, or its keys moved to themselves, though each is the only one."""
    other = Address("elsewhere", 77)
    options: dict[str, Any] = {how: True} if how else {}
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        cluster.by_address[other] = cluster.servers["b"]
        before = {name: sorted(server.keys()) for name, server in cluster.servers.items()}
        for ask in (cluster.admin.add_node, cluster.admin.preview_add_node):
            with pytest.raises(Refused, match="the server at elsewhere:77 is that of b at memory:2"):
                await ask("c", str(other), **options)
        assert {name: sorted(server.keys()) for name, server in cluster.servers.items()} == before


async def test_a_server_that_is_being_imported_does_not_join_under_another_name() -> None:
    latch = Latch()
    other = Address("elsewhere", 77)
    async with memory_shards(["a", "b"], latch, a=9, b=9, c=9) as cluster:
        cluster.by_address[other] = cluster.servers["c"]
        cluster.servers["c"].set(b"of c", b"value")
        latch.arm(Point.IMPORTING)
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        with pytest.raises(Refused, match="the server at elsewhere:77 is that of c at memory:3"):
            await cluster.admin.add_node("d", str(other), flush=True)
        assert cluster.servers["c"].get(b"of c") == b"value"
        latch.open()
