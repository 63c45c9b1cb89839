"""When connections to a shard's leader end: with its leader, and with its leader's term."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helios.control.replicas import Admit, Dismiss, Enlist, Forget, Settle
from helios.model.ids import Address
from helios.model.topology import Member, Shard, Term, Topology
from helios.ports.engine import UserRole
from helios.router.upstream.leaders import LeftBehind, history_of, why_ended


def led(leader: str = "a", *histories: str, port: int = 1, members: str = "abc") -> Shard:
    made = tuple(Member(name, name, Address("127.0.0.1", port)) for name in members)
    return Shard("s", leader, made, lineage=tuple(Term(history, 0) for history in histories))


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        (led(), led(), ""),
        (led("a", "h1"), led("a", "h1"), ""),
        (led(members="a"), led("a", "h1", members="ab"), ""),
        (led(), None, "no longer in the cluster"),
        (led("a", "h1"), led("b", "h2", "h1"), "another leader"),
        (led("a"), led("a", port=2), "another leader"),
        (led("a", "h1"), led("a", "h3", "h2", "h1"), "another has led"),
        (led("a", members="a"), led("a", "h3", "h2", "h1"), "another has led"),
        (led("a", "h1"), led("a", "h2"), "another has led"),
        (led("a", "h1"), led("a"), "another has led"),
        (led("a", "h1"), led("a", "h1", members="a"), ""),
        (led("a", "h2", "h1"), led("a", "h3", members="a"), "another has led"),
        (led("a", "h1", members="a"), led("a", "h2", members="ab"), ""),
    ],
)
def test_connections_end_where_another_leads_or_has_led(before: Shard, now: Shard | None, why: str) -> None:
    said = why_ended(before, now)
    assert why in said
    assert bool(said) == bool(why)


def test_connections_stay_while_a_shard_shrinks_to_its_leader_and_grows_again() -> None:
    # What is under way on them is to be waited for behind a fence: who closes them knows nothing of it any more.
    many = replace(led("a", "h1", "h0", members="ab"), lineage=(Term("h1", 500), Term("h0", 0)))
    dismissed = Dismiss(many.members[1]).apply(many)
    alone = Settle().apply(dismissed)
    assert len(alone.members) == 1
    forgotten = Forget(alone.learners[0]).apply(alone)
    enlisted = Enlist(many.members[1]).apply(forgotten)
    grown = Settle().apply(Admit(many.members[1], "h1").apply(enlisted))
    assert len(grown.members) == 2
    course = (many, dismissed, alone, forgotten, enlisted, grown)
    for at, before in enumerate(course):
        assert [why_ended(before, now) for now in course[at:]] == [""] * (len(course) - at)


def test_a_leader_with_followers_has_to_lead_under_the_latest_history() -> None:
    assert history_of(led("a", "h2", "h1")) == "h2"
    assert history_of(led("a", "h2", "h1", members="a")) == ""
    assert history_of(led("a")) == ""


class _Link:
    """A connection to a member on which three commands are under way."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.role = UserRole.ROUTER

    def left_behind(self) -> list[tuple[int, bytes, int]]:
        return [(7, b"run", 3)]


def test_what_was_under_way_at_a_member_that_has_left_is_ended_when_it_is_added_again() -> None:
    left, shard = LeftBehind(), led("a", "h1", members="a")
    left.note(_Link(shard.leading))
    assert left.led_again(Topology(epoch=2)) == []
    back = Topology(epoch=3, shards=(led("a", members="a"),))
    assert left.led_again(back) == [("s", UserRole.ROUTER, [(7, b"run", 3)])]
    assert left.led_again(back) == []
