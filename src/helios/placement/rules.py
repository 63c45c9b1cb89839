"""Rule lists: which rule decides, and the shortest list that says the same."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from helios.model.topology import ANY, Rule
from helios.placement.patterns import can_match, can_match_both, includes, literal_beginning, together


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the keys of one shard of the ring come to that match all of the patterns, unless an earlier one says."""

    patterns: tuple[str, ...]
    shard: str


def outcomes(rules: Iterable[Rule], home: str) -> list[Outcome]:
    """What becomes of the keys that the ring gives to `home`, in the order in which it is tried; the last takes all."""
    tried = [Outcome(rule.patterns, rule.owner(home)) for rule in rules if rule.source in (home, ANY)]
    return [*tried, Outcome((), home)]


def flows(rules: Iterable[Rule], homes: Iterable[str]) -> set[tuple[str, str]]:
    """From which shards of the ring, `homes`, the rules take keys, and to which shard each time."""
    named = {(rule.source, rule.target) for rule in rules}
    found = {(source, source if target == ANY else target) for source, target in named if source != ANY}
    for home in homes:
        found.update((home, home if target == ANY else target) for source, target in named if source == ANY)
    return {(source, target) for source, target in found if source != target}


def shortened(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules that place every key as the given ones do, without those that decide nothing."""
    kept = [replace(rule, patterns=together(rule.patterns)) for rule in rules if can_match(rule.patterns)]
    while True:
        before = list(kept)
        kept = _without_shadowed(kept)
        kept = _widened(kept)
        kept = _without_needless(kept)
        if kept == before:
            return tuple(kept)


def _without_shadowed(rules: Sequence[Rule]) -> list[Rule]:
    """Without the rules whose keys have all been taken by an earlier one."""
    near = _Neighbours(rules)
    return [
        rule
        for place, rule in enumerate(rules)
        if not any(
            other < place and _speaks_of(rules[other], rule) and includes(rules[other].patterns, rule.patterns)
            for other in near.of(rule.patterns)
        )
    ]


def _without_needless(rules: Sequence[Rule]) -> list[Rule]:
    """Without the rules whose keys would come to the same shard if they were not there."""
    near = _Neighbours(rules)
    kept = list(rules)
    dropped: set[int] = set()
    for place in reversed(range(len(rules))):
        rule = rules[place]
        behind = (rules[other] for other in near.of(rule.patterns) if other > place and other not in dropped)
        if _ends_alike(rule, rule.patterns, behind):
            dropped.add(place)
    return [rule for place, rule in enumerate(kept) if place not in dropped]


def _widened(rules: Sequence[Rule]) -> list[Rule]:
    """The same with fewer patterns where a rule asks for more than it needs: what it would take in ends there anyway.

    So `a:* and *:1` before `a:*` needs only `*:1` if the rules behind bring every other key of `*:1` to the same shard.
    """
    near = _Neighbours(rules)
    found = list(rules)
    for place, rule in enumerate(rules):
        for pattern in rule.patterns:
            if len(found[place].patterns) == 1:
                break
            fewer = tuple(other for other in found[place].patterns if other != pattern)
            behind = (
                found[other]
                for other in near.of(fewer)
                if other > place and not includes((pattern,), found[other].patterns)
            )
            if _ends_alike(rule, fewer, behind):
                found[place] = replace(rule, patterns=fewer)
    return found


def _ends_alike(rule: Rule, patterns: tuple[str, ...], behind: Iterable[Rule]) -> bool:
    """Whether the keys of the rule's source that match `patterns` come to its target by what stands behind it."""
    for other in behind:
        if not (_speaks_of(other, rule) or _speaks_of(rule, other)) or not can_match_both(patterns, other.patterns):
            continue
        if not _alike(rule, other):
            return False
        if _speaks_of(other, rule) and includes(other.patterns, patterns):
            return True
    # Behind the last rule the ring decides.
    return rule.target == ANY or rule.target == rule.source


def _alike(rule: Rule, other: Rule) -> bool:
    """Whether both bring keys to the same shard, whichever of their common sources the keys have."""
    homes = {source for source in (rule.source, other.source) if source != ANY}
    if not homes:
        return rule.target == other.target
    return all(rule.owner(home) == other.owner(home) for home in homes)


def _speaks_of(rule: Rule, other: Rule) -> bool:
    """Whether the rule holds for every source that the other one holds for."""
    return rule.source in (other.source, ANY)


class _Neighbours:
    """Rules by their literal beginnings: only those can share a key of which one begins as the other does."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._places: dict[bytes, list[int]] = {}
        for place, rule in enumerate(rules):
            self._places.setdefault(literal_beginning(rule.patterns), []).append(place)
        self._beginnings = sorted(self._places)

    def of(self, patterns: Sequence[str]) -> list[int]:
        """The places, ascending, of the rules that may share a key with the patterns."""
        return sorted(self._near(literal_beginning(patterns)))

    def _near(self, beginning: bytes) -> Iterator[int]:
        for size in range(len(beginning)):
            yield from self._places.get(beginning[:size], ())
        index = bisect_left(self._beginnings, beginning)
        while index < len(self._beginnings) and self._beginnings[index].startswith(beginning):
            yield from self._places[self._beginnings[index]]
            index += 1
