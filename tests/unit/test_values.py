"""Ring and Placement as plain values."""

from __future__ import annotations

import pytest

import helios
from helios.model.topology import Rule
from helios.values import Move, Nodes, Placement, Ring

THREE = ["shard-1", "shard-2", "shard-3"]
KEYS = [f"user:{number}" for number in range(3000)]


def test_a_ring_is_its_nodes_and_nothing_else() -> None:
    ring = Ring(THREE)
    assert ring == Ring(reversed(THREE)) == Ring(dict.fromkeys(THREE, 1.0))
    assert hash(ring) == hash(Ring(THREE))
    assert ring != Ring(THREE, points=100)
    assert ring.nodes == dict.fromkeys(THREE, 1.0)
    assert (len(ring), ring.points) == (450, 150)
    assert ring.with_node("shard-4").without_node("shard-4") == ring
    assert repr(Ring(["a"], points=2)) == "Ring({'a': 1.0}, points=2)"
    assert ring != "a ring"


def test_text_and_bytes_are_the_same_key() -> None:
    ring = Ring(THREE)
    assert ring.owner("straße") == ring.owner("straße".encode())
    assert ring.owner("a{tag}b") == ring.owner(b"tag")
    owners = ring.owners("user:1", 5)
    assert sorted(owners) == THREE
    assert owners[0] == ring.owner("user:1")


def test_what_a_new_node_takes_is_told_before_it_is_there() -> None:
    before = Ring(THREE)
    after = before.with_node("shard-4")
    moves = before.moves(after, KEYS)
    assert {move.target for move in moves} == {"shard-4"}
    assert sum(move.keys or 0 for move in moves) == after.counts(KEYS)["shard-4"]
    assert sum(move.share for move in moves) == pytest.approx(after.shares()["shard-4"])
    assert [(move.source, move.keys) for move in before.moves(after)] == [(shard, None) for shard in THREE]
    assert before.moves(before) == []


def test_weights_scale_shares() -> None:
    ring = Ring({"light": 1.0, "heavy": 3.0}, points=1000)
    assert ring.shares()["heavy"] == pytest.approx(0.75, abs=0.05)
    assert ring.with_node("light", 3.0).shares()["light"] == pytest.approx(0.5, abs=0.05)


def test_a_move_by_pattern_leaves_a_rule_and_its_undo_takes_it_away() -> None:
    ring = Ring(THREE)
    plain = Placement(ring)
    moved = plain.moved("shard-1", "shard-2", "user:1*")
    assert moved.rules == (Rule("shard-1", "shard-2", ("user:1*",)),)
    assert moved.ring == ring
    assert moved.nodes == ring.nodes
    key = next(key for key in KEYS if key.startswith("user:1") and ring.owner(key) == "shard-1")
    assert (plain.owner(key), moved.owner(key)) == ("shard-1", "shard-2")
    assert (plain.rule(key), moved.rule(key)) == (None, moved.rules[0])
    expected = sum(ring.owner(key) == "shard-1" and key.startswith("user:1") for key in KEYS)
    assert plain.moves(moved, KEYS) == [Move("shard-1", "shard-2", 0.0, expected)]
    assert moved.moved("shard-2", "shard-1", "user:1*") == plain
    assert sum(moved.counts(KEYS).values()) == len(KEYS)
    assert moved.without_node("shard-2").rules == ()
    assert moved.with_node("shard-4").rules == moved.rules
    assert repr(moved).startswith("Placement(Ring(")


def test_a_rule_may_lead_off_the_ring() -> None:
    placement = Placement(["shard-1"], [Rule("shard-1", "shard-9", ("*",))])
    assert placement.owner("x") == "shard-9"
    assert placement.counts(["x", "y"]) == {"shard-1": 0, "shard-9": 2}


def test_an_empty_ring_owns_nothing() -> None:
    empty = Ring([])
    assert empty.shares() == {}
    assert len(empty) == 0
    assert empty.moves(Ring(THREE)) == []
    for ask in (empty.owner, Placement(empty).owner, Placement(empty).rule):
        with pytest.raises(helios.NotFound, match="no nodes"):
            ask("key")


@pytest.mark.parametrize(
    ("nodes", "points", "said"),
    [
        ("shard-1", 150, "is one id"),
        (["a#1"], 150, "cannot be the id"),
        ({"a": 0.0}, 150, "no point"),
        ({"a": "127.0.0.1:6379"}, 150, "a list of ids"),
        ({"a": float("inf")}, 150, "finite"),
        (["a"], 0, "use 1 to"),
    ],
)
def test_what_a_cluster_would_not_take_is_refused(nodes: Nodes, points: int, said: str) -> None:
    with pytest.raises(helios.InvalidInput, match=said):
        Ring(nodes, points=points)


def test_changes_of_what_is_not_there_are_refused() -> None:
    placement = Placement(THREE)
    with pytest.raises(helios.NotFound):
        placement.without_node("shard-9")
    with pytest.raises(helios.NotFound, match="shard-9"):
        placement.moved("shard-1", "shard-9")
    with pytest.raises(helios.InvalidInput):
        placement.moved("shard-1", "shard-1")
    with pytest.raises(helios.InvalidInput):
        placement.moved("shard-1", "shard-2", "")
