"""A coordinator that cares for the members of one shard, over servers in memory and real ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engine_lab import KINDS
from tests.failover_group import Group, group_of
from tests.waiting import until

from helios.admin.history import history
from helios.control.replicas import Decision, Look, decide
from helios.control.silence import Looked
from helios.coordinator.failover import Failover
from helios.coordinator.following import Following
from helios.errors import Unavailable
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.sections import ReplicationSettings
from helios.model.topology import Member
from helios.ports.engine import FOLLOWER_PREFIX, Replication
from helios.ports.records import CHANGES, REPLICAS, ReplicasRecord, list_records, read_record
from helios.runtime.clock import SystemClock


@pytest.fixture(params=KINDS)
async def group(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Group]:
    async with group_of(request.param, tmp_path) as made:
        yield made


async def test_a_shard_of_one_is_left_alone(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    decisions: list[tuple[Decision, ...]] = []

    def noted(look: Look) -> tuple[Decision, ...]:
        decisions.append(decide(look))
        return decisions[-1]

    monkeypatch.setattr("helios.coordinator.replicas.decide", noted)
    await group.coordinate(1)
    epoch = group.epoch
    await group.becomes(lambda: bool(decisions))
    assert set(decisions) == {()}
    assert group.epoch == epoch
    assert await list_records(group.store, ReplicasRecord, REPLICAS) == []


async def test_a_shard_gets_its_replicas_and_gives_them_back(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    (wish,) = await list_records(group.store, ReplicasRecord, REPLICAS)
    assert set(wish.value.nodes) == {"b", "c"}
    key = await group.write()
    assert group.shard.lineage[0].begins == 0
    await group.coordinate(2)
    await group.grown(2)
    await group.coordinate(1)
    await group.grown(1)
    assert len(group.shard.lineage) == 1
    assert await group.has(key)
    assert await list_records(group.store, ReplicasRecord, REPLICAS) == []


async def test_a_killed_leader_costs_nothing_that_was_acknowledged(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    keys = [await group.write() for _ in range(20)]
    killed = group.shard.leader
    group.labs[killed].crash()
    group.announce(killed, dead=True)
    await group.becomes(lambda: group.shard.leader != killed and group.settled)
    assert all([await group.has(key) for key in keys])
    keys += [await group.write() for _ in range(5)]
    # It comes back as its agent starts it, and follows.
    group.labs[killed].restart(detached=True)
    group.announce(killed)
    await group.complete()
    second = group.shard.leader
    group.labs[second].crash()
    group.announce(second, dead=True)
    await group.becomes(lambda: group.shard.leader != second and group.settled)
    assert all([await group.has(key) for key in keys])
    await group.write()
    entries = [(entry.kind, entry.shard, entry.reason) for entry in await history(group.store, 10)]
    assert entries == [("failover", "a", "its process has ended; nothing that a majority had was lost")] * 2


async def test_a_shard_may_shrink_to_one_member(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    await group.coordinate(1)
    await group.grown(1)
    assert group.members() == {"a.0"}
    assert await group.has(key)


async def test_nobody_waits_for_what_a_server_says_that_has_been_silent_for_long(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    await group.coordinate(2)
    await group.grown(2)
    (frozen,) = group.members() - {"a.0"}
    look, thawed = Following.look, asyncio.Event()

    async def looked(following: Following, member: Member) -> Replication | None:
        if member.id == frozen and not thawed.is_set():
            if following.silence.silent_s(frozen):
                await thawed.wait()
            now_s = SystemClock().monotonic()
            for ahead_s in range(0, 8, 2):
                following.note(Looked(member.id, member.node, now_s, now_s + ahead_s, answered=False))
            return None
        return await look(following, member)

    monkeypatch.setattr(Following, "look", looked)
    await group.counts_no_more(frozen)
    await group.write()
    thawed.set()
    await group.grown(2)


async def test_a_coordinator_that_dies_in_a_failover_leaves_it_to_the_next(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    killed = group.shard.leader
    group.labs[killed].crash()
    group.announce(killed, dead=True)
    assert group.context is not None
    publisher = group.context.publisher
    await group.becomes(lambda: bool(publisher.topology.fenced_shards) or group.shard.leader != killed)
    await group.coordinate(3)
    await group.becomes(lambda: group.shard.leader != killed and group.settled)
    assert await group.has(key)


async def test_coordinators_that_die_before_they_publish_do_not_hide_who_has_everything(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    await group.coordinate(2)
    await group.grown(2)
    key = await group.write()
    promoted = asyncio.Event()

    async def stall(*_: object) -> None:
        promoted.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Failover, "_publish", stall)
    group.labs["a.0"].crash()
    group.labs["a.0"].restart(detached=True)
    group.announce("a.0")
    for _ in range(3):
        await group.becomes(promoted.is_set)
        await group.resign()
        promoted.clear()
        await group.coordinate(2)
    monkeypatch.undo()
    await group.coordinate(2)
    await group.becomes(lambda: group.shard.leader != "a.0" and group.settled)
    assert await group.has(key)


async def test_a_failover_finds_members_that_were_restarted_elsewhere(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "helios.coordinator.failover")
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    await group.complete()
    killed, there = group.shard.leader, group.shard.members
    publisher = group.context.publisher if group.context else None
    assert publisher is not None

    def listen(at: Address | None) -> None:
        """Have their agents say that those who follow listen there, or where they do."""
        for member in there:
            if member.id != killed:
                record = group.records[member.id]
                group.records[member.id] = replace(record, address=at or group.labs[member.id].member.address)
        assert group.replicas is not None
        group.replicas.take(group.records.values())

    nowhere = Address("127.0.0.1", 1)
    listen(nowhere)
    await group.becomes(lambda: {m.address for m in group.shard.members if m.id != killed} == {nowhere})
    group.labs[killed].crash()
    group.announce(killed, dead=True)
    failed = [f"event=Failed(member='{member.id}'" for member in there if member.id != killed]
    await group.becomes(lambda: all(event in caplog.text for event in failed))
    assert publisher.topology.fenced_shards
    listen(None)
    await group.becomes(lambda: group.shard.leader != killed and group.settled)
    assert await group.has(key)


async def test_a_member_that_was_listed_where_it_had_been_is_found(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    publisher = group.context.publisher if group.context else None
    assert publisher is not None
    there = group.shard.members
    stale = tuple(replace(member, address=Address("127.0.0.1", 1)) for member in there)
    await publisher.publish(lambda t: replace(t, shards=(replace(t.shards[0], members=stale),)))
    await group.becomes(lambda: group.shard.members == there)


async def test_a_server_that_followed_another_leads_when_it_is_alone(group: Group) -> None:
    engine = await group.labs["a.0"].open()
    await engine.detach()
    await group.coordinate(3)
    await group.grown(3)
    assert group.shard.leader == "a.0"
    assert await group.has(await group.write())


async def test_a_server_that_followed_another_and_is_to_have_no_fellows_leads(group: Group) -> None:
    engine = await group.labs["a.0"].open()
    await engine.detach()
    await group.coordinate(1)

    async def leads() -> bool:
        return (await engine.replication()).leads

    await until(leads)
    await engine.close()


async def test_a_leader_that_was_restarted_does_not_lead_without_a_decision(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    before = group.shard
    group.labs[before.leader].crash()
    group.labs[before.leader].restart(detached=True)
    group.announce(before.leader)
    await group.becomes(lambda: group.shard.lineage[0] != before.lineage[0] and group.settled)
    assert group.shard.leader != before.leader
    assert await group.has(key)
    await group.write()


async def test_a_member_that_is_promoted_leads_and_has_everything(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    keys = [await group.write() for _ in range(20)]
    assert group.replicas is not None
    for member_id in ("a@b", "a@c", "a.0"):
        member = next(member for member in group.shard.members if member.id == member_id)
        await group.replicas.promote(group.shard, member)
        assert group.shard.leader == member_id
        assert len(group.shard.members) == 3
        assert all([await group.has(key) for key in keys])
        keys.append(await group.write())
    await group.complete()


async def test_when_a_failover_ends_all_that_answer_follow_already(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    await group.resign()  # so that nobody else tells them
    successor = group.shard.members[1]
    following = group.following()
    failover = group.failover(following, successor)
    await failover.run()
    assert group.shard.leader == successor.id
    answered = [
        member for member in group.shard.members if member.id in failover.state.detached.keys() - {successor.id}
    ]
    said = [await following.look(member) for member in answered]
    await following.close()
    assert answered
    assert all(one is not None and one.leader == successor.address for one in said)
    assert await group.has(key)


async def test_a_member_that_does_not_answer_is_not_promoted(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    await group.coordinate(3)
    await group.grown(3)
    monkeypatch.setattr("helios.coordinator.replicas._PROMOTION_S", 1.0)
    before = group.shard
    group.labs["a@b"].crash()
    group.announce("a@b", dead=True)
    assert group.replicas is not None
    with pytest.raises(Unavailable, match="b has not come to lead a within 1 s"):
        await group.replicas.promote(before, next(member for member in before.members if member.id == "a@b"))
    assert group.shard.leader == before.leader
    assert group.shard.lineage == before.lineage
    await group.write()


async def accept_loss(group: Group, node: str) -> str:
    """What comes of a promotion that accepts a loss."""
    assert group.replicas is not None
    asked = Change("promotion", ChangeKind.PROMOTE, ChangeStatus.QUEUED, shard="a", node=node, accept_loss=True)
    group.replicas.accept_loss(asked)

    async def answered() -> bool:
        return await group.store.get(CHANGES + asked.id) is not None

    await until(answered)
    record = await read_record(group.store, Change, CHANGES + asked.id)
    assert record is not None
    assert record.value.status is ChangeStatus.DONE
    return record.value.outcome


async def test_a_person_can_have_the_last_member_go_on_alone(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    await group.complete()
    assert group.context is not None
    publisher = group.context.publisher
    for lost in ("a.0", "a@c"):
        group.labs[lost].crash()
        group.announce(lost, dead=True)
    await group.becomes(lambda: bool(publisher.topology.fenced_shards))
    assert await accept_loss(group, "b") == "b leads a; what had not reached it is lost"
    assert group.members() == {"a@b"}
    assert await group.has(key)
    await group.write()
    for lost in ("a.0", "a@c"):
        group.labs[lost].restart(detached=True)
        group.announce(lost)
    await group.grown(3)
    assert group.shard.leader == "a@b"
    assert await group.has(key)


async def test_a_leader_without_its_majority_goes_on_alone_when_a_person_wants_it(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    for lost in ("a@b", "a@c"):
        group.labs[lost].crash()
        group.announce(lost, dead=True)
    assert await accept_loss(group, "a") == "a leads a; what had not reached it is lost"
    assert group.members() == {"a.0"}
    assert await group.has(key)
    await group.write()


async def test_no_loss_is_taken_where_none_is_needed(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    assert (await accept_loss(group, "b")).endswith("leads a; nothing was lost")
    assert len(group.shard.members) == 3
    assert await group.has(key)


def turn_on_going_home(group: Group) -> None:
    assert group.context is not None
    group.context.settings = group.context.settings.altered(replication=ReplicationSettings())


async def test_a_leader_goes_home_when_its_node_has_been_back_for_a_while(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helios.control.leaders.STEADY_S", 1.0)
    await group.coordinate(3)
    await group.grown(3)
    keys = [await group.write()]
    group.labs["a.0"].crash()
    group.announce("a.0", dead=True)
    await group.becomes(lambda: group.shard.leader != "a.0" and group.settled)
    keys.append(await group.write())
    group.labs["a.0"].restart(detached=True)
    group.announce("a.0")
    await group.grown(3)
    await group.complete()
    assert group.shard.leader != "a.0"  # nobody has wished for it
    turn_on_going_home(group)
    await group.becomes(lambda: group.shard.leader == "a.0" and group.settled)
    assert all([await group.has(key) for key in keys])
    await group.write()


async def test_leaders_go_home_when_somebody_evens_the_cluster_out(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    assert group.replicas is not None
    await group.replicas.promote(group.shard, next(member for member in group.shard.members if member.id == "a@c"))
    group.replicas.all_home()
    await group.becomes(lambda: group.shard.leader == "a.0" and group.settled)
    await group.write()


async def test_a_node_that_is_about_to_stop_leads_no_more(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    key = await group.write()
    for member_id in ("a.0", "a@b"):
        group.announce(member_id, leaving=True)
    await group.becomes(lambda: group.shard.leader == "a@c" and group.settled)
    assert await group.has(key)
    # As long as it stops it does not get back what it has just given, whoever asks.
    assert group.replicas is not None
    group.replicas.all_home()
    epoch = group.epoch
    group.announce("a@b")
    await group.write()
    assert group.shard.leader == "a@c"
    assert group.epoch == epoch


async def test_two_copies_write_on_while_the_node_of_one_is_restarted(group: Group) -> None:
    await group.coordinate(2)
    await group.grown(2)
    (other,) = group.members() - {"a.0"}
    for stopping in (other, "a.0"):
        group.announce(stopping, leaving=True)
        await group.counts_no_more(stopping)
        await group.write()
        group.announce(stopping)
        await group.grown(2)


async def test_a_copy_follows_again_when_its_leader_was_restarted_alone(group: Group) -> None:
    await group.coordinate(2)
    await group.grown(2)
    assert group.context is not None
    impatient = ReplicationSettings(failover_timeout=0.5, rebalance_leaders=False)
    group.context.settings = group.context.settings.altered(replication=impatient)
    [copy] = group.members() - {"a.0"}
    group.labs[copy].freeze()
    await group.becomes(lambda: group.members() == {"a.0"} and not group.shard.outgoing)
    group.context.settings = group.context.settings.altered(replication=ReplicationSettings(rebalance_leaders=False))
    group.labs["a.0"].crash()
    group.labs["a.0"].restart()  # as its agent starts the only member: it leads, and knows no login of before
    group.announce("a.0")
    group.labs[copy].thaw()
    await group.grown(2)
    assert await group.has(await group.write())


async def test_a_copy_that_is_taken_in_anew_gets_another_login(group: Group) -> None:
    await group.coordinate(2)
    await group.grown(2)
    [copy] = group.members() - {"a.0"}
    assert group.context is not None
    # As where the shard has left the cluster, and comes again: nobody tells its copies, and its users are ended.
    leader = await group.labs["a.0"].open()
    await leader.force_off(FOLLOWER_PREFIX + copy)
    await leader.close()
    alone = replace(group.shard, members=(group.shard.leading,), lineage=())
    await group.context.publisher.publish(lambda topology: replace(topology, shards=(alone,)))
    await group.grown(2)
    assert await group.has(await group.write())
