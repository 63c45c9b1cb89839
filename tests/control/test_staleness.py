"""Which replicas are known to be fresh, and which are near."""

from __future__ import annotations

from dataclasses import replace

from helios.control.rounds import Quorum, Standing
from helios.control.staleness import Freshness, by_distance, interval_s
from helios.model.ids import Address
from helios.model.topology import Member, Node, Shard, Topology

ADDRESSES = [Address(f"10.0.0.{number}", 7000) for number in range(5)]
MEMBERS = tuple(Member(f"m{number}", f"n{number}", ADDRESSES[number]) for number in range(5))
SHARD = Shard("shard-1", "m0", MEMBERS[:3])
QUORUM = Quorum.of(SHARD)


def standing(reached: int, **acknowledged: int) -> Standing:
    return Standing("h", reached, {ADDRESSES[int(name[1:])]: offset for name, offset in acknowledged.items()})


def proved(freshness: Freshness) -> list[float | None]:
    return [freshness.proved(ADDRESSES[number]) for number in (1, 2)]


def test_who_acknowledges_a_round_has_everything_of_when_it_began() -> None:
    freshness = Freshness(0.0)
    assert proved(freshness) == [None, None]
    freshness.take(1.0, standing(100, m1=100, m2=99), QUORUM)
    assert proved(freshness) == [1.0, None]


def test_who_is_a_little_behind_has_everything_of_an_earlier_round() -> None:
    freshness = Freshness(0.0)
    freshness.take(1.0, standing(100, m1=100), QUORUM)
    freshness.take(2.0, standing(200, m1=200, m2=150), QUORUM)
    assert proved(freshness) == [2.0, 1.0]
    freshness.take(3.0, standing(300, m1=299, m2=300), QUORUM)
    assert proved(freshness) == [2.0, 3.0]


def test_nothing_is_proved_without_a_majority_of_the_members() -> None:
    freshness = Freshness(0.0)
    shard = replace(SHARD, members=MEMBERS)
    freshness.take(1.0, standing(100, m1=100), Quorum.of(shard))
    assert proved(freshness) == [None, None]
    # Nor is it by who is no member, or only of the membership before.
    freshness.take(2.0, standing(100, m3=100, m4=100), QUORUM)
    freshness.take(3.0, standing(100, m1=100), Quorum.of(replace(SHARD, outgoing=(MEMBERS[0], *MEMBERS[3:]))))
    assert proved(freshness) == [None, None]


def test_a_round_that_proves_nothing_is_no_mark_either() -> None:
    freshness = Freshness(0.0)
    freshness.take(1.0, standing(100, m1=50, m2=50), QUORUM)
    freshness.take(2.0, standing(200, m1=200, m2=150), QUORUM)
    assert proved(freshness) == [2.0, None]


def test_what_began_before_a_change_proves_nothing_after_it() -> None:
    freshness = Freshness(0.0)
    freshness.take(1.0, standing(100, m1=100, m2=100), QUORUM)
    freshness.begin_anew(2.0)
    assert proved(freshness) == [None, None]
    freshness.take(1.9, standing(200, m1=200, m2=200), QUORUM)
    assert proved(freshness) == [None, None]
    freshness.take(2.1, standing(300, m1=300, m2=250), QUORUM)
    assert proved(freshness) == [2.1, None]


def test_rounds_come_often_enough_for_the_bound_and_no_more_often_than_that() -> None:
    assert interval_s(1.0) == 0.125
    assert interval_s(0.05) == 0.01
    assert interval_s(3600) == 0.25


def test_the_nearest_come_first() -> None:
    def node(number: int, zone: str, host: str = "") -> Node:
        return Node(f"n{number}", Address(host or f"10.0.0.{number}", 7000), zone=zone)

    far = node(3, "b")
    topology = Topology(1, nodes=(node(0, "a"), node(1, "a"), node(2, "a"), far))
    shard = replace(SHARD, members=MEMBERS[:4])
    assert by_distance(topology, shard, "n2") == ((MEMBERS[2],), (MEMBERS[1],), (MEMBERS[3],))
    assert by_distance(topology, shard, "n0") == ((MEMBERS[1], MEMBERS[2]), (MEMBERS[3],))
    # Without zones, or at a node that has left, all are as far.
    assert by_distance(replace(topology, nodes=(node(4, ""),)), shard, "n4") == (MEMBERS[1:4],)
    assert by_distance(topology, shard, "elsewhere") == (MEMBERS[1:4],)
