"""Evening out: which ring points to give to other shards, so that every shard comes near its fair share."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from math import fsum

from helios.model.topology import Placement
from helios.placement.board import Board, Targets
from helios.placement.load import ArcLoads, Spread, least_movement, owners_at, spread
from helios.placement.ring import points_of
from helios.placement.table import table_of

UNIFORM_BAND = 0.02
THRESHOLD = 0.30
# A plan aims a little inside its band, so that growth or an estimate that was slightly off does not
# call for the next plan at once.
SLACK = 1 / 20
# The part of what lies outside the band that a step must remove to be worth moving keys for.
MARGIN = 0.10


class Strategy(StrEnum):
    """How far a plan evens out."""

    MINIMIZE_MOVEMENT = "minimize_movement"
    UNIFORM = "uniform"

    def band(self, threshold: float) -> float:
        """The deviation from its fair share that the strategy leaves to a shard."""
        return min(UNIFORM_BAND, threshold) if self is Strategy.UNIFORM else threshold


@dataclass(frozen=True, slots=True)
class BalancePlan:
    """A new placement and what it costs and brings, in the units of the load that it was made from.

    `least` is the least that any way of moving needs to come as far inside the band as plans aim
    (`least_movement`). `coarsest` is the load of the heaviest single arc as a part of its shard's
    fair share: arcs cannot be split, so no deviation below about half of that can be promised.
    `within` tells whether every shard ends inside the band.
    """

    placement: Placement
    before: Spread
    after: Spread
    flows: Mapping[tuple[str, str], float]
    least: float
    band: float
    coarsest: float

    @property
    def moved(self) -> float:
        """The load that changes its shard."""
        return fsum(self.flows.values())

    @property
    def within(self) -> bool:
        """Whether every shard ends inside the band."""
        return self.after.worst <= self.band + 1e-9


def plan(
    arcs: ArcLoads,
    current: Placement,
    strategy: Strategy,
    *,
    threshold: float = THRESHOLD,
    base: Placement | None = None,
    resting: Set[str] = frozenset(),
) -> BalancePlan | None:
    """The placement that brings every shard into the strategy's band by moving little; None if nothing is worth it.

    `current` is where keys are or, with a transition running, where they will be when it has ended.
    `base` is the same with other shards or weights, where those are to change in the same step; then
    there is a plan whenever it differs. `arcs` must have the edges of both (`estimate` gives them).
    Shards in `resting` neither give nor take points. A shard that is the source of a rule gives
    none either: the rule speaks of what the ring gives that shard, so its keys would leave the rule's
    target together with the point.

    On the load that a plan expects to leave, planning again gives None: what is inside the band is
    left alone, and what could not be brought inside is only touched again for an improvement by
    `MARGIN`. Costs O(points · log points) and memory of that order; the same arguments always give the
    same plan.
    """
    following = current if base is None else base
    if not following.weights:
        return None
    band = strategy.band(threshold)
    weights = dict(following.weights)
    before = spread(arcs.owned(current), weights)
    ring = table_of(following).ring
    owners = list(owners_at(following, ring.positions))
    targets = Targets(
        fair=before.fair,
        band=band,
        aim=band * (1 - SLACK),
        giving=weights.keys() - resting - {rule.source for rule in following.rules if rule.source != rule.target},
        taking=weights.keys() - resting,
        forwards=arcs.forwards,
    )
    heaviness = _onto(arcs, ring.positions)
    measured = list(owners_at(current, ring.positions)) if current.weights else owners
    final = _evened(targets, measured, owners, heaviness, arcs.ruled)
    if final == owners and following == current:
        return None
    placement = _reassigned(following, ring.positions, owners, final)
    after = Board(targets, measured, final, heaviness, arcs.ruled)
    return BalancePlan(
        placement=placement,
        before=before,
        after=Spread(dict(after.loads), before.fair),
        flows=_flows(arcs, current, placement),
        least=least_movement(before, targets.aim),
        band=band,
        coarsest=max((load / before.fair[s] for s, load in zip(final, heaviness, strict=True) if load), default=0.0),
    )


def _evened(
    targets: Targets,
    measured: Sequence[str],
    owners: Sequence[str],
    heaviness: Sequence[float],
    ruled: Mapping[str, float],
) -> list[str]:
    """The owners after as many passes as each improve by a margin.

    Every pass begins with sums made afresh from the owners. So planning again on the outcome repeats
    exactly the pass that was rejected here, and rejects it too.
    """
    best = list(owners)
    outside = Board(targets, measured, best, heaviness, ruled).outside
    while outside:
        board = Board(targets, measured, best, heaviness, ruled)
        board.flow()
        board.refine()
        reached = Board(targets, measured, board.owners, heaviness, ruled).outside
        if reached > outside * (1 - MARGIN):
            break
        best, outside = board.owners, reached
    return best


def _onto(arcs: ArcLoads, points: Sequence[int]) -> list[float]:
    """The load of each ring point's arc, out of stretches that may be finer."""
    if len(points) == len(arcs.positions):
        return list(arcs.loads)
    total = [0.0] * len(points)
    last = len(points)
    for position, load in zip(arcs.positions, arcs.loads, strict=True):
        index = bisect_left(points, position)
        total[index if index < last else 0] += load
    return total


def _reassigned(base: Placement, points: Sequence[int], owners: Sequence[str], final: Sequence[str]) -> Placement:
    """`base` with the final owners: points that are back home, or on the ring no more, are not mentioned."""
    on_ring, weights = set(points), dict(base.weights)
    given = {point: shard for point, shard in base.reassigned if point in on_ring and shard in weights}
    earlier = given.keys() & {p for p, was, becomes in zip(points, owners, final, strict=True) if was != becomes}
    given.update((p, new) for p, old, new in zip(points, owners, final, strict=True) if old != new)
    # Only a point that had been given away before can come home by being given again.
    homes: dict[str, set[int]] = {}
    for point in earlier:
        shard = given[point]
        if shard not in homes:
            homes[shard] = set(points_of(shard, weights[shard], base.virtual_nodes))
        if point in homes[shard]:
            del given[point]
    return replace(base, reassigned=tuple(sorted(given.items())))


def _flows(arcs: ArcLoads, current: Placement, following: Placement) -> dict[tuple[str, str], float]:
    """The load that goes from each shard to each other by ring."""
    flows: dict[tuple[str, str], float] = {}
    if not current.weights:
        return flows
    olds, news = owners_at(current, arcs.positions), owners_at(following, arcs.positions)
    for old, new, load in zip(olds, news, arcs.loads, strict=True):
        if old != new and load:
            flows[old, new] = flows.get((old, new), 0.0) + load
    return flows
