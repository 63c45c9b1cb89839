"""A cluster in numbers: nodes that come, go, change weight and are evened out, and what each step moves."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helios.cli.keyspace import Keyspace
from helios.errors import InvalidInput, NotFound, Refused
from helios.model.balancing import Measure, Strategy
from helios.model.ids import check_id
from helios.model.topology import Placement
from helios.placement.balance import BalancePlan, plan
from helios.placement.change import with_weights, without_shard
from helios.placement.load import ArcLoads, Spread, owners_at, spread
from helios.placement.ring import Ring, points_of
from helios.placement.table import table_of

VERBS = ("add", "remove", "reweight", "rebalance")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens: `add:ID[=WEIGHT]`, `remove:ID`, `reweight:ID=WEIGHT` or `rebalance[:STRATEGY]`."""

    text: str
    verb: str
    shard: str = ""
    weight: float = 1.0
    strategy: Strategy | None = None

    @classmethod
    def parse(cls, text: str) -> Step:
        """The step that a text names; raises InvalidInput with what is possible."""
        verb, _, rest = text.partition(":")
        shard, equals, weight = rest.partition("=")
        if verb == "rebalance" and not equals:
            return cls(text, verb, strategy=strategy_named(rest) if rest else None)
        if verb not in VERBS[:3] or (verb == "remove" and equals) or (verb == "reweight" and not equals):
            raise InvalidInput(
                f"{text!r} is not a step: write add:ID, add:ID=WEIGHT, remove:ID, reweight:ID=WEIGHT, "
                "rebalance or rebalance:STRATEGY"
            )
        return cls(text, verb, check_id("node", shard), weight_of(weight) if equals else 1.0)


def strategy_named(text: str) -> Strategy:
    """The strategy of that name; raises InvalidInput."""
    try:
        return Strategy(text.replace("-", "_"))
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a strategy: use {' or '.join(Strategy)}") from error


def weight_of(text: str) -> float:
    """A weight as it is written; raises InvalidInput."""
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight <= 1000:
        raise InvalidInput(f"{text!r} is not a weight: use a number above 0, at most 1000")
    return weight


def edges_of_all(weights: Mapping[str, float], virtual_nodes: int, steps: Sequence[Step]) -> list[int]:
    """Every position where a ring point is at some time: keys between two of them always move together.

    Raises NotFound, Refused or InvalidInput where a step is not possible after those before it.
    """
    most = now = dict(weights)
    _check_points(now, virtual_nodes)
    for step in steps:
        now = _after(step, now)
        _check_points(now, virtual_nodes)
        most = {shard: max(most.get(shard, 0.0), now.get(shard, 0.0)) for shard in {**most, **now}}
    return sorted({point for shard, weight in most.items() for point in points_of(shard, weight, virtual_nodes)})


def _after(step: Step, weights: dict[str, float]) -> dict[str, float]:
    """The weights after a step."""
    if step.verb == "rebalance":
        return weights
    if step.verb == "add" and step.shard in weights:
        raise Refused(f"{step.text}: {step.shard} is a node already")
    if step.verb != "add" and step.shard not in weights:
        raise NotFound(f"{step.text}: there is no node {step.shard!r}")
    if step.verb == "remove":
        if len(weights) == 1:
            raise Refused(f"{step.text}: {step.shard} is the last node")
        return {shard: weight for shard, weight in weights.items() if shard != step.shard}
    return {**weights, step.shard: step.weight}


@dataclass(frozen=True, slots=True)
class Report:
    """How the cluster stands after a step, and what the step moved.

    `standing` and `least` are in the measure that is balanced by. The least movement for nodes that come,
    go or change weight is what the fair shares shift by; for a rebalance it is its plan's.
    """

    step: str
    standing: Spread
    weights: Mapping[str, float]
    keys: Mapping[str, float]
    moved: float
    moved_keys: float
    least: float
    pairs: int
    plan: BalancePlan | None
    planning_s: float
    points: int
    reassigned: int
    ring_bytes: int

    @property
    def total(self) -> float:
        """All load."""
        return sum(self.standing.loads.values())

    def as_dict(self) -> dict[str, Any]:
        """All figures, for programs. Deviations and shares are parts of one."""
        deviations = self.standing.deviations
        total = self.total or 1.0
        return {
            "step": self.step,
            "nodes": [
                {
                    "id": shard,
                    "weight": weight,
                    "share": self.standing.loads[shard] / total,
                    "load": self.standing.loads[shard],
                    "keys": round(self.keys[shard]),
                    "deviation": deviations[shard],
                }
                for shard, weight in sorted(self.weights.items())
            ],
            "max_deviation": max(deviations.values()),
            "min_deviation": min(deviations.values()),
            "cv": self.standing.cv,
            "moved_keys": round(self.moved_keys),
            "moved_share": self.moved / total,
            "min_share": self.least / total,
            "pairs": self.pairs,
            "out_of_reach": sorted(self.plan.out_of_reach) if self.plan is not None else [],
            "planning_s": round(self.planning_s, 3),
            "points": self.points,
            "reassigned_points": self.reassigned,
            "ring_bytes": self.ring_bytes,
            "ring_bytes_per_node": round(self.ring_bytes / len(self.weights)),
        }


