"""How much each stretch of the ring carries: measured totals and a sample of keys, turned into loads of arcs."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from helios.model.balancing import Measure
from helios.model.topology import Placement
from helios.placement.ring import POSITIONS
from helios.placement.rules import flows
from helios.placement.table import table_of


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """What a shard carries as measured: its keys, their bytes, and operations a second."""

    keys: float = 0.0
    bytes: float = 0.0
    ops: float = 0.0

    def by(self, measure: Measure) -> float:
        """One of the three."""
        match measure:
            case Measure.KEYS:
                return self.keys
            case Measure.BYTES:
                return self.bytes
            case Measure.OPS:
                return self.ops


@dataclass(frozen=True, slots=True)
class SampledKey:
    """A key that was found on `shard`: where it lies on the ring, its bytes, its operations a second (0: unknown)."""

    shard: str
    position: int
    bytes: float = 0.0
    ops: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """A snapshot of the cluster's load. `sample` holds keys drawn evenly from each shard; it may be empty.

    `silent` names the shards that did not answer, each with the reason: they count with what was last known of them.
    """

    shards: Mapping[str, ShardLoad]
    sample: Sequence[SampledKey] = ()
    measured_at_s: float = 0.0
    silent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArcLoads:
    """The load of stretches of the ring; each ends at its position and begins behind the one before.

    `loads` holds what the ring places, without what rules take elsewhere. That is in `ruled`, by the
    shard that has it, and no point of the ring moves it. `forwards` says, for each shard that rules
    take keys from, which part of the keys that the ring gives it goes to which shard.
    """

    positions: Sequence[int]
    loads: Sequence[float]
    ruled: Mapping[str, float] = field(default_factory=dict)
    forwards: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def owned(self, placement: Placement) -> dict[str, float]:
        """What each shard on the ring, or named in `ruled`, carries under a placement. Costs O(stretches + points)."""
        ring = table_of(placement).ring
        total = dict.fromkeys(ring.shards, 0.0)
        for shard, load in self.ruled.items():
            total[shard] = total.get(shard, 0.0) + load
        for owner, load in zip(owners_at(placement, self.positions), self.loads, strict=True):
            total[owner] += load
        return total


@dataclass(frozen=True, slots=True)
class Spread:
    """How evenly a load lies. Deviations are parts of a shard's fair share: 0.3 is 30 % more than it."""

    loads: Mapping[str, float]
    fair: Mapping[str, float]

    @property
    def deviations(self) -> dict[str, float]:
        """For each shard on the ring how far it is from its fair share; all 0 where nothing is carried."""
        return {shard: self.loads.get(shard, 0.0) / share - 1.0 if share else 0.0 for shard, share in self.fair.items()}

    @property
    def worst(self) -> float:
        """The greatest deviation, up or down, without its sign."""
        return max((abs(deviation) for deviation in self.deviations.values()), default=0.0)

    @property
    def cv(self) -> float:
        """The coefficient of variation: the root of the mean square deviation."""
        deviations = self.deviations.values()
        return (sum(deviation**2 for deviation in deviations) / len(deviations)) ** 0.5 if deviations else 0.0


def spread(loads: Mapping[str, float], weights: Mapping[str, float]) -> Spread:
    """The loads beside the fair share of each shard in `weights`: its part of all load by weight."""
    total, weight_sum = sum(loads.values()), sum(weights.values())
    return Spread(dict(loads), {shard: total * weight / weight_sum for shard, weight in weights.items()})


def owners_at(placement: Placement, places: Sequence[int]) -> Sequence[str]:
    """The owner by ring of each of the ascending positions: one merge, O(places + points)."""
    ring = table_of(placement).ring
    points, owners = ring.positions, ring.point_owners
    if places == points:
        return owners
    found: list[str] = []
    index, count = 0, len(points)
    for place in places:
        while index < count and points[index] < place:
            index += 1
        found.append(owners[index] if index < count else owners[0])
    return found


def edges_of(*placements: Placement) -> list[int]:
    """The positions of all ring points of the placements, ascending and without repetition."""
    rings = [table_of(placement).ring.positions for placement in dict.fromkeys(placements)]
    return list(rings[0]) if all(ring == rings[0] for ring in rings) else sorted(set().union(*rings))


def estimate(load: Load, current: Placement, following: Placement, by: Measure) -> ArcLoads:
    """The load of every arc that `current` or `following` has, by a snapshot taken under `current`.

    A shard's measured load is spread over its arcs partly by their width and partly by the keys
    sampled in them. How much the sample counts follows from itself (Bühlmann's credibility): where it
    scatters no more than hashed keys do, widths are the better guess; where hash tags or big values
    make it scatter more, the sample is; where it holds every key, it is the truth. A sampled key on
    another shard than its ring owner is there by a rule, or else a leftover, which counts nowhere.
    """
    positions = edges_of(current, following)
    owners = owners_at(current, positions)
    widths = [place - before for place, before in zip(positions, _shifted(positions), strict=True)]
    tally = _Tally(load, current, following, by, positions, owners)
    ring_load = tally.by_ring()
    expected = _expected(owners, widths, tally)
    excess = _excess(expected, tally)
    raw = [
        width if not e else width * ((1 - z) + z * seen / e)
        for width, e, seen, z in zip(widths, expected, tally.seen, _trust(expected, excess, owners, tally), strict=True)
    ]
    sums: defaultdict[str, float] = defaultdict(float)
    for owner, part in zip(owners, raw, strict=True):
        sums[owner] += part
    loads = [
        ring_load.get(owner, 0.0) * part / sums[owner] if sums[owner] else 0.0
        for owner, part in zip(owners, raw, strict=True)
    ]
    return ArcLoads(positions, loads, *tally.ruled(ring_load))


