"""New placements out of old ones: shards joining and leaving, keys moved by pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from helios.model.topology import Placement, Rule

EVERYTHING = "*"


def with_weights(placement: Placement, weights: Mapping[str, float]) -> Placement:
    """The placement with exactly these shards on the ring; rules that name others by source are dropped."""
    on_ring = tuple(sorted(weights.items()))
    kept = tuple((point, shard) for point, shard in placement.reassigned if shard in weights)
    rules = tuple(rule for rule in placement.rules if rule.source in weights)
    return replace(placement, weights=on_ring, reassigned=kept, rules=_normalised(rules))


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
    """
    undo = Rule(target, source, (pattern,)) in placement.rules
    rules: list[Rule] = []
    for rule in placement.rules:
        if rule.target == source and not (undo and rule.source == source):
            rules.append(Rule(rule.source, target, _both(rule.patterns, pattern)))
        rules.append(rule)
    if source in dict(placement.weights) and not undo:
        rules.append(Rule(source, target, (pattern,)))
    return replace(placement, rules=_normalised(rules))


def _both(patterns: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """The patterns that a key must match to match `patterns` and `pattern`."""
    needed = {*patterns, pattern} - {EVERYTHING}
    return tuple(sorted(needed)) or (EVERYTHING,)


def implies(rule: Rule, atoms: set[str]) -> bool:
    """Whether a key that matches all of `atoms` surely matches the rule."""
    return set(rule.patterns) - {EVERYTHING} <= atoms


def _normalised(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules without those that can never decide anything."""
    kept: list[Rule] = []
    for rule in rules:
        before = (other for other in kept if other.source == rule.source)
        if not any(implies(other, set(rule.patterns)) for other in before):
            kept.append(rule)
    needed: list[Rule] = []
    following: dict[str, Rule] = {}
    for rule in reversed(kept):
        # A rule only matters if without it its keys would come elsewhere: behind the last one the ring decides.
        behind = following.get(rule.source, Rule(rule.source, rule.source, (EVERYTHING,)))
        if rule.target != behind.target or not implies(behind, set(rule.patterns)):
            needed.append(rule)
            following[rule.source] = rule
    return tuple(reversed(needed))
