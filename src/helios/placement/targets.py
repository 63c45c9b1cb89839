"""What each shard should carry, as far as whole points allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

# A plan aims a little inside its band, so that growth or an estimate that was slightly off does not
# call for the next plan at once.
SLACK = 1 / 20
# Differences below this part of a fair share are rounding.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Scope:
    """What a plan may use: the weights, the band that it is to reach, and which shards may give and take points.

    `forwards` tells which part of what a shard gets by ring its rules pass on, and to which shards.
    """

    weights: Mapping[str, float]
    band: float
    giving: Set[str]
    taking: Set[str]
    forwards: Mapping[str, Mapping[str, float]]

    def kept(self, shard: str) -> float:
        """The part of what a shard gets by ring that stays there."""
        passed_on = self.forwards.get(shard)
        return 1.0 if passed_on is None else max(0.0, 1.0 - sum(passed_on.values()))


@dataclass(frozen=True, slots=True)
class Targets:
    """For each shard the load to come near (`centre`) and its unit of deviation (`fair`).

    Both are the same, the fair share, but for shards that have one arc, or load by rules, that is more
    than their share: these are out of reach, should carry little besides, and leave less for the rest
    to share. So one hot key does not keep the other shards from being evened out among themselves.
    """

    centre: Mapping[str, float]
    fair: Mapping[str, float]
    band: float

    @property
    def aim(self) -> float:
        """The deviation at which a plan is content."""
        return self.band * (1 - SLACK)

    def relative(self, shard: str, load: float) -> float:
        """How far a load is above the centre of its shard, in fair shares; 0 for a shard without one."""
        fair = self.fair[shard]
        return (load - self.centre[shard]) / fair if fair else 0.0

    def outside(self, shard: str, load: float, band: float) -> float:
        """How far a load is outside a band, in fair shares; rounding does not count."""
        excess = abs(self.relative(shard, load)) - band
        return excess if excess > ROUNDING else 0.0

    def least(self, loads: Mapping[str, float]) -> float:
        """The load that must at least change its shard to bring every shard as near as plans aim.

        The greater of two sums: what the overloaded must give, and what the underloaded must get. No way
        of moving, however fine, needs less. A shard that is not on the ring must give all.
        """
        excess = lack = 0.0
        for shard, load in loads.items():
            if shard not in self.fair:
                excess += load
            elif self.fair[shard]:
                excess += max(0.0, load - self.centre[shard] - self.aim * self.fair[shard])
                lack += max(0.0, self.centre[shard] - self.aim * self.fair[shard] - load)
        return max(excess, lack)


def targets_for(
    scope: Scope,
    loads: Mapping[str, float],
    owners: Sequence[str],
    heaviness: Sequence[float],
    ruled: Mapping[str, float],
) -> Targets:
    """The targets under which these owners carry these loads. Costs O(points + shards · log shards)."""
    floors = {shard: ruled.get(shard, 0.0) for shard in scope.weights}
    for owner, load in zip(owners, heaviness, strict=True):
        if load > floors[owner]:
            floors[owner] = load
    total = sum(loads[shard] for shard in scope.weights)
    centre: dict[str, float] = {}
    for shard in scope.weights.keys() - scope.giving:
        if shard in scope.taking:
            floors[shard] = loads[shard]
        else:
            centre[shard] = loads[shard]
    free = scope.weights.keys() - centre.keys()
    share = _Rest(total - sum(centre[shard] for shard in sorted(centre)), {s: scope.weights[s] for s in free})
    for shard in sorted(free, key=lambda s: (-floors[s] / scope.weights[s], s)):
        if floors[shard] <= (1 + scope.band) * share.of(shard):
            break
        centre[shard] = floors[shard]
        share.leave(shard, floors[shard], total)
    fair = {shard: scope.weights[shard] * share.unit for shard in scope.weights}
    return Targets({shard: centre.get(shard, fair[shard]) for shard in scope.weights}, fair, scope.band)


class _Rest:
    """What is left to share by weight."""

    def __init__(self, load: float, weights: Mapping[str, float]) -> None:
        self._load, self._weights = load, weights
        self._sum = sum(weights[shard] for shard in sorted(weights))

    @property
    def unit(self) -> float:
        """The share of weight 1."""
        return self._load / self._sum if self._sum > ROUNDING and self._load > 0 else 0.0

    def of(self, shard: str) -> float:
        return self._weights[shard] * self.unit

    def leave(self, shard: str, load: float, total: float) -> None:
        """One shard less, with the load that it keeps. What rounding leaves of nothing is nothing."""
        self._sum -= self._weights[shard]
        rest = self._load - load
        self._load = rest if rest > total * ROUNDING else 0.0
