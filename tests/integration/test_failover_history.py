"""What the history says of leaders that were lost, and that it says nothing of those that hand over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.engine_lab import KINDS
from tests.failover_group import Group, group_of

from helios.admin.history import history
from helios.coordinator.history import FailoverHistory
from helios.runtime.clock import SystemClock


@pytest.fixture(params=KINDS)
async def group(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Group]:
    async with group_of(request.param, tmp_path) as made:
        yield made


async def test_leaders_that_hand_over_are_no_failovers(group: Group) -> None:
    await group.coordinate(2)
    await group.grown(2)
    assert group.context is not None
    (other,) = (member for member in group.shard.members if member.id != group.shard.leader)
    assert group.replicas is not None
    await group.replicas.promote(group.shard, other)
    await group.becomes(lambda: group.settled)
    assert await history(group.store, 10) == []


async def test_a_leader_that_is_lost_while_it_hands_over_is_one(group: Group) -> None:
    await group.coordinate(3)
    await group.grown(3)
    await group.resign()
    assert group.context is not None
    context, following = group.context, group.following()
    ended = FailoverHistory(context.publisher, context.clock, context.new_id).begun(group.shard, "it was lost")
    group.labs[group.shard.leader].crash()
    await group.failover(following, group.shard.members[1], ended=ended).run()
    await following.close()
    (entry,) = await history(group.store, 10)
    assert entry.reason == "it was lost; nothing that a majority had was lost"


async def test_the_oldest_failovers_go(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios.coordinator.history.KEPT", 2)
    await group.coordinate(1)
    assert group.context is not None
    kept = FailoverHistory(group.context.publisher, SystemClock(), iter("abcd").__next__)
    for leader in ("n1", "n2", "a"):
        ended = kept.begun(group.shard, "it does not answer")
        await group.context.publisher.write(ended(leader, leader == "a"))
        await kept.trim()
    entries = await history(group.store, 10)
    assert [entry.what for entry in entries] == ["failover of a: n2 leads instead of a", "failover of a: a leads again"]
    assert entries[-1].reason == "it does not answer; what had not reached it is lost"
