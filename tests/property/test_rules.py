"""Placement rules against a plain dictionary of where each key is."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st
from tests.obvious import deciding_rule, obvious_match, obvious_owner

from helios.model.topology import ANY, Placement, Rule
from helios.placement.change import moved, with_weights, without_shard
from helios.placement.rules import shortened
from helios.placement.table import PlacementTable, table_of

SHARDS = ("a", "b", "c", "d")
PATTERNS = ("*", "user:*", "user:1*", "*:1*", "*2", "order:?")
# Several keys of each shard for each set of patterns that can match together.
KEYS = tuple(f"{kind}:{n}".encode() for kind in ("user", "order", "x") for n in range(1, 24))
VIRTUAL_NODES = 8

Where = dict[bytes, str]


def founded(*shards: str) -> Placement:
    return Placement(VIRTUAL_NODES, tuple((shard, 1.0) for shard in sorted(shards)))


def where(placement: Placement) -> Where:
    table = PlacementTable(placement)
    return {key: table.owner(key) for key in KEYS}


def home(placement: Placement, key: bytes) -> str:
    return table_of(placement).ring.owner(key)


def fits(pattern: str, key: bytes) -> bool:
    return obvious_match(pattern.encode(), key)


ON_RING = st.sets(st.sampled_from(SHARDS), min_size=1).map(lambda shards: founded(*shards))
MOVES = st.tuples(st.sampled_from(SHARDS), st.sampled_from(SHARDS), st.sampled_from(PATTERNS)).filter(
    lambda move: move[0] != move[1]
)
MOVES_OF_ALL = st.one_of(
    st.tuples(st.just(ANY), st.sampled_from(SHARDS), st.sampled_from(PATTERNS)),
    st.tuples(st.sampled_from(SHARDS), st.just(ANY), st.sampled_from(PATTERNS)),
)
RULES = st.builds(
    Rule,
    st.sampled_from((*SHARDS, ANY)),
    st.sampled_from((*SHARDS, ANY)),
    st.sets(st.sampled_from(PATTERNS), min_size=1, max_size=2).map(lambda patterns: tuple(sorted(patterns))),
)
PLACEMENTS = st.builds(lambda ring, rules: replace(ring, rules=tuple(rules)), ON_RING, st.lists(RULES, max_size=6))
LEAVE = st.sampled_from(SHARDS)
WEIGHTS = st.dictionaries(st.sampled_from(SHARDS), st.sampled_from([0.5, 1.0, 2.0]), min_size=1)
STEPS = st.lists(st.one_of(MOVES, MOVES, MOVES, MOVES_OF_ALL, LEAVE, WEIGHTS), max_size=8)


@given(PLACEMENTS, st.sampled_from(KEYS))
def test_the_first_rule_of_the_ring_s_shard_decides(placement: Placement, key: bytes) -> None:
    table = PlacementTable(placement)
    assert table.owner(key) == obvious_owner(placement, key)
    assert table.rule(key) == deciding_rule(placement, key)


SHORT = st.lists(st.sampled_from(("a", "b", "*", "?", "\\*")), min_size=1, max_size=5).map("".join)


@given(st.lists(st.tuples(st.sampled_from((*SHARDS, ANY)), SHORT), max_size=30))
def test_the_index_finds_the_first_of_many_rules(rules: list[tuple[str, str]]) -> None:
    """Beginnings that begin with each other, one rule's keys all of another's, and patterns that are no beginning."""
    sources = ("a", "b", ANY)
    tried = tuple(Rule(sources[n % 3], target, (pattern,)) for n, (target, pattern) in enumerate(rules))
    placement = replace(founded("a", "b"), rules=tried)
    table = PlacementTable(placement)
    for size in range(5):
        for letters in product(b"ab*", repeat=size):
            key = bytes(letters)
            assert table.rule(key) == deciding_rule(placement, key)
            assert table.owner(key) == obvious_owner(placement, key)


def after_move(placement: Placement, before: Where, source: str, target: str, pattern: str) -> Where:
    """Every key that is on the source and matches is on the target; an undo leaves the source's own ones."""
    if source == ANY:
        return {key: target if fits(pattern, key) else shard for key, shard in before.items()}
    if target == ANY:
        return {
            key: home(placement, key) if shard == source and fits(pattern, key) else shard
            for key, shard in before.items()
        }
    undo = Rule(target, source, (pattern,)) in placement.rules
    return {
        key: target
        if shard == source and fits(pattern, key) and not (undo and home(placement, key) == source)
        else shard
        for key, shard in before.items()
    }


