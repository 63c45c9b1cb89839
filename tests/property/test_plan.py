"""Plans against the owners of many keys before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.real_keys import real_keys

from helios.control.mutations import begin
from helios.model.topology import ANY, Pair, Placement, Rule, Topology
from helios.placement.change import moved, with_weights, without_shard
from helios.placement.plan import beginning_of, beginnings_between, moved_share, pairs_between
from helios.placement.table import table_of

SHARDS = ("a", "b", "c", "d")
PATTERNS = ("*", "user:*", "user:1*", "*2")
KEYS = tuple(f"{kind}:{n}".encode() for kind in ("user", "x") for n in range(1, 60))

WEIGHTS = st.dictionaries(st.sampled_from(SHARDS), st.sampled_from([0.5, 1.0, 2.0]), min_size=1)
RULES = st.builds(
    Rule,
    st.sampled_from((*SHARDS, ANY)),
    st.sampled_from((*SHARDS, ANY)),
    st.sets(st.sampled_from(PATTERNS), min_size=1, max_size=2).map(lambda patterns: tuple(sorted(patterns))),
)
# Points that a rebalance has given away: by their number on the ring, to a shard that is on it.
GIVEN = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=3)


def placement_of(weights: dict[str, float], rules: list[Rule], given: list[tuple[int, int]]) -> Placement:
    plain = Placement(8, tuple(sorted(weights.items())), rules=tuple(rules))
    points, shards = table_of(plain).ring.positions, table_of(plain).ring.shards
    reassigned = {points[n % len(points)]: shards[to % len(shards)] for n, to in given}
    return replace(plain, reassigned=tuple(sorted(reassigned.items())))


PLACEMENTS = st.builds(placement_of, WEIGHTS, st.lists(RULES, max_size=5), GIVEN)


def begun(current: Placement, following: Placement, unclean: frozenset[str] = frozenset()) -> Topology:
    """The topology in which the transition has begun."""
    pairs = tuple(Pair(source, target, "m") for source, target in pairs_between(current, following))
    return begin(Topology(1, placement=current, unclean=unclean), "change", following, pairs)


def even(nodes: int) -> Placement:
    return with_weights(Placement(), {f"shard-{n}": 1.0 for n in range(1, nodes + 1)})


@given(PLACEMENTS, PLACEMENTS)
def test_every_pair_that_occurs_is_there(current: Placement, following: Placement) -> None:
    before, after = table_of(current), table_of(following)
    pairs = pairs_between(current, following)
    for key in KEYS:
        old, new = before.owner(key), after.owner(key)
        assert old == new or (old, new) in pairs
    assert list(pairs) == sorted(set(pairs))
    assert all(source != target for source, target in pairs)


@given(PLACEMENTS)
def test_nothing_moves_between_equal_placements(placement: Placement) -> None:
    assert pairs_between(placement, placement) == ()
    assert pairs_between(placement, with_weights(placement, dict(placement.weights))) == ()
    assert moved_share(placement, placement) == {}


@given(PLACEMENTS, PLACEMENTS)
def test_the_way_back_has_the_same_pairs_turned_round(current: Placement, following: Placement) -> None:
    back = pairs_between(following, current)
    assert sorted((target, source) for source, target in back) == list(pairs_between(current, following))


@given(PLACEMENTS, PLACEMENTS)
def test_moved_shares_are_what_each_shard_loses_and_gains(current: Placement, following: Placement) -> None:
    moving = moved_share(current, following)
    before, after = table_of(current).shares, table_of(following).shares
    for shard in SHARDS:
        gained = sum(share for (_, target), share in moving.items() if target == shard)
        lost = sum(share for (source, _), share in moving.items() if source == shard)
        assert after.get(shard, 0.0) - before.get(shard, 0.0) == pytest.approx(gained - lost, abs=1e-12)
    assert all(share > 0 for share in moving.values())
    assert 0 <= sum(moving.values()) <= 1 + 1e-12
    assert set(moving) <= set(pairs_between(replace(current, rules=()), replace(following, rules=())))


def test_a_joining_node_gets_one_pair_from_each_of_the_others() -> None:
    current, following = even(3), even(4)
    assert pairs_between(current, following) == tuple((f"shard-{n}", "shard-4") for n in (1, 2, 3))
    assert pairs_between(following, without_shard(following, "shard-4")) == tuple(
        ("shard-4", f"shard-{n}") for n in (1, 2, 3)
    )
    moving, keys = moved_share(current, following), real_keys()
    before, after = table_of(current), table_of(following)
    counts = Counter((before.owner(key), after.owner(key)) for key in keys)
    for pair, share in moving.items():
        assert abs(counts[pair] - share * len(keys)) < 5 * sqrt(len(keys) * share * (1 - share))


def test_a_move_by_pattern_is_one_pair() -> None:
    current = even(3)
    assert pairs_between(current, moved(current, "shard-1", "shard-2", "user:*")) == (("shard-1", "shard-2"),)


@given(PLACEMENTS, st.lists(st.tuples(st.permutations(SHARDS), st.sampled_from(PATTERNS)), min_size=1, max_size=3))
def test_every_key_that_moves_begins_as_it_is_said(current: Placement, moves: list[tuple[list[str], str]]) -> None:
    following = current
    for (source, target, *_), pattern in moves:
        following = moved(following, source, target, pattern)
    before, after = table_of(current), table_of(following)
    beginnings = beginnings_between(current, following)
    for key in KEYS:
        pair = before.owner(key), after.owner(key)
        assert pair[0] == pair[1] or key.startswith(beginnings[pair])
    for shard in SHARDS:
        topology = begun(current, following)
        assert all(
            key.startswith(beginning_of(topology, shard))
            for key in KEYS
            if before.owner(key) != after.owner(key) and shard in (before.owner(key), after.owner(key))
        )


def test_only_what_begins_as_the_pattern_is_looked_at_unless_a_shard_may_hold_more() -> None:
    current = even(3)
    following = moved(current, "shard-1", "shard-2", "user:*")
    topology = begun(current, following)
    assert [beginning_of(topology, shard) for shard in ("shard-1", "shard-2")] == [b"user:", b"user:"]
    dirty = begun(current, following, unclean=frozenset({"shard-2"}))
    assert [beginning_of(dirty, shard) for shard in ("shard-1", "shard-2")] == [b"user:", b""]
    assert beginning_of(begun(current, even(4)), "shard-1") == b""
    assert beginning_of(Topology(1), "shard-1") == b""


def test_a_first_shard_takes_what_nobody_had() -> None:
    assert pairs_between(Placement(), even(1)) == ()
    assert pairs_between(even(1), Placement()) == ()
