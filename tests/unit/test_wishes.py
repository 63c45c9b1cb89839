"""On which nodes shards are to have members, where an external server has founded one."""

from __future__ import annotations

from dataclasses import replace

from helios.control.wishes import wishes_of
from helios.model.ids import Address, founder_id, replica_id
from helios.model.topology import Member, Node, NodeKind, NodeState, Shard, Topology


def founder(node: str) -> Member:
    return Member(founder_id(node), node, Address(node, 1))


def copy_on(node: str) -> Member:
    return Member(replica_id("e", node), node, Address(node, 2))


def topology(*members: Member, nodes: str = "abc") -> Topology:
    """With nodes of Helios' own, and an external one whose shard has these members, the leader first."""
    own = tuple(Node(name, Address(name, 9)) for name in nodes)
    shards = tuple(Shard(name, founder_id(name), (founder(name),)) for name in nodes)
    shard = Shard("e", members[0].id, members)
    return Topology(1, nodes=(*own, Node("e", Address("e", 9), NodeKind.EXTERNAL)), shards=(*shards, shard))


def test_a_server_that_leads_has_copies_elsewhere_and_none_of_others() -> None:
    wishes = wishes_of(topology(founder("e")), 3)
    assert {shard: len(nodes) for shard, nodes in wishes.items()} == {"a": 2, "b": 2, "c": 2, "e": 2}
    assert "e" not in {node for nodes in wishes.values() for node in nodes}


def test_a_server_that_was_replaced_leaves_its_place_to_a_copy() -> None:
    assert len(wishes_of(topology(copy_on("b"), founder("e")), 3)["e"]) == 3
    assert wishes_of(topology(copy_on("b"), founder("e")), 2)["e"][0] == "b"
    assert wishes_of(topology(copy_on("b")), 1) == {"e": ("b",)}


def test_copies_stay_where_they_are_when_one_of_them_comes_to_lead() -> None:
    before = wishes_of(topology(founder("e"), copy_on("a"), copy_on("c")), 3)["e"]
    after = wishes_of(topology(copy_on("c"), founder("e"), copy_on("a")), 3)["e"]
    assert set(before) == {"a", "c"} < set(after)


def test_what_a_drained_node_has_of_a_replaced_server_goes_to_others() -> None:
    led = topology(copy_on("b"))
    nodes = tuple(replace(n, state=NodeState.DRAINING) if n.id == "b" else n for n in led.nodes)
    for factor in (1, 2, 3):
        wished = wishes_of(replace(led, nodes=nodes), factor)["e"]
        assert "b" not in wished
        assert len(wished) == min(factor, 2)


def test_the_last_node_keeps_what_it_has() -> None:
    led = topology(copy_on("a"), nodes="a")
    nodes = tuple(replace(n, state=NodeState.DRAINED) if n.id == "a" else n for n in led.nodes)
    assert wishes_of(replace(led, nodes=nodes), 2) == {"e": ("a",)}