def after_leaving(placement: Placement, before: Where, leaver: str) -> Where:
    """Only keys that were on the leaver, or there by ring, have moved."""
    remaining = without_shard(placement, leaver)
    if not remaining.weights:
        return {}
    owners = where(remaining)
    ring_before, ring_after = PlacementTable(placement).ring, PlacementTable(remaining).ring
    for key, shard in before.items():
        assert owners[key] != leaver
        if shard != leaver and ring_before.owner(key) != leaver:
            assert owners[key] == shard
            assert ring_after.owner(key) == ring_before.owner(key)
    return owners


def after_weighing(placement: Placement, before: Where, weights: dict[str, float]) -> Where:
    """Keys that the ring leaves where they were stay; the others follow the rules of the shard that they come to."""
    weighed = with_weights(placement, weights)
    assert dict(weighed.weights) == weights
    owners = where(weighed)
    ring_before, ring_after = PlacementTable(placement).ring, PlacementTable(weighed).ring
    literal = replace(placement, weights=weighed.weights)
    for key, shard in before.items():
        if ring_before.owner(key) == ring_after.owner(key):
            assert owners[key] == shard
        assert owners[key] == obvious_owner(literal, key)
    return owners


@given(ON_RING, STEPS)
@example(founded("a", "b", "c"), [("a", "b", "user:*"), ("a", "c", "*"), ("b", "a", "user:*")])
@example(founded("a", "b", "c"), [("c", "a", "user:*"), ("a", "b", "*"), ("b", "a", "*")])
@example(founded("a", "b", "c"), [("a", "b", "*"), ("b", "c", "*"), ("c", "a", "*"), ("a", "b", "user:*")])
@example(founded("a"), [(ANY, "a", "*"), ("a", ANY, "user:*"), ("a", "b", "*")])
def test_each_change_does_to_a_dictionary_what_it_says(
    placement: Placement, steps: list[tuple[str, str, str] | str | dict[str, float]]
) -> None:
    expected = where(placement)
    for step in steps:
        if isinstance(step, tuple):
            expected = after_move(placement, expected, *step)
            placement = moved(placement, *step)
        elif isinstance(step, str):
            expected = after_leaving(placement, expected, step)
            placement = without_shard(placement, step)
            assert all(step not in (rule.source, rule.target) for rule in placement.rules)
            if not expected:
                return
        else:
            expected = after_weighing(placement, expected, step)
            placement = with_weights(placement, step)
        assert where(placement) == expected
        assert {rule.source for rule in placement.rules} <= {ANY, *(shard for shard, _ in placement.weights)}


@given(PLACEMENTS)
def test_a_shortened_list_places_every_key_as_the_long_one(placement: Placement) -> None:
    short = shortened(placement.rules)
    assert where(replace(placement, rules=short)) == where(placement)
    assert shortened(short) == short
    assert len(short) <= len(placement.rules)
    assert sum(len(rule.patterns) for rule in short) <= sum(len(rule.patterns) for rule in placement.rules)


LITERALS = tuple(f"t{n}:*" for n in range(8))


