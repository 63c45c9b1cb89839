"""Bugs to be planted in lives whose shards have several members."""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import AbstractContextManager
from unittest.mock import patch

from helios.control.failover import FailoverState
from helios.control.rounds import Quorum
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
}
