"""Ring and Placement as plain values: who owns a key, and what a change would move, without any server.

They compute what every router computes, by the same code, so an application can plan with them, or
foretell where its keys will lie. A value never changes: each change gives a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias

from helios.admin.views import PlacementView
from helios.errors import InvalidInput, NotFound
from helios.model import topology as model
from helios.model.ids import check_id
from helios.placement.change import moved, with_weights, without_shard
from helios.placement.plan import moved_share, pairs_between
from helios.placement.table import table_of

__all__ = ["Key", "Move", "Nodes", "Placement", "Ring", "Rule"]

Rule = model.Rule

Key: TypeAlias = "str | bytes"
"""A key as a client writes it; text counts as its UTF-8 bytes."""

Nodes: TypeAlias = "Mapping[str, float] | Iterable[str]"
"""Ids of nodes with their weights, or ids alone, each of weight 1."""

_MAX_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class Move:
    """What would travel from one node to another.

    `share` is the part of all positions of the ring, between 0 and 1, that changes its owner; keys that rules place
    are left out of it. `keys` counts those of the given keys that would move; None where none were given.
    """

    source: str
    target: str
    share: float
    keys: int | None = None


class Ring:
    """Consistent hashing: each node owns points on a ring, and a key belongs to the first point at or after its own.

    A look-up costs one MD5 and one binary search over all points. Two rings are equal if their nodes, weights and
    numbers of points are, whatever the order in which the nodes were named.
    """

    __slots__ = ("_record",)

    def __init__(self, nodes: Nodes, *, points: int = 150) -> None:
        """A ring of these nodes; one of weight w has `points` times w points.

        Raises InvalidInput for an id or a weight that a cluster would not take.
        """
        self._record = _record(nodes, points)

    @classmethod
    def _of(cls, record: model.Placement) -> Ring:
        ring = cls.__new__(cls)
        ring._record = model.Placement(record.virtual_nodes, record.weights, record.reassigned)
        return ring

    @property
    def nodes(self) -> dict[str, float]:
        """The nodes by id, with their weights."""
        return dict(self._record.weights)

    @property
    def points(self) -> int:
        """How many points a node of weight 1 has."""
        return self._record.virtual_nodes

    def owner(self, key: Key) -> str:
        """The node that owns the key. Raises NotFound on a ring without nodes."""
        return table_of(_filled(self._record)).ring.owner(_bytes(key))

    def owners(self, key: Key, count: int) -> list[str]:
        """The first `count` different nodes from the key on, its owner first; all of them where there are fewer."""
        return table_of(_filled(self._record)).ring.owners(_bytes(key), count)

    def shares(self) -> dict[str, float]:
        """For each node the part of the ring that it owns, between 0 and 1."""
        return dict(table_of(self._record).shares) if self._record.weights else {}

    def counts(self, keys: Iterable[Key]) -> dict[str, int]:
        """How many of the keys each node owns."""
        return _counts(self._record, keys)

    def with_node(self, node: str, weight: float = 1.0) -> Ring:
        """The ring with one more node, or with another weight for one that it has."""
        return Ring._of(_with_node(self._record, node, weight))

    def without_node(self, node: str) -> Ring:
        """The ring without a node. Raises NotFound where it has no such node."""
        return Ring._of(_without_node(self._record, node))

    def moves(self, following: Ring, keys: Iterable[Key] | None = None) -> list[Move]:
        """What would move if `following` took this ring's place, by source and target. Costs one pass over the points.

        With `keys` it is also counted how many of them would move.
        """
        return _moves(self._record, following._record, keys)

    def __len__(self) -> int:
        return len(table_of(self._record).ring)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ring) and self._record == other._record

    def __hash__(self) -> int:
        return hash(self._record)

    def __repr__(self) -> str:
        return f"Ring({self.nodes!r}, points={self.points})"


class Placement:
    """Where keys live: by the ring, and then by rules, as `migrate` leaves them behind.

    A rule speaks of keys that the ring gives to its source and that match all of its patterns; the first rule that
    matches decides.
    """

    __slots__ = ("_record",)

    def __init__(self, nodes: Ring | Nodes, rules: Sequence[Rule] = (), *, points: int = 150) -> None:
        """The placement of a ring, or of a ring made of these nodes, with rules in the order in which they are tried.

        `points` counts only where `nodes` is no ring. Raises InvalidInput.
        """
        ring = nodes._record if isinstance(nodes, Ring) else _record(nodes, points)
        self._record = model.Placement(ring.virtual_nodes, ring.weights, ring.reassigned, tuple(rules))

    @classmethod
    def _of(cls, record: model.Placement) -> Placement:
        placement = cls.__new__(cls)
        placement._record = record
        return placement

    @property
    def ring(self) -> Ring:
        """The ring alone, without the rules."""
        return Ring._of(self._record)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order in which they are tried."""
        return self._record.rules

    @property
    def nodes(self) -> dict[str, float]:
        """The nodes on the ring by id, with their weights."""
        return dict(self._record.weights)

    def owner(self, key: Key) -> str:
        """The node that owns the key. Raises NotFound where there are no nodes."""
        return table_of(_filled(self._record)).owner(_bytes(key))

    def rule(self, key: Key) -> Rule | None:
        """The rule that decides for the key; None where the ring does."""
        return table_of(_filled(self._record)).rule(_bytes(key))

    def counts(self, keys: Iterable[Key]) -> dict[str, int]:
        """How many of the keys each node owns."""
        return _counts(self._record, keys)

    def with_node(self, node: str, weight: float = 1.0) -> Placement:
        """The placement after a node has been added with its share, or has been given another weight."""
        return Placement._of(_with_node(self._record, node, weight))

    def without_node(self, node: str) -> Placement:
        """The placement after a node has been removed: rules that name it go with it. Raises NotFound."""
        return Placement._of(_without_node(self._record, node))

    def moved(self, source: str, target: str, pattern: str = "*") -> Placement:
        """The placement after `migrate source target pattern`; the same move backwards takes its rule away again.

        A source `*` stands for every node, a target `*` for the nodes that the ring has the keys on.
        Raises NotFound for a node that is not there, InvalidInput for an empty pattern or a move to itself.
        """
        for node in (source, target):
            if node not in self.nodes and node != model.ANY:
                raise NotFound(f"there is no node {node!r}; the nodes are {', '.join(self.nodes) or 'none'}")
        if source == target or not pattern:
            raise InvalidInput("a move needs two different nodes, and a pattern that is not empty ('*' for every key)")
        return Placement._of(moved(self._record, source, target, pattern))

    def moves(self, following: Placement, keys: Iterable[Key] | None = None) -> list[Move]:
        """What would move if `following` took this placement's place, by source and target; see Ring.moves.

        A pair that only rules bring about has a share of 0, and stays in the list without `keys`, since how many
        keys match a pattern is not known then.
        """
        return _moves(self._record, following._record, keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Placement) and self._record == other._record

    def __hash__(self) -> int:
        return hash(self._record)

    def __repr__(self) -> str:
        rules = f", {list(self.rules)!r}" if self.rules else ""
        return f"Placement({self.ring!r}{rules})"


