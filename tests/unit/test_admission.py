"""Admission of requests: what is granted, what is refused, and in which words."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from tests.topologies import cluster, member, node

from helios.control.admission import Admission, Policy, admit, check_migrate, desired_weights, placement_after, refusal
from helios.errors import HeliosError, InvalidInput, NotFound, Refused
from helios.model.migration import Change, ChangeKind
from helios.model.topology import Node, NodeState, Placement, Rule, Topology
from helios.placement.routing import Routes

EMPTY = Topology(3)


def found(*nodes: Node) -> Change:
    return Change("c", ChangeKind.FOUND, nodes=nodes)


def add(new: Node) -> Change:
    return Change("c", ChangeKind.ADD_NODE, nodes=(new,))


def remove(node_id: str) -> Change:
    return Change("c", ChangeKind.REMOVE_NODE, node=node_id)


def migrate(source: str, target: str, pattern: str = "*") -> Change:
    return Change("c", ChangeKind.MIGRATE, source=source, target=target, pattern=pattern)


def draining(topology: Topology, *node_ids: str) -> Topology:
    nodes = tuple(replace(n, state=NodeState.DRAINING) if n.id in node_ids else n for n in topology.nodes)
    return replace(topology, nodes=nodes)


def ask(topology: Topology, change: Change, policy: Policy | None = None) -> Admission:
    """Admit a change whose nodes all have a running server."""
    return admit(topology, change, {n.id: member(n.id) for n in change.nodes}, policy or Policy())


def granted(admission: Admission) -> Topology:
    assert admission.topology is not None
    return admission.topology


@pytest.mark.parametrize(
    ("topology", "change", "error", "words"),
    [
        (cluster("a", "b"), found(node("x")), Refused, "the cluster exists already, with the nodes a, b"),
        (cluster("a"), add(node("a", 9)), Refused, "a is a node already, at a:6379"),
        (cluster("a"), add(Node("b", node("a").address)), Refused, "a:6379 is the address of a: each node needs one"),
        (EMPTY, found(node("a"), node("a")), Refused, "a is a node already"),
        (cluster("a"), add(node("b", weight=0.001)), InvalidInput, "weight 0.001 of b gives it no point on the ring"),
        (cluster("a"), add(node("b", weight=-1.0)), InvalidInput, "weight -1.0 of b gives it no point on the ring"),
        (cluster("a"), remove("b"), NotFound, "there is no node 'b'; the nodes are a"),
        (EMPTY, remove("b"), NotFound, "there is no node 'b'; the nodes are none yet"),
        (draining(cluster("a", "b"), "a"), remove("a"), Refused, "a is being removed already"),
        (cluster("a"), remove("a"), Refused, "a is the last node: its keys would have nowhere to go; add another"),
        (draining(cluster("a", "b"), "a"), remove("b"), Refused, "b is the last node"),
        (cluster("a", "b"), migrate("a", "z"), NotFound, "there is no node 'z'; the nodes are a, b"),
        (cluster("a", "b"), migrate("z", "a"), NotFound, "there is no node 'z'; the nodes are a, b"),
        (
            cluster("a", "b"),
            migrate("a", "a"),
            InvalidInput,
            "source and target are both 'a': name two different nodes",
        ),
        (cluster("a", "b"), migrate("a", "b", ""), InvalidInput, "the pattern is empty: write '[*]' for every key"),
        (
            replace(cluster("a", "b"), sharding_enabled=False),
            migrate("a", "b"),
            Refused,
            "sharding is disabled .*: every key stays on the first node",
        ),
        (draining(cluster("a", "b"), "b"), migrate("a", "b"), Refused, "b is being removed: it takes no more keys"),
        (EMPTY, Change("c", ChangeKind.REBALANCE), Refused, "there is nothing to rebalance: the cluster has no nodes"),
    ],
)
def test_what_makes_no_sense_is_refused(
    topology: Topology, change: Change, error: type[HeliosError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        ask(topology, change)
    assert refusal(raised.value) == f"{error.code} {raised.value}"


@pytest.mark.parametrize("change", [found(node("a")), add(node("a"))])
def test_a_node_without_a_server_is_refused(change: Change) -> None:
    with pytest.raises(Refused, match="a at a:6379 has no running server: start it first"):
        admit(EMPTY, change, {}, Policy())


def test_a_weight_counts_by_the_virtual_nodes_of_the_new_cluster() -> None:
    """By the default of 150 this node would have a point; by the policy it has none, and the ring would be empty."""
    few = Policy(virtual_nodes=10)
    for change in (found(node("a", weight=0.01)), add(node("a", weight=0.01))):
        with pytest.raises(InvalidInput, match="gives it no point"):
            ask(EMPTY, change, few)
    many = Policy(virtual_nodes=1000)
    for change in (found(node("a", weight=0.001)), add(node("a", weight=0.001))):
        placement = granted(ask(EMPTY, change, many)).placement
        assert placement == Placement(1000, (("a", 0.001),))


@pytest.mark.parametrize("weight", [inf, -inf, float("nan")])
def test_a_weight_that_is_no_number_is_refused(weight: float) -> None:
    with pytest.raises(InvalidInput, match=r"weight .* of b is no number of points"):
        ask(cluster("a"), add(node("b", weight=weight)))


def test_founding_puts_every_node_on_the_ring_at_once() -> None:
    admission = ask(EMPTY, found(node("b"), node("a", weight=2.0)), Policy(virtual_nodes=40))
    topology = granted(admission)
    assert not admission.queued
    assert topology.placement == Placement(40, (("a", 2.0), ("b", 1.0)))
    assert [n.id for n in topology.nodes] == ["a", "b"]
    assert [(shard.id, shard.leader, shard.leading.node) for shard in topology.shards] == [
        ("a", "a.0", "a"),
        ("b", "b.0", "b"),
    ]
    assert topology.epoch == EMPTY.epoch


def test_the_first_node_owns_all_at_once() -> None:
    for auto_rebalance in (False, True):
        admission = ask(EMPTY, add(node("a")), Policy(virtual_nodes=40, auto_rebalance=auto_rebalance))
        assert not admission.queued
        assert granted(admission).placement == Placement(40, (("a", 1.0),))


def test_a_node_that_joins_owns_nothing_until_its_share_is_moved() -> None:
    before = cluster("a", "b")
    waiting = ask(before, add(node("c")))
    assert not waiting.queued
    assert granted(waiting).placement == before.placement
    assert [n.id for n in granted(waiting).nodes] == ["a", "b", "c"]

    taking = ask(before, add(node("c")), Policy(auto_rebalance=True))
    assert taking.queued
    assert granted(taking).placement == before.placement
    assert dict(placement_after(granted(taking), add(node("c"))).weights) == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_without_sharding_every_key_is_on_the_first_node_by_id() -> None:
    alone = Policy(sharding_enabled=False)
    topology = granted(ask(EMPTY, found(node("m"), node("n")), alone))
    assert topology.placement.weights == (("m", 1.0),)
    assert {Routes(topology).owner(b"%d" % n) for n in range(50)} == {"m"}

    behind = ask(topology, add(node("z")), alone)
    assert not behind.queued
    assert granted(behind).placement == topology.placement

    first = ask(topology, add(node("a")), alone)
    assert first.queued
    assert placement_after(granted(first), add(node("a"))).weights == (("a", 1.0),)

    leaving = ask(topology, remove("m"), alone)
    assert placement_after(granted(leaving), remove("m")).weights == (("n", 1.0),)


def test_removing_drains_first() -> None:
    before = cluster("a", "b")
    admission = ask(before, remove("a"))
    topology = granted(admission)
    assert admission.queued
    assert [n.state for n in topology.nodes] == [NodeState.DRAINING, NodeState.ACTIVE]
    assert topology.placement == before.placement
    assert desired_weights(topology) == {"b": 1.0}
    assert placement_after(topology, remove("a")).weights == (("b", 1.0),)


def test_the_last_owner_hands_over_to_nodes_that_owned_nothing() -> None:
    topology = granted(ask(cluster("a"), add(node("b", weight=2.0))))
    leaving = granted(ask(topology, remove("a")))
    assert placement_after(leaving, remove("a")).weights == (("b", 2.0),)


def test_moving_leaves_a_rule() -> None:
    topology = cluster("a", "b")
    assert ask(topology, migrate("a", "b", "user:*")) == Admission(None, queued=True)
    assert placement_after(topology, migrate("a", "b", "user:*")).rules == (Rule("a", "b", ("user:*",)),)


def test_a_move_is_looked_at_again_when_its_turn_has_come() -> None:
    with pytest.raises(NotFound, match="no node 'b'"):
        placement_after(cluster("a"), migrate("a", "b"))
    with pytest.raises(Refused, match="b is being removed"):
        placement_after(draining(cluster("a", "b"), "b"), migrate("a", "b"))
    check_migrate(draining(cluster("a", "b"), "a"), "a", "b", "*")


def test_rebalancing_gives_every_node_that_stays_its_weight() -> None:
    topology = draining(replace(cluster("a", "b", "c"), placement=Placement(8, (("a", 1.0),))), "c")
    change = Change("c", ChangeKind.REBALANCE)
    assert ask(topology, change) == Admission(None, queued=True)
    assert placement_after(topology, change).weights == (("a", 1.0), ("b", 1.0))


def test_founding_changes_no_placement_later() -> None:
    topology = cluster("a", "b")
    assert placement_after(topology, found(node("a"))) == topology.placement
