"""What the topology wants of the data servers of a node."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helios.model.ids import Address
from helios.model.topology import Member, Shard, Topology
from helios.node.standing import Standing, placed_on, standing_of, to_be_missed, to_hand_over, wished_on
from helios.ports.records import MemberRecord, ReplicasRecord

A, B, C = "a.0", "a@b", "a@c"


def member(member_id: str) -> Member:
    """A member at the node that its id names."""
    return Member(member_id, member_id[-1] if "@" in member_id else member_id[0], Address("h", 1))


def topology(members: str, leader: str = A, *, outgoing: str = "", learners: str = "") -> Topology:
    """One shard of these members."""
    listed = [tuple(map(member, ids.split())) for ids in (members, outgoing, learners)]
    return Topology(1, shards=(Shard("a", leader, listed[0], outgoing=listed[1], learners=listed[2]),))


LEADS, WAITS, EXPENDABLE = Standing(True, True), Standing(False, True), Standing(False, False)


@pytest.mark.parametrize(
    ("now", "founder", "other"),
    [
        (Topology(0), Standing(True, False), EXPENDABLE),
        (topology(A), LEADS, EXPENDABLE),
        (topology(A, learners=B), LEADS, EXPENDABLE),
        (topology(f"{A} {B}"), WAITS, EXPENDABLE),
        (topology(f"{A} {B}", B), EXPENDABLE, WAITS),
        (topology(A, outgoing=f"{A} {B}"), WAITS, EXPENDABLE),
        (topology(B, B), EXPENDABLE, LEADS),
        (topology(B, B, learners=A), EXPENDABLE, LEADS),
    ],
)
def test_who_leads_by_itself_and_whose_files_count(now: Topology, founder: Standing, other: Standing) -> None:
    assert (standing_of(A, now), standing_of(B, now)) == (founder, other)


def test_a_founder_of_another_shard_is_not_concerned() -> None:
    assert standing_of("b.0", topology(A)) == Standing(leads=True, needed=False)


def test_members_are_where_the_topology_or_a_wish_puts_them() -> None:
    assert placed_on("b", topology(f"{A} {B}", learners=C)) == {B}
    assert placed_on("c", topology(A, outgoing=f"{A} {B}", learners=C)) == {C}
    assert placed_on("a", topology(A)) == {A}
    wishes = [ReplicasRecord("a", ("b", "c")), ReplicasRecord("x", ("b",)), ReplicasRecord("y", ())]
    assert wished_on("b", wishes) == {"a@b", "x@b"}


def test_a_node_that_stops_waits_as_long_as_writes_elsewhere_would_wait_for_it() -> None:
    records = [MemberRecord(one, member(one).node, Address("h", 1), "admin", leaving=one == B) for one in (A, B, C)]
    assert to_be_missed("b", topology(f"{A} {B}"), records) == ["a"]
    assert to_be_missed("b", topology(f"{A} {B} {C}"), records) == []
    assert to_be_missed("b", topology(A, outgoing=f"{A} {B}"), records) == ["a"]
    assert to_be_missed("b", topology(A, learners=B), records) == []
    assert to_be_missed("c", topology(f"{A} {B}"), records) == []
    # Nobody is left who could go on.
    assert to_be_missed("b", topology(f"{A} {B}"), [replace(record, leaving=True) for record in records]) == []


def test_a_node_that_stops_waits_as_long_as_somebody_else_could_lead() -> None:
    records = [MemberRecord(one, member(one).node, Address("h", 1), "admin") for one in (A, B, C)]
    led = topology(f"{A} {B} {C}")
    assert to_hand_over("a", led, records) == ["a"]
    assert to_hand_over("a", topology(f"{A} {B}", B), records) == []
    assert to_hand_over("a", topology(A, learners=B), records) == []
    assert to_hand_over("a", led, [replace(record, leaving=True) for record in records]) == []
    assert to_hand_over("a", led, [replace(record, dead=True) for record in records]) == []
