"""Balancing: it converges, moves little, respects weights and rules, and then leaves the cluster alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.real_keys import real_keys

from helios.model.balancing import Measure, Strategy
from helios.model.topology import Placement, Rule
from helios.placement.balance import BalancePlan, band_of, plan
from helios.placement.change import moved, with_weights, without_shard
from helios.placement.load import (
    ArcLoads,
    Load,
    SampledKey,
    ShardLoad,
    Spread,
    edges_of,
    estimate,
    owners_at,
    spread,
)
from helios.placement.ring import POSITIONS, points_of, position
from helios.placement.table import PlacementTable, table_of

STRATEGIES = st.sampled_from(Strategy)
WEIGHTS = st.dictionaries(
    st.sampled_from([f"shard-{n}" for n in range(12)]), st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1
)
SEEDS = st.integers(0, 2**32)


def ring_of(weights: Mapping[str, float], virtual_nodes: int = 150) -> Placement:
    return with_weights(Placement(virtual_nodes), weights)


def even(nodes: int, virtual_nodes: int = 150) -> Placement:
    return ring_of({f"shard-{n}": 1.0 for n in range(1, nodes + 1)}, virtual_nodes)


def by_width(placement: Placement, total: float = 1e6) -> ArcLoads:
    """So many hashed keys that every arc holds its width's share."""
    positions = edges_of(placement)
    widths = [positions[0] - positions[-1] + POSITIONS, *(b - a for a, b in pairwise(positions))]
    return ArcLoads(positions, [total * width / POSITIONS for width in widths])


def drawn(placement: Placement, kind: str, seed: int) -> ArcLoads:
    """Arcs that are even, unequal, mostly empty, or all but one light."""
    random = Random(seed)
    arcs = by_width(placement)
    loads = list(arcs.loads)
    if kind == "unequal":
        loads = [load * random.paretovariate(1.2) for load in loads]
    elif kind == "sparse":
        loads = [float(random.randrange(1, 4)) if random.random() < 0.1 else 0.0 for _ in loads]
    elif kind == "hot":
        loads[random.randrange(len(loads))] += sum(loads) * random.uniform(0.2, 2.0)
    return replace(arcs, loads=loads)


KINDS = st.sampled_from(["even", "unequal", "sparse", "hot"])


def check_plan(arcs: ArcLoads, before: Placement, made: BalancePlan) -> None:
    """What must be true of every plan: what it says is what comes, and it has its price."""
    after = arcs.owned(made.placement)
    assert after == pytest.approx(dict(made.after.loads))
    assert sum(after.values()) == pytest.approx(sum(arcs.loads))
    changed = [
        load
        for old, new, load in zip(
            owners_at(before, arcs.positions), owners_at(made.placement, arcs.positions), arcs.loads, strict=True
        )
        if old != new
    ]
    assert made.moved == pytest.approx(sum(changed))
    assert made.moved >= made.least * (1 - 1e-9)
    assert all(source != target for source, target in made.flows)


def variance(standing: Spread) -> float:
    """The mean square deviation, each shard counted by its weight."""
    return sum(standing.fair[shard] * deviation**2 for shard, deviation in standing.deviations.items())


@settings(max_examples=60)
@given(WEIGHTS, st.sampled_from([1, 4, 20, 150]), KINDS, SEEDS, STRATEGIES)
def test_a_plan_keeps_its_word_and_then_there_is_none(
    weights: dict[str, float], virtual_nodes: int, kind: str, seed: int, strategy: Strategy
) -> None:
    placement = ring_of({shard: max(weight, 1.0) for shard, weight in weights.items()}, virtual_nodes)
    arcs = drawn(placement, kind, seed)
    made = plan(arcs, placement, strategy)
    if made is None:
        return
    check_plan(arcs, placement, made)
    assert variance(made.after) < variance(made.before)
    assert plan(arcs, made.placement, strategy) is None


