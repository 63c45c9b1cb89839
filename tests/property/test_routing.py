"""Which steps of a transition change the owner of a key: the switch of its pair, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.topologies import KEYS, PLACEMENTS, SHARDS, cluster, transitions

from helios.control.mutations import Fence, Finish, Reverse, Switch, Unfence, begin
from helios.model.codec import decode, encode
from helios.model.topology import NodeState, Pair, PairPhase, Placement, Topology, Transition
from helios.placement.plan import pairs_between
from helios.placement.ring import POSITIONS, Ring
from helios.placement.routing import Routes

Owners = dict[bytes, str]


def owners(topology: Topology) -> Owners:
    routes = Routes(topology)
    return {key: routes.owner(key) for key in KEYS}


def running(topology: Topology) -> Transition:
    assert topology.transition is not None
    return topology.transition


def back(topology: Topology) -> Reverse:
    """The reversal, with a migration named for each way back."""
    return Reverse({(p.source, p.target): f"back-{p.migration}" for p in running(topology).pairs})


@given(transitions())
def test_a_key_is_on_the_target_exactly_when_its_pair_has_switched(topology: Topology) -> None:
    routes, transition = Routes(topology), running(topology)
    before, after = Routes(cluster("a", placement=topology.placement)), Routes(cluster("a", placement=transition.next))
    for key in KEYS:
        old, new = before.owner(key), after.owner(key)
        pair = transition.pair(old, new)
        assert routes.pair(key) == (None if old == new else (old, new))
        if pair is None:
            assert old == new
            assert routes.owner(key) == old
            assert not routes.fenced(key)
        else:
            assert routes.owner(key) == (new if pair.phase is PairPhase.SWITCHED else old)
            assert routes.fenced(key) == (pair.phase is PairPhase.FENCED)
    assert routes.has_fence == any(pair.phase is PairPhase.FENCED for pair in transition.pairs)


@given(transitions(), st.sets(st.sampled_from(SHARDS)))
def test_a_fenced_shard_holds_all_that_it_owns_and_nothing_else(topology: Topology, shards: set[str]) -> None:
    open_routes, routes = Routes(topology), Routes(replace(topology, fenced_shards=frozenset(shards)))
    for key in KEYS:
        assert routes.owner(key) == open_routes.owner(key)
        assert routes.pair(key) == open_routes.pair(key)
        assert routes.fenced(key) == (open_routes.fenced(key) or open_routes.owner(key) in shards)
    assert {shard for shard in SHARDS if routes.holds(shard)} == shards
    assert routes.has_fence == (open_routes.has_fence or bool(shards))


@given(transitions(), st.sets(st.sampled_from(SHARDS)))
def test_fences_are_the_pairs_that_are_fenced_and_the_shards(topology: Topology, shards: set[str]) -> None:
    topology = replace(topology, fenced_shards=frozenset(shards))
    fences = topology.fences
    assert {fence.shard for fence in fences if fence.whole} == shards
    pairs = {(pair.source, pair.target) for pair in running(topology).pairs if pair.phase is PairPhase.FENCED}
    assert {(fence.shard, fence.target) for fence in fences if not fence.whole} == pairs
    assert len(set(fences)) == len(fences)
    assert decode(Topology, encode(topology)).fences == fences


@given(transitions())
def test_shares_are_those_of_the_owners_on_the_ring(topology: Topology) -> None:
    """Rules are left out on both sides."""
    transition = running(topology)
    topology = replace(
        topology,
        placement=replace(topology.placement, rules=()),
        transition=replace(transition, next=replace(transition.next, rules=())),
    )
    routes = Routes(topology)
    old = Ring(dict(topology.placement.weights), topology.placement.virtual_nodes, topology.placement.reassigned)
    following = running(topology).next
    new = Ring(dict(following.weights), following.virtual_nodes, following.reassigned)
    switched = {(pair.source, pair.target) for pair in running(topology).pairs if pair.phase is PairPhase.SWITCHED}
    points = sorted({*old.positions, *new.positions})
    shares: dict[str, float] = {}
    for before, point in zip([points[-1] - POSITIONS, *points], points, strict=False):
        pair = old.at(point), new.at(point)
        owner = pair[1] if pair in switched else pair[0]
        shares[owner] = shares.get(owner, 0.0) + (point - before) / POSITIONS
    assert {shard: routes.share(shard) for shard in shares} == pytest.approx(shares)
    assert sum(shares.values()) == pytest.approx(1)


@given(transitions(), st.data())
def test_only_a_switch_changes_owners_and_only_of_its_own_pair(topology: Topology, data: st.DataObject) -> None:
    before, routes = owners(topology), Routes(topology)
    waiting = [pair for pair in running(topology).pairs if pair.phase is not PairPhase.SWITCHED]
    if not waiting:
        return
    pair = data.draw(st.sampled_from(waiting))
    fenced = Fence(pair.source, pair.target).apply(topology)
    assert owners(fenced) == before
    assert owners(Unfence(pair.source, pair.target).apply(fenced)) == before
    switched = owners(Switch(pair.source, pair.target).apply(fenced))
    for key in KEYS:
        mine = routes.pair(key) == (pair.source, pair.target)
        assert switched[key] == (pair.target if mine else before[key])


@given(PLACEMENTS, PLACEMENTS)
def test_beginning_changes_no_owner(current: Placement, following: Placement) -> None:
    topology = cluster("a", "b", "c", "d", placement=current)
    pairs = tuple(Pair(source, target, "m") for source, target in pairs_between(current, following))
    begun = begin(topology, "change", following, pairs, "")
    assert owners(begun) == owners(topology)
    assert not Routes(begun).has_fence
    assert (begun.transition is None) == (not pairs)


@given(transitions())
def test_finishing_changes_no_owner(topology: Topology) -> None:
    for pair in running(topology).pairs:
        topology = Switch(pair.source, pair.target).apply(topology)
    finished = Finish(frozenset()).apply(topology)
    assert owners(finished) == owners(topology)
    assert finished.transition is None
    assert (finished.placement, finished.unclean) == (running(topology).next, frozenset())
    assert topology.transition is not None
    gone = topology.transition.leaving
    assert gone not in {node.id for node in finished.nodes} | {shard.id for shard in finished.shards}
    assert len(finished.nodes) == len(topology.nodes) - (gone != "")


@given(transitions())
def test_giving_up_changes_no_owner(topology: Topology) -> None:
    reversed_ = back(topology).apply(topology)
    assert owners(reversed_) == owners(topology)
    assert not Routes(reversed_).has_fence
    assert running(reversed_).reversing
    assert all(node.state is NodeState.ACTIVE for node in reversed_.nodes)
    assert reversed_.unclean == topology.unclean
    named = {(p.source, p.target): p.migration for p in running(reversed_).pairs}
    for pair in running(topology).pairs:
        gone = pair.phase is PairPhase.SWITCHED
        assert named[pair.target, pair.source] == (f"back-{pair.migration}" if gone else "")


@given(transitions())
def test_the_way_back_ends_where_the_transition_began(topology: Topology) -> None:
    at_first = owners(cluster("a", placement=topology.placement))
    returning = back(topology).apply(topology)
    for pair in running(returning).pairs:
        if pair.phase is PairPhase.COPYING:
            assert owners(Fence(pair.source, pair.target).apply(returning)) == owners(returning)
            returning = Switch(pair.source, pair.target).apply(returning)
    assert owners(returning) == at_first
    finished = Finish(frozenset()).apply(returning)
    assert owners(finished) == at_first
    assert finished.placement == topology.placement
    assert finished.nodes == returning.nodes


def test_a_cluster_without_nodes_owns_nothing() -> None:
    routes = Routes(Topology(0))
    assert routes.empty
    assert routes.share("a") == 0.0
    assert routes.pair(b"key") is None
    with pytest.raises(IndexError):
        routes.owner(b"key")
