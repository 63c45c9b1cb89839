"""Bugs to be planted in lives whose shards have several members."""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch

from helios.control import failover
from helios.control.failover import FailoverState
from helios.control.rounds import Quorum
from helios.coordinator.fencing import Fencing
from helios.coordinator.replicas import Replicas
from helios.model.ids import Address
from helios.router._fast_path import PARKS_READS, PARKS_WRITES
from helios.router.options import RouterOptions


def _one(members: frozenset[str]) -> int:
    return 1


def _anyone(quorum: Quorum, followers: Set[Address]) -> bool:
    return all(len(followers) >= needed for _, needed in quorum.sides)


def _the_same(state: FailoverState) -> tuple[str, bool]:
    return (state.leader if state.leader in state.detached else ""), False


def _by_offset(state: FailoverState, member: str) -> tuple[int, int, str]:
    return 0, -state.detached[member].offset, member


async def _known_at_once(self: Fencing) -> None:
    pass


_choose = failover._choose


def _unasked(state: FailoverState) -> tuple[FailoverState, tuple[failover.Effect, ...]]:
    following, effects = _choose(state)
    if effects or state.stage is not failover.Stage.DETACHING or not state.detached:
        return following, effects
    return _choose(replace(state, accepted=min(state.detached)))


_told = Replicas._answer


async def _all_well(self: Replicas, shard_id: str, *, lossy: bool = False) -> None:
    await _told(self, shard_id)


# These show where persons accept losses; the others in lives with traps.
ACCEPTED: dict[str, Callable[[], AbstractContextManager[object]]] = {
    # A loss is taken while routers may still have writes acknowledged by those that are given up.
    "loss-before-known": lambda: patch.object(Fencing, "known", _known_at_once),
    # Who answers goes on alone where too few do, and nobody has asked for that.
    "alone-unasked": lambda: patch.object(failover, "_choose", _unasked),
    # Whoever accepts a loss is told that there was none.
    "loss-untold": lambda: patch.object(Replicas, "_answer", _all_well),
}
REPLICATED: dict[str, Callable[[], AbstractContextManager[object]]] = {
    # The first member that answers is promoted, whether or not it meets every majority.
    "promote-the-first": lambda: patch("helios.control.failover._meeting", _one),
    # Whoever has what is to be acknowledged counts, a learner too.
    "learner-counted": lambda: patch.object(Quorum, "met_by", _anyone),
    # A leader that comes back leads on, though what it has may have been lost with its end.
    "restarted-leader-leads": lambda: patch("helios.control.failover._candidate", _the_same),
    # Who has come furthest is promoted, in whatever term that was.
    "offsets-across-terms": lambda: patch("helios.control.failover._behind", _by_offset),
    "reads-without-round": lambda: patch.object(RouterOptions, "parks", PARKS_WRITES),
    "writes-without-round": lambda: patch.object(RouterOptions, "parks", PARKS_READS),
    **ACCEPTED,
}