@settings(max_examples=30)
@given(SEEDS, st.lists(STRATEGIES, min_size=3, max_size=8), KINDS)
def test_plans_never_go_round_in_circles(seed: int, strategies: list[Strategy], kind: str) -> None:
    placement = even(6, 20)
    arcs = drawn(placement, kind, seed)
    seen = {placement}
    for strategy in strategies:
        made = plan(arcs, placement, strategy)
        if made is not None:
            placement = made.placement
            assert placement not in seen
            seen.add(placement)


@settings(max_examples=30)
@given(WEIGHTS, STRATEGIES, st.sampled_from([0.05, 0.1, 0.3]))
def test_with_fine_arcs_every_shard_comes_into_the_band_by_the_least_movement(
    weights: dict[str, float], strategy: Strategy, threshold: float
) -> None:
    placement = ring_of(weights)
    arcs = by_width(placement)
    band = band_of(strategy, threshold)
    made = plan(arcs, placement, strategy, threshold=threshold)
    if made is None:
        assert spread(arcs.owned(placement), weights).worst <= band + 1e-9
        return
    assert made.within
    assert spread(arcs.owned(made.placement), weights).worst <= band + 1e-9
    assert made.moved <= made.least * 1.05


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("nodes", [10, 100])
@pytest.mark.parametrize("virtual_nodes", [40, 150, 400])
def test_the_least_of_a_plan_is_the_sum_of_what_must_leave(strategy: Strategy, nodes: int, virtual_nodes: int) -> None:
    placement = even(nodes, virtual_nodes)
    arcs = by_width(placement)
    made = plan(arcs, placement, strategy, threshold=0.1)
    assert made is not None
    band = band_of(strategy, 0.1)
    fair = 1e6 / nodes
    loads = arcs.owned(placement).values()
    give = sum(max(0.0, load - fair * (1 + band)) for load in loads)
    take = sum(max(0.0, fair * (1 - band) - load) for load in loads)
    # A plan aims a twentieth inside the band; each shard that takes part may move that much more.
    parts = sum(abs(load / fair - 1) > band for load in loads)
    assert max(give, take) <= made.moved <= max(give, take) * 1.05 + parts * fair * band / 20


def test_many_nodes_need_few_pairs() -> None:
    made = plan(by_width(even(100)), even(100), Strategy.UNIFORM)
    assert made is not None
    assert made.within
    assert len(made.flows) < 100


@settings(max_examples=30)
@given(SEEDS, STRATEGIES)
def test_drift_is_followed_and_rest_is_kept(seed: int, strategy: Strategy) -> None:
    """Loads change a little each time; between two plans nothing happens, and the band holds after each look."""
    random = Random(seed)
    placement = even(5)
    arcs = by_width(placement)
    for _ in range(6):
        arcs = replace(arcs, loads=[load * random.uniform(0.6, 1.6) for load in arcs.loads])
        made = plan(arcs, placement, strategy)
        if made is not None:
            placement = made.placement
        weights = dict(placement.weights)
        assert spread(arcs.owned(placement), weights).worst <= band_of(strategy, 0.3) + 1e-9
        assert plan(arcs, placement, strategy) is None
        # Growth by the same part everywhere is no reason to move anything.
        assert plan(replace(arcs, loads=[load * 3 for load in arcs.loads]), placement, strategy) is None


@settings(max_examples=30)
@given(SEEDS, KINDS)
def test_placements_stay_canonical(seed: int, kind: str) -> None:
    """Points that come home are not mentioned, nor points that are gone."""
    random = Random(seed)
    placement = even(5, 20)
    for _ in range(5):
        arcs = drawn(placement, kind, random.randrange(2**32))
        made = plan(arcs, placement, Strategy.UNIFORM)
        if made is not None:
            placement = made.placement
        for point, shard in placement.reassigned:
            assert point not in points_of(shard, 1.0, 20)
        assert list(placement.reassigned) == sorted(dict(placement.reassigned).items())
        assert {point for point, _ in placement.reassigned} <= set(edges_of(placement))


