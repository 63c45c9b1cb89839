"""A placement ready for look-ups."""

from __future__ import annotations

import re
from functools import cached_property, lru_cache

from helios.model.topology import Placement, Rule
from helios.placement._points import Points
from helios.placement.glob import globs_of
from helios.placement.ring import Ring


class PlacementTable:
    """Key → shard by ring and then by rules. Building costs one MD5 a point; look-ups one MD5 and one bisect."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.ring = Ring(dict(placement.weights), placement.virtual_nodes, placement.reassigned)
        by_source: dict[str, list[tuple[tuple[re.Pattern[bytes], ...], Rule]]] = {}
        for rule in placement.rules:
            by_source.setdefault(rule.source, []).append((globs_of(rule.patterns), rule))
        self._rules_by_source = by_source

    def owner(self, key: bytes) -> str:
        """The shard that owns `key`. Raises IndexError where no shard is on the ring."""
        shard = self.ring.owner(key)
        if self._rules_by_source:
            rule = self._deciding(shard, key)
            if rule is not None:
                return rule.target
        return shard

    @property
    def points(self) -> Points | None:
        """The ring's points where they alone decide; None where there are rules."""
        return None if self._rules_by_source else self.ring.points

    @cached_property
    def shares(self) -> dict[str, float]:
        """For each shard on the ring the part of it that it owns."""
        return self.ring.shares()

    def rule(self, key: bytes) -> Rule | None:
        """The rule that decides for `key`, None where the ring does."""
        return self._deciding(self.ring.owner(key), key)

    def _deciding(self, shard: str, key: bytes) -> Rule | None:
        for globs, rule in self._rules_by_source.get(shard, ()):
            if all(glob.match(key) for glob in globs):
                return rule
        return None


@lru_cache(maxsize=16)
def table_of(placement: Placement) -> PlacementTable:
    """The table of a placement; the last few are kept, since each epoch of a transition asks for the same two."""
    return PlacementTable(placement)
