"""Acknowledgement rounds against slow, obvious versions: who has to have it, whom to wait for, what is covered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from helios.control.rounds import Parked, Quorum, Standing
from helios.model.ids import Address
from helios.model.topology import Member, Shard

SERVERS = {name: Member(name, name, Address("127.0.0.1", 7000 + number)) for number, name in enumerate("abcdefg")}
NAMES = st.sampled_from(sorted(SERVERS))


@st.composite
def shards(draw: st.DrawFn) -> Shard:
    """A shard with a membership or two, whose leader is in the present one, and a few learners."""
    members = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    outgoing = draw(st.one_of(st.just([]), st.lists(NAMES, min_size=1, max_size=5, unique=True)))
    learners = [name for name in draw(st.lists(NAMES, max_size=3, unique=True)) if name not in members]
    found = [tuple(SERVERS[name] for name in names) for names in (members, outgoing, learners)]
    return Shard("shard", draw(st.sampled_from(members)), found[0], outgoing=found[1], learners=found[2])


def some(names: str | list[str]) -> frozenset[Address]:
    return frozenset(SERVERS[name].address for name in names)


def is_enough(shard: Shard, followers: list[str]) -> bool:
    """Whether more than half of each membership have it, the leader being one of those that do."""
    have = {shard.leader, *followers}
    return all(2 * sum(member in have for member in members) > len(members) for members in shard.memberships)


def subsets(names: list[str]) -> Iterator[list[str]]:
    for size in range(len(names) + 1):
        yield from map(list, combinations(names, size))


@given(shards(), st.lists(NAMES, unique=True))
def test_a_majority_of_each_membership_is_enough_and_nothing_less(shard: Shard, followers: list[str]) -> None:
    followers = [name for name in followers if name != shard.leader]
    assert Quorum.of(shard).met_by(some(followers)) == is_enough(shard, followers)
    assert Quorum.of(shard).alone == is_enough(shard, [])


@given(shards(), st.lists(NAMES, unique=True))
def test_two_sets_that_are_enough_have_a_member_in_common(shard: Shard, followers: list[str]) -> None:
    """With what a failover detaches: as many members of each membership as leave no majority of it without one."""
    if not is_enough(shard, followers):
        return
    for members in shard.memberships:
        for detached in combinations(sorted(members), len(members) - len(members) // 2):
            assert {shard.leader, *followers} & set(detached)


@given(shards(), st.lists(NAMES, max_size=4, unique=True))
def test_so_many_of_those_that_are_first_are_enough(shard: Shard, ahead: list[str]) -> None:
    """Whoever answers first of a membership and of those that had everything the last time."""
    ahead = [name for name in ahead if name != shard.leader]
    count = Quorum.of(shard).wait_for(some(ahead))
    for members, (addresses, needed) in zip(shard.memberships, Quorum.of(shard).sides, strict=True):
        answering = sorted({*members, *ahead} - {shard.leader})
        for first in subsets(answering):
            if len(first) >= count:
                assert len(some(first) & addresses) >= needed
        assert count <= len(answering) or not is_enough(shard, answering)


@given(shards())
def test_no_more_are_waited_for_than_has_to_be_where_nobody_else_follows(shard: Shard) -> None:
    count = Quorum.of(shard).wait_for(frozenset())
    others = sorted({name for members in shard.memberships for name in members} - {shard.leader})
    smallest = min(len(found) for found in subsets(others) if is_enough(shard, found))
    assert count <= smallest


@given(shards())
def test_a_server_counts_at_the_address_that_it_has_now(shard: Shard) -> None:
    moved = tuple(Member(m.id, m.node, Address(m.address.host, m.address.port + 1000)) for m in shard.members)
    now = Quorum.of(Shard(shard.id, shard.leader, moved, outgoing=shard.members))
    followers = [member for member in moved if member.id != shard.leader]
    assert now.met_by({member.address for member in followers})
    old = {member.address for member in shard.members if member.id != shard.leader}
    assert now.met_by(old) == now.alone


@given(st.integers(0, 100), st.dictionaries(NAMES, st.integers(0, 100)))
def test_followers_are_those_that_have_all(reached: int, offsets: dict[str, int]) -> None:
    standing = Standing("h", reached, {SERVERS[name].address: offset for name, offset in offsets.items()})
    assert standing.followers == some([name for name, offset in offsets.items() if offset >= reached])


# --- which round covers what ------------------------------------------------------------------------------------


@dataclass
class Reply:
    """One reply: in which queue it waits and since when, and whether the round under way began after that."""

    queue: str
    at: float
    covered: bool = False


@dataclass
class Obvious:
    """Each reply by itself."""

    replies: list[Reply] = field(default_factory=list)

    def take(self, taken: list[Reply]) -> list[str]:
        self.replies = [reply for reply in self.replies if not any(reply is other for other in taken)]
        return [reply.queue for reply in taken]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("park"), st.sampled_from("xyz"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["begin", "proved", "failed"]), st.just(""), st.just(0)),
        st.tuples(st.just("expire"), st.just(""), st.integers(0, 8)),
        st.tuples(st.just("forget"), st.sampled_from("xyz"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_a_reply_waits_for_a_round_that_began_after_it_was_parked(steps: list[tuple[str, str, int]]) -> None:
    parked: Parked[str] = Parked()
    model = Obvious()
    for now, (step, queue, number) in enumerate(steps):
        given_back: list[tuple[str, int]] = []
        expected: list[str] = []
        if step == "park":
            parked.add(queue, number, float(now))
            model.replies += [Reply(queue, float(now)) for _ in range(number)]
        elif step == "begin":
            parked.begin()
            for reply in model.replies:
                reply.covered = True
        elif step == "proved":
            given_back, expected = parked.proved(), model.take([reply for reply in model.replies if reply.covered])
        elif step == "failed":
            parked.failed()
            for reply in model.replies:
                reply.covered = False
        elif step == "expire":
            given_back = parked.expired(float(now), float(number))
            expected = model.take([reply for reply in model.replies if reply.at <= now - number])
        else:
            parked.forget(queue)
            model.take([reply for reply in model.replies if reply.queue == queue])
        assert [name for name, count in given_back for _ in range(count)] == expected
        assert len(parked) == len(model.replies)
        assert bool(parked) == bool(model.replies)
        if model.replies:
            assert parked.since == model.replies[0].at


@given(st.floats(0, 1e9), st.floats(0.001, 1e4))
def test_what_was_parked_is_over_when_a_timer_of_that_length_ends(since: float, timeout: float) -> None:
    parked: Parked[str] = Parked()
    parked.add("a", 1, since)
    assert parked.expired(parked.since + timeout, timeout) == [("a", 1)]
