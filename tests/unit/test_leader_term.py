"""What a coordinator makes of requests that come while it plans another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from tests.memory_shards import memory_shards
from tests.waiting import until

from helios.coordinator import planner
from helios.coordinator.access import Access
from helios.coordinator.compatibility import Move, unreadable
from helios.errors import EngineUnreachable
from helios.model.topology import Member


async def test_a_plan_is_made_anew_where_a_node_is_asked_to_leave_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the old plan all keys would go to a node that leaves next, and then to nobody."""
    planning, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(access: Access, moves: Iterable[Move]) -> dict[Move, str]:
        planning.set()
        await go_on.wait()
        return await unreadable(access, moves)

    monkeypatch.setattr(planner, "unreadable", slowly)
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        drain = await cluster.admin.drain("a")
        await planning.wait()
        remove = await cluster.admin.remove_node("b")
        go_on.set()

        async def over() -> bool:
            return (await cluster.admin.change(remove.change)).status == "done"

        await until(over, "the node leaves")
        refused = await cluster.admin.change(drain.change)
        assert (refused.status, refused.message) == (
            "failed",
            "a is the last node: its keys would have nowhere to go; add another node first",
        )
        topology = await cluster.topology()
        assert [node.id for node in topology.nodes] == ["a"]
        assert topology.placement.weights == (("a", 1.0),)
        assert len(cluster.servers["a"].keys()) == 100


async def test_no_key_moves_to_a_server_that_does_not_say_what_it_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may turn out to allow too little when some of the keys have moved, which then cannot be taken back either."""

    async def silence(access: Access, member: Member) -> str:
        raise EngineUnreachable(f"{member.id} did not answer within 1 s")

    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        monkeypatch.setattr(Access, "unfenceable", silence)
        view = await cluster.admin.migrate("a", "b", "*")
        assert await cluster.ended(view.id) == (
            "no key can move to b before its server has said what it allows: b.0 did not answer within 1 s"
        )
        assert (await cluster.topology()).transition is None
