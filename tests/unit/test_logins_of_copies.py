"""For how long a copy is taken for let in by its leader."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from helios.control.replicas import Sight
from helios.coordinator.attaching import Attaching
from helios.coordinator.following import Following
from helios.coordinator.term_context import TermContext
from helios.model.ids import Address
from helios.model.topology import Member, Shard

LEADER = Member("a.0", "a", Address("localhost", 7001))
COPY = Member("a@b", "b", Address("localhost", 7002))
SHARD = Shard("a", LEADER.id, (LEADER,), learners=(COPY,))


class Obeyed:
    """Makes servers follow at once."""

    async def follow(self, member: Member, leader: Member) -> None:
        """Nothing is left to be done."""


def is_let_in(given: str, now: str, later_s: float) -> bool:
    """Whether a login counts that was given under one history, so much later under another one."""
    time_s = 100.0
    context = SimpleNamespace(clock=SimpleNamespace(monotonic=lambda: time_s))
    attaching = Attaching(cast(TermContext, context), cast(Following, Obeyed()))
    following = attaching.follow(SHARD, COPY, Sight(True, given, 0), external=False)
    with pytest.raises(StopIteration):
        following.send(None)
    time_s += later_s
    return COPY.id in attaching.let_in(SHARD, Sight(True, now, 0))


def test_a_login_counts_as_long_as_its_leader_has_not_been_restarted() -> None:
    assert is_let_in("h1", "h1", 1000.0)
    assert not is_let_in("h1", "h2", 0.1)
    assert not is_let_in("h1", "", 0.1)


def test_a_login_at_a_leader_without_a_history_is_given_time_to_be_used() -> None:
    """Else the leader would be asked for another at each look, ten times a second."""
    assert is_let_in("", "", 4.0)
    assert is_let_in("", "h1", 4.0)
    assert not is_let_in("", "", 6.0)
    assert not is_let_in("", "h1", 6.0)