@given(st.lists(st.tuples(st.permutations(SHARDS[:3]), st.sampled_from(LITERALS)), max_size=60))
def test_patterns_that_share_no_key_leave_one_rule_a_shard_and_pattern_at_most(
    moves: list[tuple[list[str], str]],
) -> None:
    placement = founded("a", "b", "c")
    for (source, target, _), pattern in moves:
        placement = moved(placement, source, target, pattern)
    named = [(rule.source, rule.patterns) for rule in placement.rules]
    assert len(set(named)) == len(named)
    assert all(len(rule.patterns) == 1 and rule.source != rule.target for rule in placement.rules)


def test_a_ring_of_moves_leaves_no_more_rules_than_moves() -> None:
    placement = founded("a", "b", "c")
    for _ in range(5):
        for source, target in (("a", "b"), ("b", "c"), ("c", "a")):
            for n in (1, 2):
                placement = moved(placement, source, target, f"{source}{n}:*")
        assert len(placement.rules) == 6


def test_a_pattern_that_was_collected_stays_together_when_shards_join() -> None:
    placement = moved(founded("a", "b", "c"), ANY, "b", "user:*")
    grown = with_weights(placement, dict.fromkeys(SHARDS, 1.0))
    assert placement.rules == grown.rules == (Rule(ANY, "b", ("user:*",)),)
    assert {where(grown)[key] for key in KEYS if key.startswith(b"user:")} == {"b"}
    assert moved(grown, "b", ANY, "user:*").rules == ()


def test_a_wider_move_takes_the_rules_of_narrower_ones_along() -> None:
    placement = founded("a", "b")
    for n in range(9):
        placement = moved(placement, "a", "b", f"user:{n}*")
    assert moved(placement, "a", "b", "user:*").rules == (Rule("a", "b", ("user:*",)),)


def test_no_conjunction_is_left_where_another_order_says_the_same() -> None:
    placement = moved(founded("a", "b", "c"), "a", "b", "user:*")
    placement = moved(moved(placement, "b", "c", "*:eu"), "a", "c", "*:eu")
    assert [rule for rule in placement.rules if rule.source == "a"] == [
        Rule("a", "c", ("*:eu",)),
        Rule("a", "b", ("user:*",)),
    ]


@given(ON_RING, MOVES)
def test_a_move_and_its_undo_leave_nothing_behind(placement: Placement, move: tuple[str, str, str]) -> None:
    source, target, pattern = move
    gone = moved(placement, source, target, pattern)
    back = moved(gone, target, source, pattern)
    if source in dict(placement.weights):
        assert back == placement
    else:  # There was nothing to undo, so this is a move of the target's own keys.
        assert gone == placement


@given(ON_RING, st.lists(MOVES, max_size=4), MOVES)
@example(founded("a", "b", "c"), [("c", "a", "user:*")], ("a", "b", "*"))
@example(founded("a", "b", "c"), [("a", "c", "user:1*")], ("a", "b", "user:*"))
def test_an_undo_brings_back_every_key_of_the_move(
    placement: Placement, earlier: list[tuple[str, str, str]], move: tuple[str, str, str]
) -> None:
    for step in earlier:
        placement = moved(placement, *step)
    source, target, pattern = move
    before = where(placement)
    gone = moved(placement, source, target, pattern)
    owners = where(moved(gone, target, source, pattern))
    for key, shard in before.items():
        if shard == source and home(placement, key) != target:
            assert owners[key] == source
        elif shard != target:
            assert owners[key] == shard or (shard == source and owners[key] == target)


@given(ON_RING, st.lists(MOVES, max_size=12))
def test_moving_to_and_fro_does_not_pile_up_rules(placement: Placement, moves: list[tuple[str, str, str]]) -> None:
    for move in moves:
        placement = moved(placement, *move)
    for rule in placement.rules:
        assert len(set(rule.patterns)) == len(rule.patterns)
    keys = [(rule.source, rule.patterns) for rule in placement.rules]
    assert len(keys) == len(set(keys))