def test_points_that_come_home_or_are_gone_leave_the_tuple() -> None:
    home = even(2, 10)
    mine = points_of("shard-1", 1.0, 10)
    skewed = replace(home, reassigned=(*sorted((point, "shard-2") for point in mine[:9]), (17, "shard-2")))
    made = plan(by_width(skewed), skewed, Strategy.UNIFORM)
    assert made is not None
    back = [point for point in mine if table_of(made.placement).ring.at(point) == "shard-1"]
    assert len(back) > 1
    assert not {point for point, _ in made.placement.reassigned} & {*back, 17}


def test_one_node_no_load_and_an_empty_ring_need_nothing() -> None:
    for strategy in Strategy:
        assert plan(by_width(even(1)), even(1), strategy) is None
        assert plan(by_width(even(4), 0.0), even(4), strategy) is None
        assert plan(ArcLoads((), ()), Placement(), strategy) is None


def test_an_empty_shard_is_filled() -> None:
    grown = even(4)
    own = set(points_of("shard-4", 1.0, 150))
    empty = replace(grown, reassigned=tuple((point, "shard-1") for point in sorted(own)))
    arcs = by_width(empty)
    assert arcs.owned(empty)["shard-4"] == 0
    made = plan(arcs, empty, Strategy.MINIMIZE_MOVEMENT)
    assert made is not None
    assert made.within
    assert set(made.flows) == {("shard-1", "shard-4")}
    assert made.moved <= made.least * 1.05


def test_one_key_stays_where_it_is() -> None:
    placement = even(5)
    arcs = by_width(placement)
    alone = replace(arcs, loads=[1.0, *[0.0] * (len(arcs.loads) - 1)])
    for strategy in Strategy:
        assert plan(alone, placement, strategy) is None


def test_a_hot_arc_does_not_keep_the_others_from_being_evened_out() -> None:
    placement = even(10)
    arcs = by_width(placement)
    loads = list(arcs.loads)
    loads[100] += 20e6
    hot = table_of(placement).ring.point_owners[100]
    made = plan(replace(arcs, loads=loads), placement, Strategy.UNIFORM)
    assert made is not None
    assert set(made.out_of_reach) == {hot}
    others = {shard: load for shard, load in made.after.loads.items() if shard != hot}
    assert spread(others, dict.fromkeys(others, 1.0)).worst <= 0.02
    assert not made.within


def test_two_hot_arcs_of_a_shard_part() -> None:
    placement = even(4)
    arcs = by_width(placement)
    loads = list(arcs.loads)
    owners = table_of(placement).ring.point_owners
    first, second = [index for index, owner in enumerate(owners) if owner == "shard-1"][:2]
    loads[first] += 1e6
    loads[second] += 1.2e6
    made = plan(replace(arcs, loads=loads), placement, Strategy.UNIFORM)
    assert made is not None
    after = table_of(made.placement).ring.point_owners
    assert after[first] != after[second]


def test_weights_change_in_the_same_step() -> None:
    before = even(4)
    base = with_weights(before, {"shard-1": 2.0, "shard-2": 1.0, "shard-3": 1.0, "shard-5": 1.0})
    positions = edges_of(before, base)
    widths = [positions[0] - positions[-1] + POSITIONS, *(b - a for a, b in pairwise(positions))]
    arcs = ArcLoads(positions, [width / POSITIONS for width in widths])
    made = plan(arcs, before, Strategy.UNIFORM, base=base)
    assert made is not None
    assert made.within
    check_plan(arcs, before, made)
    assert made.after.loads["shard-1"] == pytest.approx(0.4, rel=0.02)
    assert "shard-4" not in made.after.loads
    unchanged = plan(arcs, before, Strategy.MINIMIZE_MOVEMENT, base=base)
    assert unchanged is not None, "a change of weights is carried out even where no point has to be given away"