def placement_of(view: PlacementView) -> Placement:
    """The placement that a cluster has told of."""
    return Placement._of(
        model.Placement(
            view.points,
            tuple((one.node, one.weight) for one in view.nodes),
            tuple((int(one.position), one.node) for one in view.reassigned),
            tuple(Rule(rule.source, rule.target, rule.patterns) for rule in view.rules),
        )
    )


def _record(nodes: Nodes, points: int) -> model.Placement:
    if isinstance(nodes, str):
        raise InvalidInput(f"{nodes!r} is one id: put the ids of all nodes into a list, or ids and weights into a dict")
    if not 1 <= points <= _MAX_POINTS:
        raise InvalidInput(f"{points} points for a node of weight 1: use 1 to {_MAX_POINTS:,}")
    weights = nodes if isinstance(nodes, Mapping) else dict.fromkeys(nodes, 1.0)
    record = model.Placement(points)
    return with_weights(record, {node: _weight(record, node, weight) for node, weight in weights.items()})


def _weight(record: model.Placement, node: str, weight: object) -> float:
    check_id("node", node)
    if not isinstance(weight, int | float):
        raise InvalidInput(f"the weight of {node} is {weight!r}: give ids with numbers, or a list of ids alone")
    if not isfinite(weight) or round(record.virtual_nodes * weight) < 1:
        raise InvalidInput(f"weight {weight} of {node} gives it no point on the ring: use a finite, larger one")
    return float(weight)


def _with_node(record: model.Placement, node: str, weight: float) -> model.Placement:
    return with_weights(record, {**dict(record.weights), node: _weight(record, node, weight)})


def _without_node(record: model.Placement, node: str) -> model.Placement:
    if node not in dict(record.weights):
        raise NotFound(f"there is no node {node!r}; the nodes are {', '.join(dict(record.weights)) or 'none'}")
    return without_shard(record, node)


def _filled(record: model.Placement) -> model.Placement:
    if not record.weights:
        raise NotFound("there are no nodes, so no key has an owner")
    return record


def _counts(record: model.Placement, keys: Iterable[Key]) -> dict[str, int]:
    owner = table_of(_filled(record)).owner
    found = Counter(owner(_bytes(key)) for key in keys)
    # A rule's target need not be on the ring.
    return {**{node: 0 for node, _ in record.weights}, **found}


def _moves(current: model.Placement, following: model.Placement, keys: Iterable[Key] | None) -> list[Move]:
    if not current.weights or not following.weights:
        return []
    shares = moved_share(current, following)
    pairs = sorted({*shares, *pairs_between(current, following)})
    if keys is None:
        return [Move(source, target, shares.get((source, target), 0.0)) for source, target in pairs]
    before, after = table_of(current).owner, table_of(following).owner
    counted = Counter((before(key), after(key)) for key in map(_bytes, keys))
    return [Move(*pair, shares.get(pair, 0.0), counted[pair]) for pair in pairs]


def _bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key
