"""Losses that persons accept: which were, and that nothing else is lost, nor anything where it was said otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Shard, Topology

if TYPE_CHECKING:
    from tests.simulation.replicated import ReplicatedWorld

_LOST = "is lost"


class Accepted:
    """The promotions whose loss is accepted, and the shards that have gone on with one copy by such a promotion.

    What such a shard has is then what its one copy has in that moment. From then on everything holds again.
    """

    def __init__(self, world: ReplicatedWorld) -> None:
        self._world = world
        self._open: dict[str, Change] = {}
        self._untold: list[set[str]] = []  # for each loss the ids of the changes of which one must tell of it

    def told(self, change: Change) -> None:
        """The store has a change, or what became of it."""
        if change.kind is not ChangeKind.PROMOTE or not change.accept_loss:
            return
        if not change.status.ended:
            self._open[change.id] = change
            return
        self._open.pop(change.id, None)
        if change.status is ChangeStatus.DONE and _LOST in change.outcome:
            self._untold = [by for by in self._untold if change.id not in by]
        for by in self._untold:
            by.discard(change.id)
            if not by:
                said = change.error or change.outcome
                self._world.fail(f"{change.shard} went on with one copy, and all that a person was told is: {said}")

    def published(self, before: Topology, now: Topology) -> None:
        """The store has a new topology."""
        for shard in now.shards:
            was = before.shard(shard.id)
            if was is not None and _goes_on_alone(was, shard):
                self._given_up(shard)

    def _given_up(self, shard: Shard) -> None:
        world, node = self._world, shard.leading.node
        by = {change.id for change in self._open.values() if (change.shard, change.node) == (shard.id, node)}
        if not by:
            world.fail(f"{shard.id} goes on with {node} alone, which nobody has accepted")
        else:
            self._untold.append(by)
        world.note(f"{shard.id} goes on with what {node} has")
        world.losses.set_back(world.leading(shard.id))


def _goes_on_alone(was: Shard, now: Shard) -> bool:
    """Whether the other members were given up, all at once: one that they have left one by one keeps its term.

    Not so where a leader goes on that had no others before its first copy began to count.
    """
    if now.leader == was.leader and was.memberships[-1] == {was.leader}:
        return False
    return len(frozenset().union(*was.memberships)) > 1 and not now.lineage
