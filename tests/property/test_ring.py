"""The ring against a slow, obvious one, and what has to hold when nodes come and go."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from hashlib import md5
from math import sqrt
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.obvious import obvious_walk
from tests.real_keys import real_keys

from helios.placement import ring as ring_module
from helios.placement._points import Points as CompiledPoints
from helios.placement._points import digest
from helios.placement.ring import POSITIONS, Ring, hash_tag, points_of, position

Points = dict[str, list[int]]

IDS = st.sampled_from(["a", "b", "c", "shard-1", "shard-10", "shard-2"])
# Few positions, so that points of several shards and the places that are asked for often coincide.
PLACES = st.one_of(st.integers(0, 12), st.integers(POSITIONS - 3, POSITIONS - 1), st.integers(0, POSITIONS - 1))
POINTS = st.dictionaries(IDS, st.lists(PLACES, min_size=1, max_size=6), min_size=1)
REAL_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)


def ring_of(points: Points, reassigned: tuple[tuple[int, str], ...] = ()) -> Ring:
    """A ring with points that are given rather than hashed, added in the order of the dictionary."""
    with patch.object(ring_module, "points_of", lambda shard, weight, virtual_nodes: points[shard]):
        return Ring(dict.fromkeys(points, 1.0), 1, reassigned)


def even_ring(nodes: int, virtual_nodes: int = 150) -> Ring:
    return Ring({f"shard-{n}": 1.0 for n in range(1, nodes + 1)}, virtual_nodes)


def sigma(share: float, samples: int) -> float:
    """The standard deviation of how many of `samples` independent keys fall into a part of the ring."""
    return sqrt(samples * share * (1 - share))


@given(POINTS, PLACES)
def test_it_agrees_with_an_obvious_ring(points: Points, place: int) -> None:
    walk = obvious_walk(points, place)
    ring = ring_of(points)
    assert ring.at(place) == walk[0]
    with patch.object(ring_module, "position", return_value=place):
        for count in range(len(points) + 2):
            assert ring.owners(b"", count) == list(dict.fromkeys(walk))[:count]


@given(REAL_IDS, st.lists(st.binary(max_size=20), max_size=20), st.sets(REAL_IDS, min_size=1, max_size=5))
def test_it_agrees_with_an_obvious_ring_of_hashed_points(extra: str, keys: list[bytes], ids: set[str]) -> None:
    points = {shard: points_of(shard, 1.0, 20) for shard in {*ids, extra}}
    ring = Ring(dict.fromkeys(points, 1.0), 20)
    for key in keys:
        assert ring.owner(key) == obvious_walk(points, position(key))[0]


@given(
    POINTS, st.randoms(use_true_random=False), st.lists(st.tuples(PLACES, IDS), max_size=4, unique_by=lambda r: r[0])
)
def test_the_order_of_insertion_does_not_matter(points: Points, random: Random, moved: list[tuple[int, str]]) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)
    one, other = ring_of(points, tuple(moved)), ring_of({shard: points[shard] for shard in shuffled}, tuple(moved))
    assert one.positions == other.positions
    for point in one.positions:
        assert one.at(point) == other.at(point)
    assert one.shares() == other.shares()


def test_of_equal_points_the_lesser_id_wins() -> None:
    for points in ({"b": [7], "a": [7]}, {"a": [7], "b": [7]}):
        ring = ring_of(points)
        assert (len(ring), ring.at(7), ring.shares()) == (1, "a", {"a": 1.0, "b": 0.0})
    assert ring_of({"shard-2": [7], "shard-10": [7]}).at(7) == "shard-10"


@given(POINTS, st.lists(PLACES, min_size=1, max_size=6), st.lists(PLACES, min_size=1))
def test_a_new_node_takes_keys_only_for_itself(points: Points, new: list[int], places: list[int]) -> None:
    # Its id sorts between those of the others, so that it wins some equal points and loses others.
    before, after = ring_of(points), ring_of(points | {"m": new})
    for place in [*places, *after.positions]:
        assert after.at(place) in (before.at(place), "m")


@given(POINTS.filter(lambda points: len(points) > 1), st.data(), st.lists(PLACES, min_size=1))
def test_a_leaver_gives_away_only_its_own_keys(points: Points, data: st.DataObject, places: list[int]) -> None:
    leaver = data.draw(st.sampled_from(sorted(points)))
    before, after = ring_of(points), ring_of({s: p for s, p in points.items() if s != leaver})
    for place in [*places, *before.positions]:
        assert after.at(place) != leaver
        if before.at(place) != leaver:
            assert after.at(place) == before.at(place)


@given(POINTS, st.lists(st.tuples(PLACES, IDS), max_size=6, unique_by=lambda pair: pair[0]))
def test_a_reassigned_point_serves_another_shard(points: Points, moved: list[tuple[int, str]]) -> None:
    plain, ring = ring_of(points), ring_of(points, tuple(moved))
    assert ring.positions == plain.positions
    given_to = {point: shard for point, shard in moved if shard in points}
    for point in plain.positions:
        assert ring.at(point) == given_to.get(point, plain.at(point))


@given(POINTS, st.sets(PLACES, max_size=30))
def test_shares_are_the_arcs_that_look_ups_see(points: Points, places: set[int]) -> None:
    ring = ring_of(points)
    # On a stretch that ends in a point or a place that was asked for, every position has one owner.
    edges = sorted({*ring.positions, *places})
    arcs: Counter[str] = Counter()
    for before, edge in zip([edges[-1] - POSITIONS, *edges[:-1]], edges, strict=True):
        arcs[ring.at(edge)] += edge - before
        assert ring.at((before + 1) % POSITIONS) == ring.at(edge)
    assert ring.shares() == {shard: arcs[shard] / POSITIONS for shard in points}
    assert sum(ring.shares().values()) == pytest.approx(1)


@given(st.sets(REAL_IDS, min_size=1, max_size=8), st.integers(1, 60))
def test_every_shard_has_its_points(ids: set[str], virtual_nodes: int) -> None:
    weights = {shard: float(n) / 2 for n, shard in enumerate(sorted(ids), 2)}
    ring = Ring(weights, virtual_nodes)
    assert len(ring) == sum(round(virtual_nodes * weight) for weight in weights.values())
    assert ring.shards == tuple(sorted(ids))
    for shard, weight in weights.items():
        assert all(ring.at(point) == shard for point in points_of(shard, weight, virtual_nodes))


def test_points_and_positions_are_what_the_design_says() -> None:
    """Written out, since data on disk depends on them: they can never change."""
    assert position(b"user:alice") == position(b"{user:alice}.cart") == 0xA85139C7646C2A4B
    assert points_of("shard-1", 1.0, 3) == [0x09FBF957F7471471, 0x0FC28535F67B1885, 0xAE0DCF608D69FAC3]


def test_weights_scale_the_share() -> None:
    ring = Ring({"light": 1.0, "heavy": 3.0}, 2000)
    # The share of m of M random points has mean m/M and a variance of m(M-m) / (M²(M+1)).
    assert ring.shares()["heavy"] == pytest.approx(0.75, abs=5 * sqrt(2000 * 6000 / 8000**2 / 8001))


@pytest.mark.parametrize("nodes", [1, 3, 9, 19])
def test_about_one_in_n_keys_moves_to_a_new_node(nodes: int) -> None:
    before, after = even_ring(nodes), even_ring(nodes + 1)
    joiner = f"shard-{nodes + 1}"
    share = after.shares()[joiner]
    points, mine = 150 * (nodes + 1), 150
    assert share == pytest.approx(1 / (nodes + 1), abs=5 * sqrt(mine * (points - mine) / points**2 / (points + 1)))
    keys = real_keys()[::5]
    moved = sum(before.owner(key) != after.owner(key) for key in keys)
    assert abs(moved - share * len(keys)) < 5 * sigma(share, len(keys))


def test_shares_agree_with_where_real_keys_lie() -> None:
    ring, keys = even_ring(10), real_keys()
    counts = Counter(map(ring.owner, keys))
    for shard, share in ring.shares().items():
        assert abs(counts[shard] - share * len(keys)) < 5 * sigma(share, len(keys))


def test_ten_nodes_are_within_a_fifth_of_the_mean(capsys: pytest.CaptureFixture[str]) -> None:
    keys = real_keys()
    assert len(keys) == len(set(keys)) == 90_000
    counts = Counter(map(even_ring(10).owner, keys))
    deviation = {shard: count / (len(keys) / 10) - 1 for shard, count in counts.items()}
    with capsys.disabled():
        print(f" keys per node off the mean: {min(deviation.values()):+.1%} to {max(deviation.values()):+.1%} ", end="")
    assert len(deviation) == 10
    assert max(map(abs, deviation.values())) <= 0.20


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"{}", b"{}"),
        (b"{}x", b"{}x"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"{a}{b}", b"a"),
        (b"a}b{c", b"a}b{c"),
        (b"}{a}", b"a"),
        (b"{a", b"{a"),
        (b"a}", b"a}"),
        (b"{", b"{"),
        (b"", b""),
        (b"{\x00}\xff", b"\x00"),
    ],
)
def test_hash_tags_follow_redis_cluster(key: bytes, tag: bytes) -> None:
    assert hash_tag(key) == tag
    assert position(key) == position(tag) or b"{" in tag


@given(st.text("a{}", max_size=10).map(str.encode))
def test_hash_tags_agree_with_the_specification(key: bytes) -> None:
    """The reference code of Redis Cluster's specification, index by index."""
    start = next((i for i, byte in enumerate(key) if byte == ord("{")), len(key))
    end = next((i for i in range(start + 1, len(key)) if key[i] == ord("}")), len(key))
    hashed = key if start == len(key) or end == len(key) or end == start + 1 else key[start + 1 : end]
    assert hash_tag(key) == hashed
    assert position(key) == int.from_bytes(md5(hashed).digest()[:8], "big")


@given(st.integers(0, 200), st.binary(min_size=1, max_size=9))
def test_keys_of_any_length_lie_where_hashlib_says(size: int, pattern: bytes) -> None:
    """Blocks of MD5 end at 55, 56, 63, 64 ... bytes; the compiled one is held against OpenSSL's at all lengths."""
    key = (pattern.replace(b"{", b"x") * (size + 1))[:size]
    assert position(key) == digest(key) == int.from_bytes(md5(key).digest()[:8], "big")


@given(st.lists(PLACES, unique=True, max_size=20), PLACES)
def test_the_compiled_search_agrees_with_bisect(places: list[int], place: int) -> None:
    places.sort()
    points = CompiledPoints(places, [str(index) for index in range(len(places))])
    if places:
        assert points.at(place) == str(bisect_left(places, place) % len(places))
    else:
        with pytest.raises(IndexError):
            points.at(place)


def test_owners_are_looked_up_by_position() -> None:
    ring = even_ring(10)
    for key in (b"user:alice", b"{tag}rest", b"", b"x" * 1000):
        assert ring.owner(key) == ring.at(position(key)) == ring.points.owner(key)
