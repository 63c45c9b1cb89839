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

    Where a rule had moved that very pattern from `target` to `source`, the move is undone and the rule
    goes. Otherwise keys that are on `source` by a rule get a rule that requires both patterns, and
    keys that are there by ring get one of their own.
    """
    undone = Rule(target, source, (pattern,))
    if undone in placement.rules:
        remaining = tuple(rule for rule in placement.rules if rule != undone)
        return replace(placement, rules=_normalised(remaining))
    rules: list[Rule] = []
    for rule in placement.rules:
        if rule.target == source:
            rules.append(Rule(rule.source, target, _both(rule.patterns, pattern)))
        rules.append(rule)
    if source in dict(placement.weights):
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
    followed: set[str] = set()
    for rule in reversed(kept):
        # A rule that leaves keys where they are only matters as a shield before another one.
        if rule.source != rule.target or rule.source in followed:
            needed.append(rule)
            followed.add(rule.source)
    return tuple(reversed(needed))
