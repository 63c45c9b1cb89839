"""What a failover that may have lost deletions leaves: keys that the shard may have again, and does not own."""

from __future__ import annotations

from dataclasses import replace

from helios.control.failover import PublishLeader
from helios.control.mutations import swept
from helios.control.replicas import failed_over
from helios.model.ids import Address
from helios.model.topology import Member, Pair, Placement, Shard, Term, Topology, Transition


def shard(name: str) -> Shard:
    members = tuple(Member(member, member, Address("127.0.0.1", 1)) for member in (f"{name}.0", f"{name}@other"))
    return Shard(name, members[0].id, members, lineage=(Term("h1", 0),))


TOPOLOGY = Topology(epoch=7, shards=(shard("a"), shard("b")), fenced_shards=frozenset({"a", "b"}))
CHOSEN = PublishLeader("a@other", (Term("h2", 5), Term("h1", 0)))


def test_a_shard_that_lost_nothing_has_no_key_that_it_does_not_own() -> None:
    now = failed_over(TOPOLOGY, "a", CHOSEN)
    assert now.shard("a") == replace(shard("a"), leader="a@other", lineage=CHOSEN.lineage)
    assert (now.fenced_shards, now.unclean) == (frozenset({"b"}), frozenset())


def test_a_shard_that_may_have_lost_deletions_is_swept() -> None:
    now = failed_over(TOPOLOGY, "a", replace(CHOSEN, lossy=True))
    assert now.unclean == {"a"}
    assert swept(now, "a", now).unclean == frozenset()


def test_a_move_does_not_take_such_a_shard_for_clean() -> None:
    # By the end of the move only what it has met is deleted where nothing else can be.
    moving = Transition("c", Placement(), (Pair("a", "b", "m"),), unclean=frozenset({"b"}))
    now = failed_over(replace(TOPOLOGY, transition=moving), "a", replace(CHOSEN, lossy=True))
    assert now.transition is not None
    assert now.transition.unclean == {"a", "b"}


def test_a_sweep_that_began_before_such_a_failover_says_nothing_of_the_new_leader() -> None:
    before = replace(TOPOLOGY, unclean=frozenset({"a"}))
    now = failed_over(before, "a", replace(CHOSEN, lossy=True))
    assert swept(now, "a", before).unclean == {"a"}
    assert swept(now, "b", before) == now


def test_a_shard_that_has_left_is_not_swept_any_more() -> None:
    gone = Topology(epoch=8, unclean=frozenset({"a"}))
    assert swept(gone, "a", gone).unclean == frozenset()
