"""Shards as they are shown: who leads, who follows how closely, and what is missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from helios.admin.reports import places
from helios.admin.shards import replaced_servers, shard_views, troubled, why_it_stays
from helios.admin.views import CopyView, PlaceView
from helios.errors import EngineUnreachable
from helios.model.durability import Durability
from helios.model.ids import Address
from helios.model.sections import ReplicationSettings, ShardingSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import Member, Node, NodeKind, NodeState, Shard, Term, Topology
from helios.ports.engine import Follower, Replication

A, B, C = (Member(f"s@{name}", name, Address(name, 7000)) for name in "abc")
SHARD = Shard("s", B.id, (A, B), learners=(C,), lineage=(Term("h", 0),))
NODES = tuple(Node(name, Address(name, 6379)) for name in "abc")
TOPOLOGY = Topology(1, nodes=NODES, shards=(SHARD,))
THREE = ClusterSettings(sharding=ShardingSettings(replication_factor=3))


class Leader:
    """The engine of a leader, and what opens it."""

    def __init__(self, *followers: Follower) -> None:
        self.said: Replication | None = Replication(True, "h", 500, followers=followers)

    async def open(self, member: Member, **_: Any) -> Leader:
        assert member == B
        if self.said is None:
            raise EngineUnreachable("it does not answer")
        return self

    async def replication(self) -> Replication:
        assert self.said is not None
        return self.said

    async def close(self) -> None:
        pass


async def seen(leader: Any, topology: Topology = TOPOLOGY) -> dict[str, CopyView]:
    (view,) = await shard_views(topology, leader, THREE)
    assert [copy.role for copy in view.copies[:1]] == ["leader"]
    return {copy.node: copy for copy in view.copies}


async def test_a_leader_says_how_far_its_copies_are_behind() -> None:
    copies = await seen(Leader(Follower(A.address, 480, 0.5), Follower(C.address, 0, 0.1)))
    assert copies["b"] == CopyView(B.id, "b", "b:7000", "leader", True)
    assert copies["a"] == CopyView(A.id, "a", "a:7000", "replica", True, 20, 0.5)
    # It is given a whole copy: what it will have is not what it has.
    assert copies["c"] == CopyView(C.id, "c", "c:7000", "learner", False)


async def test_a_copy_that_does_not_follow_or_is_silent_is_not_in_sync() -> None:
    assert (await seen(Leader()))["a"].in_sync is False
    assert (await seen(Leader(Follower(A.address, 500, 5.0))))["a"].in_sync is False


async def test_nothing_is_known_of_copies_whose_leader_is_silent() -> None:
    leader = Leader()
    leader.said = None
    copies = await seen(leader)
    assert {copy.in_sync for copy in copies.values()} == {None}
    assert {copy.lag_bytes for copy in copies.values()} == {None}


@pytest.mark.parametrize(
    ("change", "status", "missing"),
    [
        ({}, "under-replicated", 1),
        ({"members": (A, B, C), "learners": ()}, "ok", 0),
        ({"members": (A, B, C), "learners": (), "outgoing": (A, B)}, "under-replicated", 1),
        ({"members": (A, B, C), "learners": (), "outgoing": (A, B, C)}, "ok", 0),
    ],
)
async def test_a_shard_says_what_it_lacks(change: dict[str, Any], status: str, missing: int) -> None:
    topology = replace(TOPOLOGY, shards=(replace(SHARD, **change),))
    leader: Any = Leader(*(Follower(member.address, 500, 0.1) for member in (A, C)))
    (view,) = await shard_views(topology, leader, THREE)
    assert (view.status, view.missing, view.wanted, view.durability) == (status, missing, 3, "quorum")
    assert len(troubled(topology, THREE)) == bool(missing)
    fenced = replace(topology, fenced_shards=frozenset({"s"}))
    (without,) = await shard_views(fenced, leader, THREE)
    assert without.status == "no leader"
    assert troubled(fenced, THREE)[0].startswith("s has no leader: it gets one as soon as enough of its members answer")


@pytest.mark.parametrize(
    ("change", "following", "status"),
    [
        ({"learners": ()}, (A,), "under-replicated"),
        ({}, (C,), "no majority"),  # a learner does not count
        ({"members": (A, B, C), "learners": ()}, (C,), "ok"),
        ({"members": (A, B, C), "learners": ()}, (), "no majority"),
        ({"members": (A, B, C), "learners": (), "outgoing": (A, B)}, (C,), "no majority"),
    ],
)
async def test_a_shard_says_that_too_few_members_follow(
    change: dict[str, Any], following: tuple[Member, ...], status: str
) -> None:
    topology = replace(TOPOLOGY, shards=(replace(SHARD, **change),))
    leader: Any = Leader(*(Follower(member.address, 500, 0.1) for member in following))
    (view,) = await shard_views(topology, leader, THREE)
    assert view.status == status
    nothing_waits = ClusterSettings(
        sharding=THREE.sharding, replication=ReplicationSettings(durability=Durability.ASYNC)
    )
    (told_at_once,) = await shard_views(topology, leader, nothing_waits)
    assert told_at_once.status in ("ok", "under-replicated")


async def test_a_shard_of_one_is_not_asked() -> None:
    alone = replace(TOPOLOGY, shards=(Shard("s", B.id, (B,)),))
    nobody: Any = None
    (view,) = await shard_views(alone, nobody, ClusterSettings())
    assert view.status == "ok"
    assert view.copies == (CopyView(B.id, "b", "b:7000", "leader", True),)


def test_a_key_is_where_its_shard_has_members_and_first_where_it_leads() -> None:
    assert places(TOPOLOGY, "s") == (PlaceView("b", "b:6379", "leader"), PlaceView("a", "a:6379", "replica"))
    assert places(TOPOLOGY, "unknown") == ()


def test_an_external_server_that_a_copy_has_replaced_is_told_of_with_what_to_do() -> None:
    copy, own = Member("s@a", "a", Address("a", 7001)), Member("s.0", "s", Address("s", 7000))
    topology = replace(TOPOLOGY, nodes=(*NODES, Node("s", Address("s", 7000), NodeKind.EXTERNAL)))
    led = replace(topology, shards=(Shard("s", own.id, (own, copy)),))
    assert replaced_servers(led) == {}
    replaced = replace(topology, shards=(Shard("s", copy.id, (copy,)),))
    assert list(replaced_servers(replaced)) == ["s"]
    assert replaced_servers(replaced)["s"].startswith("a leads what it had")
    assert "`removenode s`" in replaced_servers(replaced)["s"]


def test_a_node_that_cannot_leave_says_why() -> None:
    server, copy = Node("e", Address("e", 7000), NodeKind.EXTERNAL), Member("e@a", "a", Address("a", 7001))
    own = Shard("a", "a.0", (Member("a.0", "a", Address("a", 7000)),))
    leaving = Node("a", Address("a", 6379), state=NodeState.DRAINING)
    alone = Topology(1, nodes=(leaving, server), shards=(own, Shard("e", copy.id, (copy,))))
    assert why_it_stays(alone, leaving) == "it cannot leave, for it leads e and no other node can: add one by `addnode`"
    assert why_it_stays(alone, server) == ""
    # Another node takes it over.
    assert why_it_stays(replace(alone, nodes=(*alone.nodes, NODES[1])), leaving) == ""
    # The external server leads: what follows it there may go.
    led = Shard("e", "e.0", (Member("e.0", "e", Address("e", 7000)), copy))
    assert why_it_stays(replace(alone, shards=(own, led)), leaving) == ""