@given(st.sets(st.sampled_from([f"shard-{n}" for n in range(1, 7)])), SEEDS)
@settings(max_examples=30)
def test_resting_shards_neither_give_nor_take(resting: set[str], seed: int) -> None:
    placement = even(6)
    arcs = drawn(placement, "unequal", seed)
    made = plan(arcs, placement, Strategy.UNIFORM, resting=resting)
    if len(resting) > 4:
        assert made is None
    if made is not None:
        assert not {shard for pair in made.flows for shard in pair} & resting
        assert plan(arcs, made.placement, Strategy.UNIFORM, resting=resting) is None


# Estimates from what can be measured


def measured(placement: Placement, keys: Sequence[bytes], sample_every: int = 1, size: float = 1.0) -> Load:
    """What a collector would see of these keys, with a sample of every so-manieth."""
    table = PlacementTable(placement)
    counts = dict.fromkeys(dict(placement.weights), 0)
    sample = []
    for index, key in enumerate(keys):
        owner = table.owner(key)
        counts[owner] = counts.get(owner, 0) + 1
        if index % sample_every == 0:
            sample.append(SampledKey(owner, position(key), bytes=size))
    return Load({shard: ShardLoad(keys=n, bytes=n * size) for shard, n in counts.items()}, sample)


def counted(placement: Placement, keys: Sequence[bytes]) -> dict[str, float]:
    table = PlacementTable(placement)
    counts = dict.fromkeys(dict(placement.weights), 0.0)
    for key in keys:
        counts[table.owner(key)] += 1
    return counts


def test_a_sample_of_every_key_gives_the_exact_load_of_every_arc() -> None:
    placement = even(3, 20)
    keys = real_keys()[:5000]
    arcs = estimate(measured(placement, keys), placement, placement, Measure.KEYS)
    exact = dict.fromkeys(arcs.positions, 0.0)
    points = list(arcs.positions)
    for key in keys:
        place = position(key)
        exact[next((point for point in points if point >= place), points[0])] += 1
    assert list(arcs.loads) == pytest.approx(list(exact.values()))


def test_without_a_sample_widths_are_the_estimate() -> None:
    placement = even(3, 20)
    load = Load({"shard-1": ShardLoad(keys=600), "shard-2": ShardLoad(keys=300), "shard-3": ShardLoad()})
    arcs = estimate(load, placement, placement, Measure.KEYS)
    assert arcs.owned(placement) == pytest.approx({"shard-1": 600, "shard-2": 300, "shard-3": 0})
    shares = table_of(placement).shares
    widths = by_width(placement, 1.0).loads
    for owner, load_of_arc, width in zip(table_of(placement).ring.point_owners, arcs.loads, widths, strict=True):
        assert load_of_arc == pytest.approx(load.shards[owner].keys * width / shares[owner])


@pytest.mark.parametrize("measure", [Measure.KEYS, Measure.BYTES, Measure.OPS])
def test_estimates_add_up_to_what_was_measured(measure: Measure) -> None:
    placement = even(5)
    random = Random(4)
    load = Load(
        {f"shard-{n}": ShardLoad(keys=1000 * n, bytes=1e6 * n, ops=50 * n) for n in range(1, 6)},
        [
            SampledKey(table_of(placement).ring.at(place), place, bytes=random.paretovariate(1.2), ops=random.random())
            for place in (random.randrange(POSITIONS) for _ in range(2000))
        ],
    )
    arcs = estimate(load, placement, placement, measure)
    assert arcs.owned(placement) == pytest.approx({s: total.by(measure) for s, total in load.shards.items()})
    assert all(part >= 0 for part in arcs.loads)


@pytest.mark.parametrize("strategy", Strategy)
def test_the_real_keys_converge_on_a_sample_of_a_tenth(strategy: Strategy) -> None:
    """Estimates are off a little; a second look at the real counts mends that, and then it is quiet."""
    keys = real_keys()
    placement = even(10)
    rounds = 0
    while True:
        arcs = estimate(measured(placement, keys, 10), placement, placement, Measure.KEYS)
        made = plan(arcs, placement, strategy, threshold=0.1)
        if made is None:
            break
        placement = made.placement
        rounds += 1
        assert made.moved <= made.least * 1.05
        assert rounds <= 4
    assert rounds >= 1
    assert spread(counted(placement, keys), dict(placement.weights)).worst <= band_of(strategy, 0.1)


