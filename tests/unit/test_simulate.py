"""`helios simulate`: figures against counting key by key, scenarios that replay, and what it refuses."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.real_keys import KEYS_FILE, real_keys
from typer.testing import CliRunner

from helios.cli.keyspace import Distribution, drawn, read
from helios.cli.main import app
from helios.cli.records import HEADER
from helios.cli.simulation import Step, edges_of_all, ring_bytes
from helios.errors import InvalidInput
from helios.model.topology import Placement
from helios.placement.change import with_weights
from helios.placement.ring import Ring
from helios.placement.table import PlacementTable

RUNNER = CliRunner()
EVEN_OUT = "rebalance:uniform"
STEPS = ("add:shard-11", EVEN_OUT, "reweight:shard-3=2", EVEN_OUT, "remove:shard-1", EVEN_OUT, EVEN_OUT)
SCENARIO = [argument for step in STEPS for argument in ("--step", step)]


def simulate(*args: str) -> dict[str, Any]:
    result = RUNNER.invoke(app, ["simulate", "--json", *args])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def refused(*args: str) -> str:
    result = RUNNER.invoke(app, ["simulate", *args])
    assert result.exit_code == 2
    return result.output


def without_times(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in step.items() if name != "planning_s"} for step in found["steps"]]


def nodes_of(step: dict[str, Any], field: str) -> dict[str, Any]:
    return {node["id"]: node[field] for node in step["nodes"]}


def test_the_real_keys_are_counted_as_routers_would_place_them() -> None:
    found = simulate("--nodes", "5", "--file", str(KEYS_FILE), "--step", "add:shard-6", "--step", "remove:shard-2")
    placements = [
        with_weights(Placement(), {f"shard-{n}": 1.0 for n in numbers})
        for numbers in ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6), (1, 3, 4, 5, 6))
    ]
    owners = []
    for step, placement in zip(found["steps"], placements, strict=True):
        owner = PlacementTable(placement).owner
        owners.append([owner(key) for key in real_keys()])
        assert nodes_of(step, "keys") == Counter(owners[-1])
    for index in (1, 2):
        moved = sum(a != b for a, b in zip(owners[index - 1], owners[index], strict=True))
        assert found["steps"][index]["moved_keys"] == moved


@pytest.mark.parametrize(
    "keys",
    [
        ("--keys", "200000"),
        ("--file", str(KEYS_FILE)),
        ("--keys", "100000", "--distribution", "sized", "--by", "bytes"),
        ("--keys", "100000", "--distribution", "zipf", "--exponent", "0.5", "--by", "ops", "--seed", "7"),
    ],
)
def test_scenarios_converge_with_little_movement_and_then_rest(keys: tuple[str, ...]) -> None:
    found = simulate("--nodes", "10", *keys, *SCENARIO)
    steps = found["steps"]
    assert len(steps) == 8
    for step in steps:
        if step["step"] == "rebalance:uniform" and not step["out_of_reach"]:
            assert max(step["max_deviation"], -step["min_deviation"]) <= 0.02 + 1e-9
            assert step["min_share"] * (1 - 1e-9) <= step["moved_share"] <= step["min_share"] * 1.05
    joined, weighted, last = steps[1], steps[4], steps[-1]
    assert joined["moved_share"] == pytest.approx(1 / 11, rel=0.3)
    assert nodes_of(weighted, "share")["shard-3"] == pytest.approx(2 / 12, rel=0.02)
    assert last["moved_keys"] == 0
    assert without_times(simulate("--nodes", "10", *keys, *SCENARIO)) == without_times(found)


def test_seeds_replay_and_differ() -> None:
    one, same, other = (simulate("--keys", "50000", "--seed", seed) for seed in ("3", "3", "4"))
    assert without_times(one) == without_times(same)
    assert nodes_of(one["steps"][0], "keys") != nodes_of(other["steps"][0], "keys")


def test_minimize_movement_stops_at_the_threshold() -> None:
    arguments = ("--nodes", "30", "--keys", "100000", "--threshold", "0.1", "--step", "rebalance", "--step")
    before, first, second = simulate(*arguments, "rebalance")["steps"]
    assert before["max_deviation"] > 0.1
    assert 0.09 < max(first["max_deviation"], -first["min_deviation"]) <= 0.1
    assert 0 < first["moved_share"] <= first["min_share"] * 1.05
    assert second["moved_keys"] == 0
    all_even = simulate(*arguments, "rebalance:uniform")["steps"][2]
    assert max(all_even["max_deviation"], -all_even["min_deviation"]) <= 0.02


def test_many_nodes() -> None:
    start, joined, evened = simulate(
        "--nodes", "300", "--keys", "300000", "--virtual-nodes", "40", "--step", "add:new=4", "--step", "rebalance"
    )["steps"]
    assert len(start["nodes"]) == 300
    assert joined["moved_share"] == pytest.approx(4 / 304, rel=0.5)
    assert max(evened["max_deviation"], -evened["min_deviation"]) <= 0.3
    assert evened["ring_bytes_per_node"] < 100_000


@pytest.mark.parametrize("kind", Distribution)
def test_a_drawn_keyspace_adds_up_whatever_its_chunks(kind: Distribution) -> None:
    edges = edges_of_all({"a": 1.0}, 7, [])
    keyspace = drawn(kind, 100_001, 5, 1.0, edges, chunk_keys=30_000)
    assert sum(keyspace.keys) == 100_001
    assert len(keyspace.keys) == 7
    special = keyspace.ops if kind is Distribution.ZIPF else keyspace.bytes
    assert min(special) > 0
    if kind is Distribution.ZIPF:
        assert sum(special) == pytest.approx(keyspace.count)
        # The first of a hundred thousand keys has 1/12.1 of all operations.
        assert max(special) > keyspace.count / 12.5


def test_files_of_keys_and_of_pairs(tmp_path: Path) -> None:
    keys, pairs = tmp_path / "keys.txt", tmp_path / "pairs.tsv.gz"
    keys.write_bytes(b"a\nbb\n\nccc\n")
    pairs.write_bytes(gzip.compress(b"a\t12345\nbb\t\n{a}ccc\tx\ty\n"))
    edges = edges_of_all({"a": 1.0, "b": 1.0}, 10, [])
    plain, packed = read(str(keys), edges), read(str(pairs), edges)
    assert (plain.count, sum(plain.keys), sum(plain.bytes)) == (3, 3, 6)
    assert (packed.count, sum(packed.bytes)) == (3, 6 + 2 + 9)
    assert max(packed.keys) >= 2, "keys with the same hash tag lie together"


def test_edges_hold_the_points_of_every_step() -> None:
    steps = [Step.parse("add:b=2"), Step.parse("reweight:a=3"), Step.parse("remove:b")]
    edges = edges_of_all({"a": 1.0}, 10, steps)
    assert set(edges) == set(Ring({"a": 3.0, "b": 2.0}, 10).positions)
    assert edges == sorted(edges)


def test_the_memory_of_a_ring_is_counted_whole() -> None:
    ring = Ring({"a": 1.0}, 100)
    lists = sys.getsizeof(ring.positions) + sys.getsizeof(ring.point_owners)
    assert ring_bytes(ring) == lists + sum(sys.getsizeof(point) for point in ring.positions)
    assert 50 * 100 < ring_bytes(ring) < 60 * 100


def test_what_people_see() -> None:
    result = RUNNER.invoke(
        app,
        "simulate --nodes 30 --keys 20000 --weight shard-2=2 --top 4 --by bytes --distribution sized "
        "--step add:x --step rebalance:uniform --step rebalance",
    )
    assert result.exit_code == 0
    text = result.output
    assert text.startswith("20,000 keys (sized, seed 1) on 30 nodes, 4,650 ring points; balanced by bytes\n")
    assert "… 26 more …" in text
    assert "█" in text
    assert "\nadd:x: " in text
    assert "(the fair shares themselves shift by " in text
    assert "(the least possible is " in text
    assert "\nrebalance: nothing to do" in text
    assert "KiB a node." in text
    lines = text.splitlines()
    assert lines[2].split() == ["NODE", "SHARE", "KEYS", "BYTES", "DEVIATION", "WEIGHT"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--step", "grow:x"], "not a step"),
        (["--step", "remove:x=1"], "not a step"),
        (["--step", "reweight:shard-1"], "not a step"),
        (["--step", "rebalance:best"], "not a strategy"),
        (["--step", "add:shard-1"], "is a node already"),
        (["--step", "remove:x"], "there is no node 'x'"),
        (["--step", "add:bad id"], "cannot be the id of a node"),
        (["--step", "add:x=none"], "not a weight"),
        (["--step", "add:x=0.001"], "no point on the ring"),
        (["--nodes", "1", "--step", "remove:shard-1"], "the last node"),
        (["--nodes", "0"], "--nodes is 0"),
        (["--keys", "0"], "--keys is 0"),
        (["--by", "weight"], "use keys, bytes, ops"),
        (["--distribution", "normal"], "use uniform, zipf, sized"),
        (["--threshold", "0"], "--threshold is 0"),
        (["--exponent", "-1"], "--exponent is -1"),
        (["--weight", "x=2"], "should be one of shard-1"),
        (["--strategy", "best"], "not a strategy"),
        (["--file", "/nowhere/keys"], "cannot read /nowhere/keys"),
        (["--nodes", "10000", "--virtual-nodes", "1000"], "points"),
    ],
)
def test_wrong_use_is_told_in_a_line(args: list[str], said: str) -> None:
    text = refused("--keys", "100", *args) if "--keys" not in args else refused(*args)
    assert text.startswith("helios: ")
    assert said in text
    assert text.count("\n") == 1


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n\n")
    with pytest.raises(InvalidInput, match="holds no keys"):
        read(str(tmp_path / "none.txt"), [1])


def test_dumps_are_read_as_what_they_are(tmp_path: Path) -> None:
    edges = edges_of_all({"a": 1.0, "b": 1.0}, 10, [])
    plain, tsv, jsonl = tmp_path / "plain.tsv", tmp_path / "dump.tsv", tmp_path / "dump.jsonl.gz"
    plain.write_bytes(b"a\\b\t12\ncart:1\tapples\n")
    tsv.write_bytes(HEADER + b"\na\\\\b\t12\ncart:1\tapples\n")
    lines = b'{"key":"a\\\\b","value":"12"}\n{"key":"cart:1","value":"apples","ttl":5}\n'
    jsonl.write_bytes(gzip.compress(lines))
    wanted = read(str(plain), edges)
    for dump in (tsv, jsonl):
        found = read(str(dump), edges)
        assert (found.count, found.keys, found.bytes) == (2, wanted.keys, wanted.bytes)
    jsonl.write_bytes(gzip.compress(lines + b"{}\n"))
    assert f"{jsonl}, line 3: exactly one of key" in refused("--file", str(jsonl))
