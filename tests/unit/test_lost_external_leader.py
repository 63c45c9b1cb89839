"""What becomes of the members of a shard whose external leader is lost while they change: it acknowledges no more."""

from __future__ import annotations

from dataclasses import replace

from helios.control.replicas import Decision, Detach, Dismiss, Follow, Forget, Look, Settle, Sight, decide
from helios.model.ids import Address
from helios.model.topology import Member, Shard, Term

EXTERNAL = Member("outside.0", "outside", Address("outside", 1))
COPIES = tuple(Member(f"outside@{node}", node, Address(node, 1)) for node in ("a", "b", "c"))
A, B, C = COPIES
TERM = Term("history", 10)


def decided(members: tuple[Member, ...], outgoing: tuple[Member, ...], level: tuple[Member, ...]) -> list[Decision]:
    """What is decided about who counts, where A leads, and of the other copies these have all that it has."""
    shard = Shard("outside", A.id, members, lineage=(TERM,), outgoing=outgoing)
    sights = {A.id: Sight(True, TERM.history, 50)}
    sights |= {one.id: Sight(False, TERM.history, 50, A.address, True) for one in level}
    sights |= {one.id: Sight(False, "", 0, A.address) for one in COPIES if one.id not in sights}
    look = Look(shard, COPIES, sights, known=True, external={EXTERNAL.id}, let_in={one.id for one in COPIES})
    return [one for one in decide(look) if isinstance(one, Settle | Dismiss)]


def test_one_that_was_just_admitted_goes_on_alone() -> None:
    assert decided((EXTERNAL, A), (EXTERNAL,), ()) == [Settle()]
    assert decided((EXTERNAL, A), (), ()) == [Dismiss(EXTERNAL)]


def test_one_that_is_left_by_a_member_goes_on_alone() -> None:
    assert decided((EXTERNAL, A), (EXTERNAL, A, B), ()) == [Settle()]


def test_what_was_acknowledged_is_with_whoever_is_asked_in_the_next_failover() -> None:
    assert decided((EXTERNAL, A, B), (EXTERNAL, A), ()) == [Settle()]  # A and B would both be asked
    assert decided((EXTERNAL, A, B, C), (EXTERNAL, A, B), ()) == []  # B and C might be asked alone
    assert decided((EXTERNAL, A, B, C), (EXTERNAL, A, B), (B,)) == [Settle()]
    assert decided((A, B), (EXTERNAL, A, B), ()) == []


def test_a_server_that_has_no_agent_is_told_nothing() -> None:
    shard = Shard("outside", A.id, (A, B), lineage=(TERM,))
    elsewhere = Address("elsewhere", 1)
    sights = {A.id: Sight(True, TERM.history, 50), B.id: Sight(False, "", 0, elsewhere)}
    look = Look(shard, (A, B), sights, known=True)
    assert decide(look) == (Follow(B),)
    assert decide(replace(look, absent={B.id})) == ()
    gone = replace(look, shard=replace(shard, members=(A,), learners=(B,)), wanted=(A,))
    assert decide(gone) == (Detach(B),)
    assert decide(replace(gone, absent={B.id})) == ()


def test_one_that_has_been_dismissed_is_forgotten_when_it_is_not_to_follow_any_more() -> None:
    sights = {A.id: Sight(True, TERM.history, 50), B.id: Sight(False, "", 0)}
    settled = Shard("outside", A.id, (A,), lineage=(TERM,), learners=(B,))
    look = Look(replace(settled, outgoing=(A, B)), (A,), sights, known=True)
    assert decide(look) == (Settle(), Follow(B))  # routers may have to wait for it until they know
    assert decide(replace(look, shard=settled)) == (Forget(B),)
