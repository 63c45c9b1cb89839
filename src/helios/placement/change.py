"""New placements out of old ones: shards joining and leaving, keys moved by pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from helios.model.topology import ANY, Placement, Rule
from helios.placement.patterns import can_match_both
from helios.placement.rules import shortened


def with_weights(placement: Placement, weights: Mapping[str, float]) -> Placement:
    """The placement with exactly these shards on the ring; rules that name others by source are dropped."""
    on_ring = tuple(sorted(weights.items()))
    kept = tuple((point, shard) for point, shard in placement.reassigned if shard in weights)
    rules = tuple(rule for rule in placement.rules if rule.source == ANY or rule.source in weights)
    return replace(placement, weights=on_ring, reassigned=kept, rules=shortened(rules))


def without_shard(placement: Placement, shard: str) -> Placement:
    """The placement in which `shard` owns nothing: keys that a rule had sent there go back to the ring."""
    rules = tuple(rule for rule in placement.rules if shard not in (rule.source, rule.target))
    weights = {other: weight for other, weight in placement.weights if other != shard}
    return with_weights(replace(placement, rules=rules), weights)


def moved(placement: Placement, source: str, target: str, pattern: str) -> Placement:
    """The placement in which the keys that `source` owns and that match `pattern` live on `target`.

    Keys that are on `source` by a rule get a rule that requires both patterns, and keys that are there by
    ring get one of their own. But where a rule had moved that very pattern from `target` to `source`, this is
    taken as its undo: what is on `source` by ring stays there, and what came from `target` leaves no rule.
    From ANY source a pattern lives on `target` ever after; to ANY, keys are where the ring has them again.
    """
    if source == ANY:
        return replace(placement, rules=shortened((Rule(ANY, target, (pattern,)), *placement.rules)))
    if target == ANY:
        return _returned(placement, source, pattern)
    undo = Rule(target, source, (pattern,)) in placement.rules
    own_leave = source in dict(placement.weights) and not undo
    rules: list[Rule] = []
    for rule in placement.rules:
        leaves = rule.target == source and not (undo and rule.source == source)
        if leaves and can_match_both(rule.patterns, (pattern,)):
            rules.append(Rule(rule.source, target, (*rule.patterns, pattern)))
        # A rule to where the ring has them keeps the source's own keys there.
        stays = rule.target == ANY and rule.source in (source, ANY)
        if own_leave and stays and can_match_both(rule.patterns, (pattern,)):
            rules.append(Rule(source, target, (*rule.patterns, pattern)))
        rules.append(rule)
    if own_leave:
        rules.append(Rule(source, target, (pattern,)))
    return replace(placement, rules=shortened(rules))


def _returned(placement: Placement, source: str, pattern: str) -> Placement:
    rules: list[Rule] = []
    for rule in placement.rules:
        if rule.target == source and can_match_both(rule.patterns, (pattern,)):
            rules.append(Rule(rule.source, rule.source, (*rule.patterns, pattern)))
        rules.append(rule)
    return replace(placement, rules=shortened(rules))
