"""Admission of requests: what is granted, what is refused, and in which words."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from tests.topologies import cluster, member, node

from helios.control.admission import (
    Admission,
    Policy,
    admit,
    altered_node,
    check_migrate,
    desired_weights,
    placement_after,
    refusal,
    refuse_joining,
    stays,
)
from helios.control.mutations import Reverse, Switch, begin
from helios.errors import HeliosError, InvalidInput, NotFound, Refused
from helios.model.migration import Change, ChangeKind
from helios.model.topology import Node, NodeState, Pair, Placement, Rule, Topology
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


def about(node_id: str, kind: ChangeKind) -> Change:
    return Change("c", kind, node=node_id)


def weigh(node_id: str, weight: float) -> Change:
    return Change("c", ChangeKind.REWEIGHT, node=node_id, weight=weight)


def drained(*node_ids: str) -> Topology:
    """A cluster whose last node has been drained."""
    topology = cluster(*node_ids)
    return performed(topology, about(node_ids[-1], ChangeKind.DRAIN))


def performed(topology: Topology, change: Change) -> Topology:
    """The topology after the change's transition has ended."""
    following = placement_after(topology, change)
    begun = begin(topology, "c", following, (), altered=altered_node(topology, change))
    assert begun.transition is None
    return begun


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
        (cluster("a"), weigh("b", 2.0), NotFound, "there is no node 'b'; the nodes are a"),
        (cluster("a"), weigh("a", 0.001), InvalidInput, "weight 0.001 of a gives it no point on the ring"),
        (cluster("a"), about("a", ChangeKind.DRAIN), Refused, "a is the last node: its keys would have nowhere to go"),
        (cluster("a", "b"), about("a", ChangeKind.UNDRAIN), Refused, "a is not drained"),
        (drained("a", "b"), about("b", ChangeKind.DRAIN), Refused, "b is drained already"),
        (drained("a", "b"), about("a", ChangeKind.DRAIN), Refused, "a is the last node"),
        (drained("a", "b"), migrate("a", "b"), Refused, "b is drained: bring it back with `undrain`"),
        (draining(cluster("a", "b"), "b"), weigh("b", 2.0), Refused, "b is being removed"),
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


def test_the_last_node_that_owns_keys_stays_when_its_turn_to_leave_has_come() -> None:
    """When it was asked to leave, the other one had not been drained yet."""
    with pytest.raises(Refused, match="a is the last node: its keys would have nowhere to go"):
        placement_after(draining(drained("a", "b"), "a"), remove("a"))


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


def test_a_new_weight_changes_the_share_of_that_node_alone() -> None:
    before = cluster("a", "b", "c")
    after = performed(before, weigh("b", 2.0))
    assert dict(after.placement.weights) == {"a": 1.0, "b": 2.0, "c": 1.0}
    assert [n.weight for n in after.nodes] == [1.0, 2.0, 1.0]
    assert desired_weights(after) == dict(after.placement.weights)


def test_a_weight_of_a_node_without_a_share_is_noted_and_moves_nothing() -> None:
    waiting = replace(cluster("a", "b"), placement=cluster("a").placement)
    after = performed(waiting, weigh("b", 3.0))
    assert after.placement == waiting.placement
    assert desired_weights(after) == {"a": 1.0, "b": 3.0}


def test_a_drained_node_stays_owns_nothing_and_comes_back() -> None:
    before = cluster("a", "b", "c")
    moved_there = replace(before, placement=placement_after(before, migrate("a", "b", "x*")))
    away = performed(moved_there, about("b", ChangeKind.DRAIN))
    assert [n.id for n in away.nodes] == ["a", "b", "c"]
    assert dict(away.placement.weights) == {"a": 1.0, "c": 1.0}
    assert away.placement.rules == ()
    assert desired_weights(away) == dict(away.placement.weights), "no rebalance brings it back unasked"
    assert performed(away, about("b", ChangeKind.UNDRAIN)).placement == before.placement
    heavier = performed(away, weigh("b", 2.0))
    assert dict(heavier.placement.weights) == {"a": 1.0, "b": 2.0, "c": 1.0}
    assert heavier.nodes[1].state is NodeState.ACTIVE


