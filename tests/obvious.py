"""Slow, obvious versions of what the placement does fast: the reference of its property tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helios.model.topology import ANY, Placement, Rule
from helios.placement.ring import points_of, position

Points = Mapping[str, Sequence[int]]


def obvious_walk(points: Points, place: int) -> list[str]:
    """The shards of all (position, shard) pairs clockwise from a place; at one position only the least id counts."""
    pairs = sorted((point, shard) for shard, mine in points.items() for point in mine)
    first = [(point, shard) for i, (point, shard) in enumerate(pairs) if i == 0 or pairs[i - 1][0] != point]
    return [s for p, s in first if p >= place] + [s for p, s in first if p < place]


def obvious_match(pattern: bytes, key: bytes) -> bool:
    """Whether the whole key matches, by trying everything."""
    if not pattern:
        return not key
    if pattern[:1] == b"*":
        return obvious_match(pattern[1:], key) or (key != b"" and obvious_match(pattern, key[1:]))
    if not key:
        return False
    if pattern[:1] == b"?":
        return obvious_match(pattern[1:], key[1:])
    if pattern[:1] == b"[":
        found, rest = in_class(pattern[1:], key[0])
        return found and obvious_match(rest, key[1:])
    if pattern[:1] == b"\\" and len(pattern) > 1:
        pattern = pattern[1:]
    return pattern[0] == key[0] and obvious_match(pattern[1:], key[1:])


def in_class(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    """Whether a byte is in the class whose inside begins the pattern, and the pattern behind the class."""
    negated = pattern[:1] == b"^"
    if negated:
        pattern = pattern[1:]
    found = False
    while pattern and pattern[:1] != b"]":
        if pattern[:1] == b"\\" and len(pattern) > 1:
            found |= pattern[1] == byte
            pattern = pattern[2:]
        elif len(pattern) > 2 and pattern[1:2] == b"-":
            found |= min(pattern[0], pattern[2]) <= byte <= max(pattern[0], pattern[2])
            pattern = pattern[3:]
        else:
            found |= pattern[0] == byte
            pattern = pattern[1:]
    return found is not negated, pattern[1:]


def deciding_rule(placement: Placement, key: bytes) -> Rule | None:
    """The first rule that applies to a key, None where the ring alone decides."""
    home = obvious_home(placement, key)
    for rule in placement.rules:
        if rule.source in (home, ANY) and all(obvious_match(pattern.encode(), key) for pattern in rule.patterns):
            return rule
    return None


def obvious_home(placement: Placement, key: bytes) -> str:
    """The shard that the ring gives a key to, without reassigned points."""
    points = {shard: points_of(shard, weight, placement.virtual_nodes) for shard, weight in placement.weights}
    return obvious_walk(points, position(key))[0]


def obvious_owner(placement: Placement, key: bytes) -> str:
    """The shard that a key lives on."""
    rule = deciding_rule(placement, key)
    home = obvious_home(placement, key)
    return home if rule is None or rule.target == ANY else rule.target
