"""The difference of two placements: which shards give keys to which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, reduce

from helios.model.topology import Placement, Topology
from helios.placement.patterns import can_match_both, common_beginning, includes, literal_beginning
from helios.placement.ring import POSITIONS, Ring
from helios.placement.rules import Outcome, outcomes
from helios.placement.table import table_of


def pairs_between(current: Placement, following: Placement) -> tuple[tuple[str, str], ...]:
    """Every (source, target) whose keys may differ between the two, sorted.

    No pair that moves a key is missing. A pair can turn out to be empty, since whether a key matches more than two
    patterns is not decided here.
    """
    return tuple(sorted(beginnings_between(current, following)))


@lru_cache(maxsize=4)
def beginnings_between(current: Placement, following: Placement) -> Mapping[tuple[str, str], bytes]:
    """The pairs, each with what all of its keys begin with: empty where the ring moves some.

    The last few are kept, since it takes a walk around both rings and each shard of a transition asks for the same.
    """
    if not current.weights or not following.weights:
        return {}
    found: dict[tuple[str, str], bytes] = {}
    before, after = table_of(current).ring, table_of(following).ring
    for old, new in {(old, new) for old, new, _ in _arcs(before, after)}:
        _between(outcomes(current.rules, old), outcomes(following.rules, new), found)
    return found


def beginning_of(topology: Topology, shard: str) -> bytes:
    """What all keys begin with that a transition takes from a shard or brings to it.

    Empty where they have nothing in common, and where the shard may hold others that it does not own.
    """
    transition = topology.transition
    if transition is None or shard in transition.unclean:
        return b""
    moves = beginnings_between(topology.placement, transition.next)
    mine = [beginning for pair, beginning in moves.items() if shard in pair]
    return reduce(common_beginning, mine) if mine else b""


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


def _between(before: Sequence[Outcome], after: Sequence[Outcome], found: dict[tuple[str, str], bytes]) -> None:
    """Find the (owner, next owner) that a key of one arc can have, by which rule decides in each placement.

    What both lists begin with decides alike, and so does what they end with where both come that far: a key
    changes its owner only by what stands between.
    """
    first = _common(before, after)
    last = _common(before[first:][::-1], after[first:][::-1])
    middles = len(before) - last, len(after) - last
    for i in range(first, len(before)):
        for j in range(first, len(after) if i < middles[0] else middles[1]):
            was, becomes = before[i], after[j]
            pair = was.shard, becomes.shard
            if was.shard == becomes.shard or found.get(pair) == b"":
                continue
            if not can_match_both(was.patterns, becomes.patterns):
                continue
            both = (*was.patterns, *becomes.patterns)
            earlier = (*before[:i], *after[first:j])
            if not any(includes(outcome.patterns, both) for outcome in earlier):
                beginning = literal_beginning(both)
                found[pair] = common_beginning(found.get(pair, beginning), beginning)


def _common(one: Sequence[Outcome], other: Sequence[Outcome]) -> int:
    """How many outcomes both begin with."""
    count = 0
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break
        count += 1
    return count