def _shifted(positions: Sequence[int]) -> list[int]:
    return [positions[-1] - POSITIONS, *positions[:-1]]


class _Tally:
    """What the sample says: mass seen in each arc, normalised to a mean of 1 a key, and what lies elsewhere by rule."""

    def __init__(
        self,
        load: Load,
        current: Placement,
        following: Placement,
        by: Measure,
        positions: Sequence[int],
        owners: Sequence[str],
    ) -> None:
        self._load, self._by = load, by
        rules = flows(current.rules, dict(current.weights))
        kept = rules & flows(following.rules, dict(following.weights))
        returning = rules - kept
        self.seen = [0.0] * len(positions)
        self.keys: defaultdict[str, int] = defaultdict(int)
        self._all: defaultdict[str, float] = defaultdict(float)
        self._by_ring: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._by_rule: defaultdict[tuple[str, str], float] = defaultdict(float)
        masses = _masses(load.sample, by)
        squares = 0.0
        for key, mass in zip(load.sample, masses, strict=True):
            index = bisect_left(positions, key.position)
            index = index if index < len(positions) else 0
            owner = owners[index]
            self._all[key.shard] += mass
            if owner == key.shard or (owner, key.shard) in returning:
                self.seen[index] += mass
                self.keys[owner] += 1
                self._by_ring[owner, key.shard] += mass
                squares += mass * mass
            elif (owner, key.shard) in kept:
                self._by_rule[owner, key.shard] += mass
        counted = sum(self.keys.values())
        # The mean square of one key's mass: 1 when every key weighs the same.
        self.scatter = squares / counted if counted else 1.0

    def by_ring(self) -> dict[str, float]:
        """The load that the ring gives to each shard. Where nothing was sampled on one, that is all it has."""
        given = {shard: self._total(shard) for shard in self._load.shards if shard not in self._all}
        for (owner, found_on), mass in sorted(self._by_ring.items()):
            given[owner] = given.get(owner, 0.0) + self._total(found_on) * (mass / self._all[found_on] if mass else 0.0)
        return given

    def _total(self, shard: str) -> float:
        measured = self._load.shards.get(shard)
        return 0.0 if measured is None else measured.by(self._by)

    def sampled_part(self, shard: str) -> float:
        """Which part of a shard's keys the sample holds, at most 1."""
        measured = self._load.shards.get(shard)
        return min(1.0, self.keys.get(shard, 0) / measured.keys) if measured is not None and measured.keys else 0.0

    def ruled(self, ring_load: Mapping[str, float]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """The loads that rules place, by target, and the parts that they take from each source."""
        by_target: dict[str, float] = {}
        by_source: dict[str, dict[str, float]] = {}
        for (source, target), mass in sorted(self._by_rule.items()):
            moved = self._total(target) * mass / self._all[target] if self._all[target] else 0.0
            by_target[target] = by_target.get(target, 0.0) + moved
            by_source.setdefault(source, {})[target] = moved
        forwards = {}
        for source, targets in by_source.items():
            given = ring_load.get(source, 0.0) + sum(targets.values())
            if given:
                forwards[source] = {target: moved / given for target, moved in targets.items()}
        return by_target, forwards


def _masses(sample: Sequence[SampledKey], by: Measure) -> list[float]:
    """How much each sampled key counts, with a mean of 1; every key alike where the sample does not say."""
    if by is Measure.KEYS:
        return [1.0] * len(sample)
    masses = [key.bytes if by is Measure.BYTES else key.ops for key in sample]
    total = sum(masses)
    return [mass * len(masses) / total for mass in masses] if total else [1.0] * len(sample)


def _expected(owners: Sequence[str], widths: Sequence[int], tally: _Tally) -> list[float]:
    """For each arc the mass that the sample would show if keys lay evenly on their shard's arcs."""
    whole: defaultdict[str, int] = defaultdict(int)
    mass: defaultdict[str, float] = defaultdict(float)
    for owner, width, seen in zip(owners, widths, tally.seen, strict=True):
        whole[owner] += width
        mass[owner] += seen
    density = {owner: mass[owner] / whole[owner] for owner in whole}
    return [density[owner] * width for owner, width in zip(owners, widths, strict=True)]


def _excess(expected: Sequence[float], tally: _Tally) -> float:
    """The square of the relative scatter between arcs that chance in sampling does not explain; 0 for hashed keys."""
    off = sum((seen - e) ** 2 for seen, e in zip(tally.seen, expected, strict=True))
    squares = sum(e * e for e in expected)
    return max(0.0, (off - tally.scatter * sum(expected)) / squares) if squares else 0.0


def _trust(expected: Sequence[float], excess: float, owners: Sequence[str], tally: _Tally) -> Iterator[float]:
    """For each arc how much the sample counts beside the width, from 0 to 1."""
    sampled = {shard: tally.sampled_part(shard) for shard in set(owners)}
    for e, owner in zip(expected, owners, strict=True):
        yield (e * excess + tally.scatter * sampled[owner]) / (e * excess + tally.scatter)
