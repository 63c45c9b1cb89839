"""The difference of two placements: which shards give keys to which."""

from __future__ import annotations

from collections.abc import Iterator

from helios.model.topology import Placement, Rule
from helios.placement.change import implies
from helios.placement.ring import POSITIONS, Ring
from helios.placement.table import table_of


def pairs_between(current: Placement, following: Placement) -> tuple[tuple[str, str], ...]:
    """Every (source, target) whose keys may differ between the two, sorted.

    No pair that moves a key is missing. A pair can turn out to be empty, since whether two patterns
    ever match the same key is not decided here.
    """
    if not current.weights or not following.weights:
        return ()
    found: set[tuple[str, str]] = set()
    before, after = table_of(current).ring, table_of(following).ring
    for old, new in {(old, new) for old, new, _ in _arcs(before, after)}:
        found.update(_outcomes(_of(current, old), old, _of(following, new), new))
    return tuple(sorted(found))


def moved_share(current: Placement, following: Placement) -> dict[tuple[str, str], float]:
    """For each (source, target) of the rings alone the part of all positions that moves, between 0 and 1."""
    shares: dict[tuple[str, str], float] = {}
    for old, new, width in _arcs(table_of(current).ring, table_of(following).ring):
        if old != new:
            shares[old, new] = shares.get((old, new), 0.0) + width / POSITIONS
    return shares


def _arcs(before: Ring, after: Ring) -> Iterator[tuple[str, str, int]]:
    """Stretches of the ring on which neither owner changes: (old owner, new owner, width)."""
    edges = sorted(set(before.positions) | set(after.positions))
    previous = edges[-1] - POSITIONS
    for edge in edges:
        yield before.at(edge), after.at(edge), edge - previous
        previous = edge


def _of(placement: Placement, shard: str) -> list[Rule]:
    return [rule for rule in placement.rules if rule.source == shard]


def _outcomes(before: list[Rule], old: str, after: list[Rule], new: str) -> Iterator[tuple[str, str]]:
    """The (owner, next owner) that a key of one arc can have, by which rule decides in each placement."""
    for i, was in enumerate([*before, Rule(old, old, ())]):
        for j, becomes in enumerate([*after, Rule(new, new, ())]):
            atoms = {*was.patterns, *becomes.patterns}
            earlier = [*before[:i], *after[:j]]
            if was.target != becomes.target and not any(implies(rule, atoms) for rule in earlier):
                yield was.target, becomes.target
