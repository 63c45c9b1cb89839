"""A placement ready for look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from helios.model.topology import ANY, Placement, Rule
from helios.placement._owners import Owners, RuleIndex
from helios.placement.glob import globs_of
from helios.placement.patterns import is_ends, literal_beginning, literal_ending
from helios.placement.ring import Ring


class PlacementTable:
    """Key → shard by ring and then by rules, both compiled.

    Building costs one MD5 a point; a look-up one MD5, one bisect of the points and one of what the rules' keys begin
    with, and then as many globs as there are rules that the key begins and ends like, and that ask for more.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.ring = Ring(dict(placement.weights), placement.virtual_nodes, placement.reassigned)
        common = [rule for rule in placement.rules if rule.source == ANY]
        self._rules: dict[str, Sequence[Rule]] = {
            source: [rule for rule in placement.rules if rule.source in (source, ANY)]
            for source in {rule.source for rule in placement.rules} - {ANY}
        }
        self._common: Sequence[Rule] = common
        indexes = {source: _index(rules) for source, rules in self._rules.items()}
        self.owners = Owners(self.ring.points, indexes, _index(common) if common else None)

    def owner(self, key: bytes) -> str:
        """The shard that owns `key`. Raises IndexError where no shard is on the ring."""
        return self.owners.owner(key)

    @cached_property
    def shares(self) -> dict[str, float]:
        """For each shard on the ring the part of it that it owns."""
        return self.ring.shares()

    def rule(self, key: bytes) -> Rule | None:
        """The rule that decides for `key`, None where the ring does."""
        place = self.owners.first(key)
        return None if place < 0 else self._rules.get(self.ring.owner(key), self._common)[place]


def _index(rules: Sequence[Rule]) -> RuleIndex:
    ends = [(literal_beginning(rule.patterns), literal_ending(rule.patterns)) for rule in rules]
    globs = [() if is_ends(rule.patterns) else globs_of(rule.patterns) for rule in rules]
    return RuleIndex(ends, globs, [None if rule.target == ANY else rule.target for rule in rules])


@lru_cache(maxsize=16)
def table_of(placement: Placement) -> PlacementTable:
    """The table of a placement; the last few are kept, since each epoch of a transition asks for the same two."""
    return PlacementTable(placement)