def test_without_sharding_a_drained_first_node_hands_over_to_the_next() -> None:
    alone = replace(cluster("a", "b"), placement=cluster("a").placement, sharding_enabled=False)
    away = performed(alone, about("a", ChangeKind.DRAIN))
    assert dict(away.placement.weights) == {"b": 1.0}
    assert performed(away, about("a", ChangeKind.UNDRAIN)).placement == alone.placement


@pytest.mark.parametrize("change", [weigh("b", 4.0), about("b", ChangeKind.DRAIN)])
def test_a_change_that_is_taken_back_leaves_the_node_as_it_was(change: Change) -> None:
    before = cluster("a", "b", "c")
    pairs = (Pair("a", "b", "m-1"), Pair("b", "c", "m-2"))
    begun = begin(before, "c", placement_after(before, change), pairs, altered=altered_node(before, change))
    assert begun.nodes != before.nodes
    switched = Switch("a", "b").apply(begun)
    back = Reverse({("a", "b"): "back-1", ("b", "c"): "back-2"}).apply(switched)
    assert back.nodes == before.nodes
    assert back.transition is not None
    assert back.transition.next == before.placement


def test_a_change_that_is_taken_back_keeps_what_was_asked_of_the_node_since() -> None:
    before = cluster("a", "b", "c")
    change = about("b", ChangeKind.DRAIN)
    begun = begin(
        before, "c", placement_after(before, change), (Pair("b", "a", "m-1"),), altered=altered_node(before, change)
    )
    leaving = granted(ask(begun, remove("b")))
    back = Reverse({("b", "a"): "back-1"}).apply(Switch("b", "a").apply(leaving))
    assert [node.state for node in back.nodes] == [NodeState.ACTIVE, NodeState.DRAINING, NodeState.ACTIVE]
    assert stays(back, "b").nodes == before.nodes, "neither the drain nor the removal has come about"


@pytest.mark.parametrize("state", [NodeState.ACTIVE, NodeState.DRAINED])
def test_a_node_whose_removal_is_given_up_is_what_it_was(state: NodeState) -> None:
    whole = cluster("a", "b", "c")
    before = performed(whole, about("b", ChangeKind.DRAIN)) if state is NodeState.DRAINED else whole
    leaving = granted(ask(before, remove("b")))
    assert leaving.nodes[1].state is NodeState.DRAINING
    assert stays(leaving, "b").nodes == before.nodes
    begun = begin(leaving, "c", placement_after(leaving, remove("b")), (Pair("a", "c", "m-1"),), leaving="b")
    assert Reverse({("a", "c"): "back-1"}).apply(begun).nodes == before.nodes


def test_one_request_at_a_time_imports_from_a_server() -> None:
    one = node("one")
    importing = Change("c1", ChangeKind.ADD_NODE, nodes=(one,), import_keys=True)
    elsewhere = replace(node("two"), address=replace(one.address, port=one.address.port + 1))
    refuse_joining(elsewhere, [importing])
    refuse_joining(one, [replace(importing, import_keys=False), Change("c2", ChangeKind.REBALANCE)])
    for same in (replace(one, address=elsewhere.address), replace(one, id="other")):
        with pytest.raises(Refused, match=f"one at {one.address} joins by an earlier request"):
            refuse_joining(same, [importing])


def test_the_only_copy_of_a_shard_leads_already_whatever_loss_is_accepted() -> None:
    alone = cluster("a", "b")
    asked = Change("c", ChangeKind.PROMOTE, shard="a", node="a", accept_loss=True)
    assert not admit(alone, asked, {}, Policy()).queued
    # It is to lead first, or somebody may still ask for what another has.
    assert admit(replace(alone, fenced_shards=frozenset({"a"})), asked, {}, Policy()).queued
    left = replace(alone.shards[0], outgoing=(member("a"), replace(member("a"), id="a@b", node="b")))
    assert admit(replace(alone, shards=(left, alone.shards[1])), asked, {}, Policy()).queued