class Simulation:
    """A placement, the keys under it, and the steps that change it. Each step costs O(points · log points)."""

    def __init__(
        self,
        weights: Mapping[str, float],
        virtual_nodes: int,
        edges: Sequence[int],
        keyspace: Keyspace,
        by: Measure,
        strategy: Strategy,
        threshold: float,
    ) -> None:
        """`edges` must hold the points of every step to come (`edges_of_all`)."""
        self._arcs = ArcLoads(edges, keyspace.by(by))
        self._keys = keyspace.keys
        self._strategy, self._threshold = strategy, threshold
        self.placement = with_weights(Placement(virtual_nodes), weights)
        self._owners = owners_at(self.placement, edges)

    def start(self) -> Report:
        """How the cluster stands before any step."""
        return self._report("start", self.placement, None, 0.0)

    def take(self, step: Step) -> Report:
        """Carry out one step, one of those that the edges were made for."""
        began = time.process_time()
        if step.verb == "rebalance":
            made = plan(self._arcs, self.placement, step.strategy or self._strategy, threshold=self._threshold)
            following = self.placement if made is None else made.placement
        else:
            made = None
            following = self._with(step)
        return self._report(step.text, following, made, time.process_time() - began)

    def _with(self, step: Step) -> Placement:
        if step.verb == "remove":
            return without_shard(self.placement, step.shard)
        return with_weights(self.placement, _after(step, dict(self.placement.weights)))

    def _report(self, step: str, following: Placement, made: BalancePlan | None, planning_s: float) -> Report:
        before, self.placement = self.placement, following
        owners, self._owners = self._owners, owners_at(following, self._arcs.positions)
        weights = dict(following.weights)
        loads, keys = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
        moved = moved_keys = 0.0
        pairs = set()
        for old, new, load, count in zip(owners, self._owners, self._arcs.loads, self._keys, strict=True):
            loads[new] += load
            keys[new] += count
            if old != new:
                moved += load
                moved_keys += count
                pairs.add((old, new))
        standing = spread(loads, weights)
        ring = table_of(following).ring
        if made is not None:
            least = made.least
        else:
            least = _shift(standing.fair, dict(before.weights)) if before.weights != following.weights else 0.0
        return Report(
            step=step,
            standing=standing,
            weights=weights,
            keys=keys,
            moved=moved,
            moved_keys=moved_keys,
            least=least,
            pairs=len(pairs),
            plan=made,
            planning_s=planning_s,
            points=len(ring),
            reassigned=len(following.reassigned),
            ring_bytes=ring_bytes(ring),
        )


def ring_bytes(ring: Ring) -> int:
    """What a ring takes in the memory of a router: its two lists and the positions in them. Ids are shared."""
    positions = ring.positions
    return sys.getsizeof(positions) + sys.getsizeof(ring.point_owners) + sum(map(sys.getsizeof, positions))


def _shift(fair: Mapping[str, float], before: Mapping[str, float]) -> float:
    """What fair shares grow by, together: what any placement would have to move."""
    total, weight_sum = sum(fair.values()), sum(before.values())
    return sum(max(0.0, share - total * before.get(shard, 0.0) / weight_sum) for shard, share in fair.items())


def _check_points(weights: Mapping[str, float], virtual_nodes: int) -> None:
    for shard, weight in weights.items():
        if round(virtual_nodes * weight) < 1:
            raise InvalidInput(f"weight {weight:g} gives {shard} no point on the ring: use a larger one")
