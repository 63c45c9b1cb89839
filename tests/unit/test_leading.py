"""Who is to lead although the leader is well: away from nodes that stop, and home when these have been back."""

from __future__ import annotations

import pytest

from helios.control.leaders import STEADY_MAX_S, STEADY_S, Steadiness, able_instead_of, away_from, home_of, staying_for
from helios.model.ids import Address
from helios.model.topology import Member, Placement, Shard, Transition

MEMBERS = tuple(Member(name, node, Address(node, 1)) for name, node in (("a.0", "a"), ("a@b", "b"), ("a@c", "c")))


def led_by(member_id: str) -> Shard:
    return Shard("a", member_id, MEMBERS)


def test_a_leader_goes_only_from_a_node_that_leaves_and_not_to_another_that_leaves() -> None:
    assert away_from(led_by("a.0"), {"b"}) == ()
    assert away_from(led_by("a.0"), {"a"}) == ("a@b", "a@c")
    assert away_from(led_by("a@b"), {"b"}) == ("a.0", "a@c")
    assert away_from(led_by("a.0"), {"a", "b"}) == ("a@c",)
    assert away_from(led_by("a.0"), {"a", "b", "c"}) == ()


def test_home_is_where_a_shard_began() -> None:
    assert home_of(led_by("a.0"), ()) == ""
    assert home_of(led_by("a@b"), ()) == "a.0"
    assert home_of(led_by("a@b"), {"a"}) == ""
    assert home_of(Shard("a", "a@b", MEMBERS[1:]), ()) == ""


def test_instead_of_a_leader_that_refuses_writes_one_leads_that_does_not() -> None:
    assert able_instead_of(led_by("a.0"), {"a@b"}, ()) == ()
    assert able_instead_of(led_by("a.0"), {"a.0"}, ()) == ("a@b", "a@c")
    assert able_instead_of(led_by("a.0"), {"a.0", "a@b"}, ()) == ("a@c",)
    assert able_instead_of(led_by("a.0"), {"a.0"}, {"c"}) == ("a@b",)
    assert able_instead_of(led_by("a.0"), {"a.0", "a@b", "a@c"}, ()) == ()


def test_a_leader_stays_while_keys_move_unless_its_node_leaves_by_that() -> None:
    moving = Transition("c", Placement(), (), leaving="b")
    assert staying_for(None, led_by("a.0")) == ()
    assert staying_for(moving, led_by("a.0")) == ("a.0",)
    assert staying_for(moving, led_by("a@b")) == ()


def test_a_member_is_steady_after_it_has_been_in_sync_for_a_while() -> None:
    fresh = Steadiness().seen(True, 100.0)
    assert not Steadiness().is_steady(1e9)
    assert not fresh.is_steady(100.0 + STEADY_S - 1)
    assert fresh.seen(True, 110.0).is_steady(100.0 + STEADY_S)
    assert not fresh.seen(False, 110.0).seen(True, 120.0).is_steady(100.0 + STEADY_S)


@pytest.mark.parametrize(
    ("losses", "rest_s"), [(1, STEADY_S), (2, 2 * STEADY_S), (3, 4 * STEADY_S), (40, STEADY_MAX_S)]
)
def test_one_that_is_lost_again_and_again_rests_longer_each_time(losses: int, rest_s: float) -> None:
    one = Steadiness()
    for number in range(losses):
        one = one.seen(True, number).lost(number)
    back = one.seen(True, 1000.0)
    assert not back.is_steady(1000.0 + rest_s - 1)
    assert back.is_steady(1000.0 + rest_s)


def test_a_loss_is_forgiven_in_time() -> None:
    one = Steadiness().lost(0.0).lost(1.0).lost(10_000.0).seen(True, 10_001.0)
    assert one.is_steady(10_001.0 + STEADY_S)
