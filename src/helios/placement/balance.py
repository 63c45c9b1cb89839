"""Evening out: which ring points to give to other shards, so that every shard comes near its fair share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import fsum

from helios.model.balancing import Strategy
from helios.model.topology import Placement
from helios.placement.load import ArcLoads, Spread, owners_at, spread
from helios.placement.patterns import EVERYTHING
from helios.placement.point_assignment import PointAssignment
from helios.placement.ring import points_of
from helios.placement.rules import flows
from helios.placement.table import table_of
from helios.placement.targets import Scope

UNIFORM_BAND = 0.02
THRESHOLD = 0.30
# The part of what lies outside the band that a step must remove to be worth moving keys for.
MARGIN = 0.10


def band_of(strategy: Strategy, threshold: float) -> float:
    """The deviation from its fair share that a strategy leaves to a shard."""
    return min(UNIFORM_BAND, threshold) if strategy is Strategy.UNIFORM else threshold


@dataclass(frozen=True, slots=True)
class BalancePlan:
    """A new placement and what it costs and brings, in the units of the load that it was made from.

    `least` is the least that any way of moving needs to bring every shard as far inside the band as
    plans aim (where weights change: to its fair share), or else as near as this plan does.
    `out_of_reach` are the shards that cannot come to their fair share, with the load that they must
    keep: one arc that is more than it (arcs cannot be split), load by rules, or rest. `within` tells
    whether every shard ends inside the band.
    """

    placement: Placement
    before: Spread
    after: Spread
    flows: Mapping[tuple[str, str], float]
    least: float
    band: float
    out_of_reach: Mapping[str, float]

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
    target together with the point. It takes points unless its rules would pass most of them on.

    On the load that a plan expects to leave, planning again gives None: what is inside the band is
    left alone, and what could not be brought inside is only touched again for an improvement by
    `MARGIN`. Costs O(points · log points) and memory of that order; the same arguments always give the
    same plan.
    """
    following = current if base is None else base
    if not current.weights or not following.weights:
        return None
    weights = dict(following.weights)
    ring = table_of(following).ring
    owners = list(ring.point_owners)
    heaviness = _onto(arcs, ring.positions)
    sources, emptied = _ruled_by(following, arcs)
    scope = Scope(
        weights=weights,
        band=band_of(strategy, threshold),
        giving=weights.keys() - resting - sources,
        taking=weights.keys() - resting - emptied,
        forwards=arcs.forwards,
    )
    measured = owners_at(current, ring.positions)
    first, last = _evened(_Setting(scope, measured, heaviness, arcs.ruled), owners)
    if last.owners == owners and following == current:
        return None
    loads = arcs.owned(current)
    before = spread(loads, weights)
    return BalancePlan(
        placement=_reassigned(following, ring.positions, owners, last.owners),
        before=before,
        after=Spread(last.loads, before.fair),
        flows=_flows(arcs, current, ring.positions, last.owners),
        least=first.targets.least(
            loads, last.loads, first.targets.aim if current.weights == following.weights else 0.0
        ),
        band=scope.band,
        out_of_reach={shard: first.targets.centre[shard] for shard in sorted(first.targets.full)},
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """What stays the same while owners change."""

    scope: Scope
    measured: Sequence[str]
    heaviness: Sequence[float]
    ruled: Mapping[str, float]

    def assignment(self, owners: Sequence[str]) -> PointAssignment:
        """An assignment with all its sums computed again."""
        return PointAssignment(self.scope, self.measured, owners, self.heaviness, self.ruled)


def _evened(setting: _Setting, owners: Sequence[str]) -> tuple[PointAssignment, PointAssignment]:
    """The assignment before and after as many passes as each improve by a margin.

    Every pass begins with sums made afresh from the owners. So planning again on the outcome repeats
    exactly the pass that was rejected here, and rejects it too. Every pass must lower the variance as
    well, which depends on nothing but the owners: so no sequence of passes, or of plans, returns to
    where it was.
    """
    first = assignment = setting.assignment(owners)
    while outside := assignment.outside(assignment.loads):
        varied = _variance(assignment.loads, setting.scope.weights)
        trial = assignment.copy()
        trial.flow()
        trial.refine()
        reached = setting.assignment(trial.owners)
        if (
            assignment.outside(reached.loads) > outside * (1 - MARGIN)
            or _variance(reached.loads, setting.scope.weights) >= varied
        ):
            break
        assignment = reached
    return first, assignment


def _ruled_by(placement: Placement, arcs: ArcLoads) -> tuple[set[str], set[str]]:
    """The shards that rules take keys from, and those of them that would not keep half of what they got."""
    homes = dict(placement.weights)
    everything = [rule for rule in placement.rules if rule.patterns == (EVERYTHING,)]
    emptied = {source for source, _ in flows(everything, homes)}
    emptied.update(shard for shard, parts in arcs.forwards.items() if sum(parts.values()) > 0.5)
    return {source for source, _ in flows(placement.rules, homes)}, emptied


def _variance(loads: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return fsum(loads[shard] ** 2 / weight for shard, weight in weights.items())


def _onto(arcs: ArcLoads, points: Sequence[int]) -> Sequence[float]:
    """The load of each ring point's arc, out of stretches that may be finer."""
    if points == arcs.positions:
        return arcs.loads
    total = [0.0] * len(points)
    index, last = 0, len(points)
    for position, load in zip(arcs.positions, arcs.loads, strict=True):
        while index < last and points[index] < position:
            index += 1
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


def _flows(
    arcs: ArcLoads, current: Placement, points: Sequence[int], final: Sequence[str]
) -> dict[tuple[str, str], float]:
    """The load that goes from each shard to each other by ring."""
    flows: dict[tuple[str, str], float] = {}
    index, last = 0, len(points)
    for place, old, load in zip(arcs.positions, owners_at(current, arcs.positions), arcs.loads, strict=True):
        while index < last and points[index] < place:
            index += 1
        new = final[index if index < last else 0]
        if old != new and load:
            flows[old, new] = flows.get((old, new), 0.0) + load
    return flows
