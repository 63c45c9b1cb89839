"""Whether to even the cluster out, how, and why: decided from a snapshot of its load, without any I/O."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from helios.control.admission import desired_weights
from helios.control.leaders import home_of
from helios.errors import Unavailable
from helios.model.balancing import Measure, QuietHours, Strategy
from helios.model.topology import Placement, Topology
from helios.placement.balance import THRESHOLD, BalancePlan, band_of, plan
from helios.placement.change import with_weights
from helios.placement.load import Load, Spread, estimate, spread
from helios.placement.rules import flows

NOTHING_TO_MOVE = "balanced, nothing to move"


@dataclass(frozen=True, slots=True)
class RebalancePolicy:
    """The settings that decide about rebalancing.

    A shard that has just taken part in a move rests for `rest_s`. A snapshot older than `stale_s` decides nothing.
    """

    strategy: Strategy = Strategy.MINIMIZE_MOVEMENT
    by: Measure = Measure.KEYS
    threshold: float = THRESHOLD
    rest_s: float = 600.0
    stale_s: float = 60.0
    quiet: tuple[QuietHours, ...] = ()


@dataclass(frozen=True, slots=True)
class Rebalancing:
    """What is to be done: the placement, one sentence that says why, and what it costs and brings."""

    placement: Placement
    reason: str
    plan: BalancePlan


def decide(
    topology: Topology,
    load: Load,
    policy: RebalancePolicy,
    *,
    now_s: float,
    minute_of_day: int,
    rested: Mapping[str, float],
) -> Rebalancing | None:
    """What to do unasked, None for nothing.

    It begins only when some shard that can be helped is beyond the threshold, whichever strategy then
    says how far to go: so `uniform` does not run after every key. Nothing is begun while a transition
    runs, in quiet hours, on a snapshot that is old or lacks a shard, or where there is so little load that chance
    alone makes it uneven. `now_s` is on the clock of the
    snapshot's `measured_at_s`; `rested` tells for shards that have moved how many seconds ago that was.
    Silent shards are left as they are, as with `propose`, which says what it raises.
    """
    if topology.transition is not None or not topology.sharding_enabled:
        return None
    if now_s - load.measured_at_s > policy.stale_s or any(quiet.covers(minute_of_day) for quiet in policy.quiet):
        return None
    weights = dict(topology.placement.weights)
    if not load.shards.keys() >= weights.keys():
        return None
    if weights == desired_weights(topology) and not _is_more_than_chance(load, policy, len(weights)):
        return None
    resting = {shard for shard, since_s in rested.items() if since_s < policy.rest_s}
    due = _planned(topology, load, policy, Strategy.MINIMIZE_MOVEMENT, resting)
    if due is None or policy.strategy is Strategy.MINIMIZE_MOVEMENT:
        return due
    return _planned(topology, load, policy, policy.strategy, resting)


def _is_more_than_chance(load: Load, policy: RebalancePolicy, shards: int) -> bool:
    """Whether there is so much load that chance alone rarely takes a shard beyond the threshold.

    Keys come to a shard, and operations in a second, as hashing and clients will have it: n of them scatter by the
    root of n, and three times that is what is called rare here. Moving a few keys about would mend nothing.
    """
    measure = Measure.OPS if policy.by is Measure.OPS else Measure.KEYS
    total = sum(one.by(measure) for one in load.shards.values())
    return total >= shards * (3 / policy.threshold) ** 2


def propose(topology: Topology, load: Load, policy: RebalancePolicy) -> Rebalancing | None:
    """What to do when somebody asks for it, None where nothing is worth it: no shard rests, no hour is quiet.

    With a transition running it is what to do behind it: the transition's next placement counts as the
    current one. The snapshot should then be the last from before it, since loads that are measured on
    the way count keys twice or not at all; shards that take part in it stay as they are.

    So do shards that are silent: nothing can be moved from or to them, and the others are evened out among
    themselves. Raises Unavailable where shards come, go or have another weight meanwhile, since that concerns all.
    """
    if not topology.sharding_enabled:
        return None
    return _planned(topology, load, policy, policy.strategy, frozenset())


def _planned(
    topology: Topology, load: Load, policy: RebalancePolicy, strategy: Strategy, resting: Set[str]
) -> Rebalancing | None:
    transition = topology.transition
    if transition is None:
        current = topology.placement
        base = with_weights(current, desired_weights(topology))
    else:
        current = base = transition.next
        resting = resting | {shard for pair in transition.pairs for shard in (pair.source, pair.target)}
    if not topology.placement.weights or not base.weights:
        return None
    silent = _concerned(load, current, base)
    if silent and current.weights != base.weights:
        raise Unavailable(
            f"{_changed(dict(current.weights), dict(base.weights))}, which needs every node, and "
            f"{_said(load.silent, silent)}: bring it back first"
        )
    # A node whose rules lead to a silent one would pass on what it got.
    resting = (
        resting | silent | {source for source, target in flows(base.rules, dict(base.weights)) if target in silent}
    )
    arcs = estimate(load, topology.placement, base, policy.by)
    made = plan(arcs, current, strategy, threshold=policy.threshold, base=base, resting=resting)
    if made is None:
        return None
    return Rebalancing(made.placement, _reason(current, base, made, policy.by, silent) + _left(load, silent), made)


def outcome(made: Rebalancing | None, load: Load, topology: Topology, policy: RebalancePolicy) -> str:
    """What is done and why, or that nothing is, in one sentence for people."""
    if made is not None:
        return made.reason + _going_home(topology)
    # What silent shards carry may be a guess, and must not make the others look uneven.
    carried = {shard: one.by(policy.by) for shard, one in load.shards.items() if shard not in load.silent}
    weights = {shard: weight for shard, weight in desired_weights(topology).items() if shard not in load.silent}
    deviations = spread(carried, weights).deviations
    shard = max(deviations, key=lambda one: (abs(deviations[one]), one), default="")
    if shard and abs(deviations[shard]) > band_of(policy.strategy, policy.threshold):
        said = f"nothing worth moving, though {_carries(shard, deviations[shard], policy.by)}"
    else:
        said = NOTHING_TO_MOVE
    return said + _left(load, load.silent.keys()) + _going_home(topology)


def _concerned(load: Load, *placements: Placement) -> Set[str]:
    """The silent shards that own something or are to."""
    named = {shard for one in placements for shard, _ in one.weights}
    named |= {rule.target for one in placements for rule in one.rules}  # a target that is no shard is never silent
    return load.silent.keys() & named


def _left(load: Load, silent: Set[str]) -> str:
    return f"; left as it is: {_said(load.silent, silent)}" if silent else ""


def _going_home(topology: Topology) -> str:
    """Which shards are led elsewhere than where they began; whoever asks for a rebalance lets their leaders go home."""
    shards = [shard.id for shard in topology.shards if home_of(shard, ())]
    if not shards:
        return ""
    leaders = "1 leader goes" if len(shards) == 1 else f"{len(shards)} leaders go"
    return f"; {leaders} home as soon as all is in sync there: {', '.join(shards)}"


def _said(reasons: Mapping[str, str], silent: Set[str]) -> str:
    """Which shards do not answer, and what the first one's fault is."""
    names = sorted(silent)
    return f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} not answer ({reasons[names[0]]})"


