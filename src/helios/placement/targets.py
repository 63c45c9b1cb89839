"""What each shard should carry, as far as whole points allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

# A plan aims a little inside its band, so that growth or an estimate that was slightly off does not
# call for the next plan at once.
SLACK = 1 / 20
# Differences below this part are rounding.
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
    """For each shard the load to come near (`centre`); deviations are parts of it.

    The centre is the fair share but for the shards that are `full`: one arc, or load by rules, is more
    than their share, or nothing of them may move. They should carry little besides, and they leave less
    for the rest to share. So one hot key does not keep the other shards from being evened out.
    """

    centre: Mapping[str, float]
    band: float
    full: Set[str]

    @property
    def aim(self) -> float:
        """The deviation at which a plan is content."""
        return self.band * (1 - SLACK)

    def relative(self, shard: str, load: float) -> float:
        """How far a load is above the centre of its shard, as a part of it; 0 for a shard without one."""
        centre = self.centre[shard]
        return load / centre - 1.0 if centre else 0.0

    def outside(self, shard: str, load: float, band: float) -> float:
        """How far a load is outside a band, as a part of the centre; rounding does not count."""
        excess = abs(self.relative(shard, load)) - band
        return excess if excess > ROUNDING else 0.0

    def least(self, loads: Mapping[str, float], after: Mapping[str, float], band: float) -> float:
        """The load that must at least change its shard so that every one ends inside a band, or as near as in `after`.

        The greater of two sums: what the overloaded must give, and what the underloaded must get. No way
        of moving, however fine, needs less. A shard that is not on the ring must give all.
        """
        excess = lack = 0.0
        for shard, load in loads.items():
            if shard not in self.centre:
                excess += load
                continue
            centre = self.centre[shard]
            allowed = max(band, abs(self.relative(shard, after[shard]))) * centre
            excess += max(0.0, load - centre - allowed)
            lack += max(0.0, centre - allowed - load)
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
    full: dict[str, float] = {}
    for shard in scope.weights.keys() - scope.giving:
        if shard in scope.taking:
            floors[shard] = loads[shard]
        else:
            full[shard] = loads[shard]
    free = scope.weights.keys() - full.keys()
    rest = _Rest(total - sum(full[shard] for shard in sorted(full)), {s: scope.weights[s] for s in free})
    for shard in sorted(free, key=lambda s: (-floors[s] / scope.weights[s], s)):
        if floors[shard] <= (1 + scope.band) * rest.of(shard):
            break
        full[shard] = floors[shard]
        rest.leave(shard, floors[shard], total)
    centre = {s: full[s] if s in full else weight * rest.unit for s, weight in scope.weights.items()}
    return Targets(centre, scope.band, full.keys())


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
