"""When the cluster is evened out, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helios.control.rebalance import RebalancePolicy, Rebalancing, decide, outcome, propose
from helios.errors import Unavailable
from helios.model.balancing import Measure, QuietHours, Strategy
from helios.model.ids import Address
from helios.model.topology import Member, Node, NodeState, Pair, Placement, Shard, Topology, Transition
from helios.placement.change import moved, with_weights
from helios.placement.load import Load, ShardLoad

NOON = 12 * 60
DEFAULT = RebalancePolicy()
UNIFORM = RebalancePolicy(strategy=Strategy.UNIFORM)


def cluster(*ids: str, on_ring: tuple[str, ...] = ()) -> Topology:
    nodes = tuple(Node(shard, Address("localhost", 6379 + n)) for n, shard in enumerate(ids))
    placement = with_weights(Placement(), dict.fromkeys(on_ring or ids, 1.0))
    return Topology(7, nodes=nodes, placement=placement)


def load_of(**keys: float) -> Load:
    shards = {name.replace("_", "-"): ShardLoad(n, n * 100, n / 10) for name, n in keys.items()}
    return Load(shards, measured_at_s=1000.0)


def looked(
    topology: Topology,
    load: Load,
    policy: RebalancePolicy = DEFAULT,
    *,
    now_s: float = 1010.0,
    minute: int = NOON,
    rested: dict[str, float] | None = None,
) -> Rebalancing | None:
    return decide(topology, load, policy, now_s=now_s, minute_of_day=minute, rested=rested or {})


THREE = cluster("shard-1", "shard-2", "shard-3")
SKEWED = load_of(shard_1=2000, shard_2=600, shard_3=400)


def test_an_overloaded_shard_gives_and_the_reason_says_so() -> None:
    found = looked(THREE, SKEWED)
    assert found is not None
    assert found.reason.startswith("shard-1 carries 100.0% more keys than its share, where 30% is allowed: moving ")
    assert "the least possible is" in found.reason
    assert {source for source, _ in found.plan.flows} == {"shard-1"}
    assert found.plan.within
    assert found.placement.weights == THREE.placement.weights


@pytest.mark.parametrize(("by", "word"), [(Measure.BYTES, "bytes"), (Measure.OPS, "operations")])
def test_other_measures_have_their_own_word(by: Measure, word: str) -> None:
    found = looked(THREE, SKEWED, RebalancePolicy(by=by))
    assert found is not None
    assert f"more {word} than" in found.reason
    assert f"of all {word}" in found.reason


def test_inside_the_threshold_nothing_happens_unasked_but_uniform_does_what_it_is_asked() -> None:
    mild = load_of(shard_1=1200, shard_2=900, shard_3=900)
    assert looked(THREE, mild) is None
    assert looked(THREE, mild, UNIFORM) is None
    assert propose(THREE, mild, RebalancePolicy()) is None
    asked = propose(THREE, mild, UNIFORM)
    assert asked is not None
    assert asked.plan.within


def test_beyond_the_threshold_uniform_goes_all_the_way() -> None:
    found = looked(THREE, SKEWED, UNIFORM)
    assert found is not None
    assert found.plan.after.worst <= 0.02


@pytest.mark.parametrize("strategy", Strategy)
def test_a_balanced_or_empty_cluster_is_left_alone(strategy: Strategy) -> None:
    policy = RebalancePolicy(strategy=strategy)
    for load in (load_of(shard_1=1000, shard_2=1000, shard_3=1000), load_of(shard_1=0, shard_2=0, shard_3=0)):
        assert looked(THREE, load, policy) is None
        assert propose(THREE, load, policy) is None


def test_it_waits_for_a_fresh_and_whole_snapshot() -> None:
    assert looked(THREE, SKEWED, now_s=1100.0) is None
    assert looked(THREE, load_of(shard_1=2000, shard_2=600)) is None


def test_the_others_are_evened_out_while_one_is_silent() -> None:
    four = cluster("shard-1", "shard-2", "shard-3", "shard-4")
    load = replace(load_of(shard_1=2000, shard_2=600, shard_3=400, shard_4=1000), silent={"shard-4": "no answer"})
    asked = propose(four, load, UNIFORM)
    for found in (looked(four, load), asked):
        assert found is not None
        assert not {"shard-4"} & {shard for pair in found.plan.flows for shard in pair}
        assert found.reason.endswith("; left as it is: shard-4 does not answer (no answer)")
    assert asked is not None
    assert [asked.plan.after.loads[f"shard-{n}"] for n in (1, 2, 3)] == pytest.approx([1000] * 3, rel=0.02)
    # What it carries is a guess once it is gone, and must not look like what is wrong with the others.
    unknown = propose(four, replace(load, shards={**load.shards, "shard-4": ShardLoad()}), UNIFORM)
    assert unknown is not None
    assert unknown.reason.startswith("shard-1 carries ")


def test_with_one_silent_a_plan_of_the_others_is_the_last_one() -> None:
    load = replace(load_of(shard_1=1000, shard_2=1000, shard_3=100), silent={"shard-3": "no answer"})
    assert looked(THREE, load) is None
    assert propose(THREE, load, UNIFORM) is None
    said = outcome(None, load, THREE, DEFAULT)
    assert said == "balanced, nothing to move; left as it is: shard-3 does not answer (no answer)"


def test_leaders_that_go_home_are_named() -> None:
    home = Member("shard-1.0", "shard-1", Address("host", 1))
    away = Member("shard-1@shard-2", "shard-2", Address("host", 2))
    shards = (Shard("shard-1", away.id, (home, away)),)
    load = load_of(shard_1=1000, shard_2=1000, shard_3=1000)
    said = outcome(None, load, replace(THREE, shards=shards), DEFAULT)
    assert said == "balanced, nothing to move; 1 leader goes home as soon as all is in sync there: shard-1"
    assert outcome(None, load, THREE, DEFAULT) == "balanced, nothing to move"


def test_what_cannot_be_evened_out_is_not_called_balanced() -> None:
    ruled = replace(THREE, placement=moved(THREE.placement, "shard-1", "shard-2", "cart:*"))
    assert propose(ruled, SKEWED, DEFAULT) is None, "a node that rules take keys from gives no points"
    said = outcome(None, SKEWED, ruled, DEFAULT)
    assert said == "nothing worth moving, though shard-1 carries 100.0% more keys than its share"
    mild = load_of(shard_1=1200, shard_2=900, shard_3=900)
    assert outcome(None, mild, THREE, DEFAULT) == "balanced, nothing to move"
    assert outcome(None, mild, THREE, UNIFORM).startswith("nothing worth moving, though shard-1 carries 20.0% more")


def test_shares_are_not_changed_while_one_is_silent() -> None:
    grown = cluster("shard-1", "shard-2", "shard-3", on_ring=("shard-1", "shard-2"))
    load = replace(load_of(shard_1=1000, shard_2=1000), silent={"shard-2": "no answer"})
    for ask in (looked, propose):
        with pytest.raises(Unavailable, match="shard-3 joins, which needs every node, and shard-2 does not answer"):
            ask(grown, load, DEFAULT)
    # One that owns nothing and is to own nothing concerns nobody.
    drained = replace(THREE, nodes=(*THREE.nodes[:2], replace(THREE.nodes[2], state=NodeState.DRAINED)))
    drained = replace(drained, placement=with_weights(Placement(), {"shard-1": 1.0, "shard-2": 1.0}))
    found = propose(drained, replace(load_of(shard_1=2000, shard_2=600), silent={"shard-3": "no answer"}), UNIFORM)
    assert found is not None
    assert "shard-3" not in found.reason


def test_nothing_is_given_to_a_shard_whose_rules_lead_to_a_silent_one() -> None:
    ruled = replace(THREE, placement=moved(THREE.placement, "shard-3", "shard-2", "cart:*"))
    load = replace(load_of(shard_1=2000, shard_2=600, shard_3=400), silent={"shard-2": "no answer"})
    assert propose(ruled, load, UNIFORM) is None
    assert propose(ruled, replace(load, silent={}), UNIFORM) is not None


def test_it_waits_until_the_quiet_hours_are_over() -> None:
    night = replace(RebalancePolicy(), quiet=(QuietHours(22 * 60, 6 * 60),))
    assert looked(THREE, SKEWED, night, minute=23 * 60) is None
    assert looked(THREE, SKEWED, night, minute=5 * 60 + 59) is None
    assert looked(THREE, SKEWED, night, minute=6 * 60) is not None
    assert propose(THREE, SKEWED, night) is not None, "people are not told to wait"
    assert all(QuietHours(0, 0).covers(minute) for minute in (0, NOON, 1439))
    assert not QuietHours(60, 120).covers(59)
    assert not QuietHours(60, 120).covers(120)


def test_a_shard_that_has_just_moved_rests() -> None:
    assert looked(THREE, SKEWED, rested={"shard-1": 5.0}) is None
    assert looked(THREE, SKEWED, rested={"shard-1": 601.0}) is not None
    found = looked(THREE, SKEWED, rested={"shard-3": 5.0})
    assert found is not None
    assert set(found.plan.flows) == {("shard-1", "shard-2")}


def test_a_node_that_is_not_on_the_ring_joins_it() -> None:
    grown = cluster("shard-1", "shard-2", "shard-3", on_ring=("shard-1", "shard-2"))
    found = looked(grown, load_of(shard_1=1000, shard_2=1000))
    assert found is not None
    assert found.reason.startswith("shard-3 joins: moving ")
    assert dict(found.placement.weights).keys() == {"shard-1", "shard-2", "shard-3"}
    empty = looked(grown, load_of(shard_1=0, shard_2=0))
    assert empty is not None
    assert empty.reason == "shard-3 joins: nothing has to move"


def test_a_draining_node_leaves_and_a_new_weight_counts() -> None:
    nodes = (
        replace(THREE.nodes[0], weight=2.0),
        THREE.nodes[1],
        replace(THREE.nodes[2], state=NodeState.DRAINING),
    )
    found = looked(replace(THREE, nodes=nodes), load_of(shard_1=1000, shard_2=1000, shard_3=1000), UNIFORM)
    assert found is not None
    assert found.reason.startswith("shard-3 leaves, shard-1 has another weight: ")
    assert found.plan.after.loads["shard-1"] == pytest.approx(2000, rel=0.02)
    assert dict(found.placement.weights) == {"shard-1": 2.0, "shard-2": 1.0}


def test_what_is_on_its_way_counts() -> None:
    first = looked(THREE, SKEWED, UNIFORM)
    assert first is not None
    pairs = tuple(Pair(source, target, f"m-{target}") for source, target in first.plan.flows)
    moving = replace(THREE, transition=Transition("c-1", first.placement, pairs))
    assert looked(moving, SKEWED, UNIFORM) is None
    assert propose(moving, SKEWED, UNIFORM) is None, "by the time that it has arrived, all is even"
    elsewhere = cluster("shard-1", "shard-2", "shard-3", "shard-4", "shard-5")
    under_way = Transition("c-2", elsewhere.placement, (Pair("shard-1", "shard-2", "m-1"),))
    load = load_of(shard_1=1000, shard_2=1000, shard_3=2500, shard_4=100, shard_5=400)
    behind = propose(replace(elsewhere, transition=under_way), load, UNIFORM)
    assert behind is not None
    assert not {"shard-1", "shard-2"} & {shard for pair in behind.plan.flows for shard in pair}


def test_where_chance_alone_makes_loads_uneven_nothing_is_done_unasked() -> None:
    few = load_of(shard_1=60, shard_2=20, shard_3=10)
    assert looked(THREE, few) is None
    assert propose(THREE, few, DEFAULT) is not None, "who asks for it gets it"
    grown = cluster("shard-1", "shard-2", on_ring=("shard-1",))
    assert looked(grown, load_of(shard_1=10)) is not None, "a node without a share gets one"


def test_disabled_sharding_and_no_ring_mean_no_balancing() -> None:
    for topology in (replace(THREE, sharding_enabled=False), Topology(1)):
        assert looked(topology, SKEWED) is None
        assert propose(topology, SKEWED, UNIFORM) is None