def _reason(current: Placement, base: Placement, made: BalancePlan, by: Measure, silent: Set[str]) -> str:
    """Why, and what it costs, in one sentence for the log and the history; silent shards are spoken of by others."""
    what = _word(by)
    total = sum(made.before.loads.values())
    if current.weights != base.weights:
        why = _changed(dict(current.weights), dict(base.weights))
    else:
        shard, deviation = max(
            made.before.deviations.items(),
            # A shard that cannot be helped is not the reason.
            key=lambda item: (item[0] not in made.out_of_reach, abs(item[1]), item[0]),
        )
        why = f"{_carries(shard, deviation, by)}, where {made.band:.0%} is allowed"
    if not total:
        return f"{why}: nothing has to move"
    return (
        f"{why}: moving {made.moved / total:.2%} of all {what} (the least possible is {made.least / total:.2%}) "
        f"brings the worst deviation from {_worst(made.before, silent):.1%} to {_worst(made.after, silent):.1%}"
    )


def _carries(shard: str, deviation: float, by: Measure) -> str:
    return f"{shard} carries {abs(deviation):.1%} {'more' if deviation > 0 else 'less'} {_word(by)} than its share"


def _word(by: Measure) -> str:
    return "operations" if by is Measure.OPS else by.value


def _worst(found: Spread, silent: Set[str]) -> float:
    return max((abs(off) for shard, off in found.deviations.items() if shard not in silent), default=0.0)


def _changed(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Which shards come, go or have another weight."""
    groups = (
        ("joins", sorted(after.keys() - before.keys())),
        ("leaves", sorted(before.keys() - after.keys())),
        ("has another weight", sorted(s for s in after.keys() & before.keys() if after[s] != before[s])),
    )
    return ", ".join(f"{shard} {verb}" for verb, shards in groups for shard in shards)