def test_hash_tags_are_found_by_the_sample() -> None:
    """Half of all keys share eight tags: widths alone would be far off."""
    random = Random(8)
    keys = [b"user:%d" % n for n in range(10_000)]
    keys += [b"{tag-%d}:%d" % (random.randrange(8), n) for n in range(10_000)]
    placement = even(4)
    made = plan(
        estimate(measured(placement, keys, 20), placement, placement, Measure.KEYS), placement, Strategy.UNIFORM
    )
    assert made is not None
    before = spread(counted(placement, keys), dict(placement.weights))
    after = spread(counted(made.placement, keys), dict(placement.weights))
    assert after.worst < 0.5 * before.worst


# Rules


def test_load_that_rules_place_is_attributed_and_left_where_it_is() -> None:
    keys = [b"user:%d" % n for n in range(6000)] + [b"doc:%d" % n for n in range(6000)]
    ring = even(4)
    placement = moved(ring, "shard-1", "shard-4", "user:*")
    load = measured(placement, keys)
    arcs = estimate(load, placement, placement, Measure.KEYS)
    table = PlacementTable(placement)
    by_rule = sum(table.rule(key) is not None for key in keys)
    assert arcs.ruled == {"shard-4": pytest.approx(by_rule)}
    assert arcs.forwards["shard-1"]["shard-4"] == pytest.approx(0.5, abs=0.05)
    assert arcs.owned(placement) == pytest.approx(counted(placement, keys))
    made = plan(arcs, placement, Strategy.UNIFORM)
    assert made is not None
    assert made.placement.rules == placement.rules
    assert "shard-1" not in {source for source, _ in made.flows}, "its keys would leave the rule's target"
    after = counted(made.placement, keys)
    assert spread(after, dict(ring.weights)).worst < 0.06
    following = PlacementTable(made.placement)
    assert all(following.owner(key) == "shard-4" for key in keys if table.rule(key) is not None)


def test_a_shard_that_a_rule_has_emptied_is_not_filled_again() -> None:
    keys = real_keys()[:8000]
    placement = moved(even(4), "shard-2", "shard-3", "*")
    arcs = estimate(measured(placement, keys), placement, placement, Measure.KEYS)
    made = plan(arcs, placement, Strategy.UNIFORM)
    assert made is not None
    assert not any("shard-2" in pair for pair in made.flows)
    after = counted(made.placement, keys)
    assert after["shard-2"] == 0
    assert after["shard-3"] < counted(placement, keys)["shard-3"]


def test_leftovers_of_moves_count_nowhere() -> None:
    placement = even(2)
    place = points_of("shard-1", 1.0, 150)[0]
    load = Load(
        {"shard-1": ShardLoad(keys=100), "shard-2": ShardLoad(keys=200)},
        [SampledKey("shard-1", place), SampledKey("shard-2", place), SampledKey("shard-2", place + 1)],
    )
    owner = table_of(placement).ring.at(place + 1)
    arcs = estimate(load, placement, placement, Measure.KEYS)
    expected = {"shard-1": 100.0, "shard-2": 100.0} if owner == "shard-2" else {"shard-1": 100.0, "shard-2": 0.0}
    assert arcs.owned(placement) == pytest.approx(expected)


def test_a_rule_that_goes_with_its_shard_gives_its_load_back_to_the_ring() -> None:
    keys = real_keys()[:6000]
    placement = replace(even(3), rules=(Rule("shard-1", "shard-3", ("package:a*",)),))
    following = without_shard(placement, "shard-3")
    arcs = estimate(measured(placement, keys), placement, following, Measure.KEYS)
    assert arcs.ruled == {}
    assert arcs.owned(following) == pytest.approx(counted(following, keys), rel=0.01)
