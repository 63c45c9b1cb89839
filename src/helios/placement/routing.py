"""Where commands go now: the owner of each key by a topology, transition and fences included."""

from __future__ import annotations

from helios.model.topology import PairPhase, Topology
from helios.placement._owners import Owners
from helios.placement.ring import POSITIONS
from helios.placement.table import PlacementTable, table_of


class Routes:
    """The effective view of one topology. It never changes; a new epoch makes new routes.

    Without a transition a look-up costs what the placement's does; with one, twice that.
    """

    __slots__ = (
        "_current",
        "_fenced",
        "_fenced_shards",
        "_next",
        "_shares",
        "_slow_s",
        "_switched",
        "has_fence",
        "has_slow",
        "topology",
    )

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._current: PlacementTable = table_of(topology.placement)
        self._next: PlacementTable | None = None
        self._shares: dict[str, float] | None = None
        self._fenced = frozenset((fence.shard, fence.target) for fence in topology.fences if not fence.whole)
        self._fenced_shards = frozenset(fence.shard for fence in topology.fences if fence.whole)
        self._switched: frozenset[tuple[str, str]] = frozenset()
        self._slow_s: dict[tuple[str, str], float] = {}
        if topology.transition is not None:
            self._next = table_of(topology.transition.next)
            pairs = topology.transition.pairs
            self._switched = frozenset((p.source, p.target) for p in pairs if p.phase is PairPhase.SWITCHED)
            self._slow_s = {(p.source, p.target): p.slow_ms / 1000 for p in pairs if p.slow_ms}
        self.has_fence = bool(topology.fences)
        self.has_slow = bool(self._slow_s)

    @property
    def empty(self) -> bool:
        """Whether no shard owns anything: a cluster without nodes."""
        return not self.topology.placement.weights

    @property
    def owners(self) -> Owners | None:
        """The compiled look-up where the current placement alone decides; None in a transition."""
        return self._current.owners if self._next is None else None

    @property
    def home(self) -> str:
        """The shard for what has no key: the least on the ring, the same for all routers; empty where there is none."""
        return min((name for name, _ in self.topology.placement.weights), default="")

    def owner(self, key: bytes) -> str:
        """The shard that owns `key` now. Raises IndexError where no shard is on the ring."""
        current = self._current.owner(key)
        if self._next is not None:
            following = self._next.owner(key)
            if following != current and (current, following) in self._switched:
                return following
        return current

    def share(self, shard: str) -> float:
        """The part of the ring, between 0 and 1, that a shard owns now; rules are left out."""
        if self._shares is None:
            self._shares = self._shares_in_transition() if self._switched else self._current.shares
        return self._shares.get(shard, 0.0)

    def _shares_in_transition(self) -> dict[str, float]:
        """What pairs that have switched own by the next placement counts already, before the transition is over."""
        assert self._next is not None, "only pairs of a transition switch"
        old, new = self._current.ring, self._next.ring
        points = sorted({*old.positions, *new.positions})
        arcs: dict[str, int] = {}
        for index, point in enumerate(points):
            before = points[index - 1] if index else points[-1] - POSITIONS
            owner, following = old.at(point), new.at(point)
            if (owner, following) in self._switched:
                owner = following
            arcs[owner] = arcs.get(owner, 0) + point - before
        return {shard: arc / POSITIONS for shard, arc in arcs.items()}

    def fenced(self, key: bytes) -> bool:
        """Whether commands for `key` must be held until a later epoch."""
        if not self.has_fence:
            return False
        if self._fenced_shards and self.owner(key) in self._fenced_shards:
            return True
        return self._next is not None and (self._current.owner(key), self._next.owner(key)) in self._fenced

    def holds(self, shard: str) -> bool:
        """Whether every command for `shard` must be held until a later epoch, with keys or without."""
        return shard in self._fenced_shards

    def slow_s(self, key: bytes) -> float:
        """By how many seconds a write to `key` must be delayed before it is sent."""
        pair = self.pair(key) if self.has_slow else None
        return 0.0 if pair is None else self._slow_s.get(pair, 0.0)

    def pair(self, key: bytes) -> tuple[str, str] | None:
        """The (source, target) pair of the transition that moves `key`, whatever its phase; None where it stays."""
        if self._next is None:
            return None
        current, following = self._current.owner(key), self._next.owner(key)
        return None if current == following else (current, following)
