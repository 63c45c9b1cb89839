"""The topology: the immutable, versioned record of everything that routing needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count

from helios.model.fences import Fence
from helios.model.ids import Address


class NodeKind(StrEnum):
    """Who runs the server behind a node."""

    SUPERVISED = "supervised"
    EXTERNAL = "external"


class NodeState(StrEnum):
    """Whether a node is meant to stay."""

    ACTIVE = "active"
    DRAINING = "draining"  # its keys are moved away so that it can be removed
    DRAINED = "drained"  # it stays, and owns nothing until it is brought back


@dataclass(frozen=True, slots=True)
class Node:
    """A place that serves: a `helios node` agent, or a plain server (external) that Helios only routes to.

    `staying` is the state to which a draining node returns if its removal is given up.
    """

    id: str
    address: Address
    kind: NodeKind = NodeKind.SUPERVISED
    state: NodeState = NodeState.ACTIVE
    weight: float = 1.0
    zone: str = ""
    staying: NodeState = NodeState.ACTIVE


@dataclass(frozen=True, slots=True)
class Member:
    """One server process holding a copy of a shard."""

    id: str
    node: str
    address: Address


@dataclass(frozen=True, slots=True)
class Term:
    """One leader's time: the history that its writes are in, and where the leader stood when it was promoted."""

    history: str
    begins: int


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of ownership on the ring; `leader` is the id of the member that takes its commands.

    `number` is its own among the current shards, from 1 on, for what has no room for an id; 0 in topologies of
    before there were numbers. `received` is the generation in which it last got keys of another shard.

    `learners` follow the leader and still catch up: what they have counts for nothing. `outgoing` is the membership
    before the present one, as long as some router may still count by it; then both have to agree. `lineage` are the
    terms of its leaders, the latest first; it is empty until the shard has had a second member, and one member alone
    keeps the term in which it lost the last of the others, whatever history it has begun since.
    """

    id: str
    leader: str
    members: tuple[Member, ...]
    number: int = 0
    received: int = 0
    learners: tuple[Member, ...] = ()
    outgoing: tuple[Member, ...] = ()
    lineage: tuple[Term, ...] = ()

    @property
    def leading(self) -> Member:
        """The leader itself."""
        return next(member for member in self.members if member.id == self.leader)

    @property
    def memberships(self) -> tuple[frozenset[str], ...]:
        """The sets of members of which a majority each must have what is acknowledged."""
        sets = (self.members, self.outgoing) if self.outgoing else (self.members,)
        return tuple(frozenset(member.id for member in members) for members in sets)

    @property
    def servers(self) -> tuple[Member, ...]:
        """Every server that has keys of the shard, or is to have them."""
        known = {member.id: member for member in (*self.learners, *self.outgoing, *self.members)}
        return tuple(known[member_id] for member_id in sorted(known))


ANY = "*"
"""Instead of a shard's id in a rule: as a source every shard, as a target the shard that the ring gives the key to."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Keys that the ring gives to `source` and that match every one of `patterns` live on `target`.

    Rules are tried in order and the first that matches decides. A rule whose target is its source is
    allowed: it shields keys from the rules behind it.
    """

    source: str
    target: str
    patterns: tuple[str, ...]

    def owner(self, home: str) -> str:
        """The shard that has the rule's keys which the ring gives to `home`."""
        return home if self.target == ANY else self.target


@dataclass(frozen=True, slots=True)
class Placement:
    """A pure function key → shard, as data.

    `weights` lists the shards that are on the ring, by id; a shard that is not listed owns nothing by
    ring. `reassigned` moves single points (their 64-bit position) to another shard.
    """

    virtual_nodes: int = 150
    weights: tuple[tuple[str, float], ...] = ()
    reassigned: tuple[tuple[int, str], ...] = ()
    rules: tuple[Rule, ...] = ()


class PairPhase(StrEnum):
    """How far one (source, target) pair of a transition is, as far as routers must know."""

    COPYING = "copying"
    FENCED = "fenced"
    SWITCHED = "switched"


@dataclass(frozen=True, slots=True)
class Pair:
    """The keys that one transition moves from `source` to `target`, with the migration that users see.

    Routers delay writes to them by `slow_ms`, for as long as they change faster than they can be copied.
    `one_way` says why they could not come back (the source cannot read what the target writes, or nobody can be
    forced off it); empty if they can.
    """

    source: str
    target: str
    migration: str
    phase: PairPhase = PairPhase.COPYING
    slow_ms: int = 0
    one_way: str = ""


@dataclass(frozen=True, slots=True)
class Transition:
    """The move from the current placement to `next`; `change` is the id of the request behind it.

    `leaving` is the node that goes when it is finished, `was` a node that the change alters, as it was before: so
    it is again if the change is taken back. `unclean` names the shards that may have held keys of any name, without
    owning them, before it began. A `reversing` transition brings back what a cancelled or failed one had switched;
    its pairs that are switched from the start never left.
    """

    change: str
    next: Placement
    pairs: tuple[Pair, ...]
    leaving: str = ""
    reversing: bool = False
    was: Node | None = None
    unclean: frozenset[str] = frozenset()

    @property
    def no_way_back(self) -> str:
        """Why the transition can only go on, since some of its keys have moved and could not come back; else empty."""
        return next((pair.one_way for pair in self.pairs if pair.phase is PairPhase.SWITCHED and pair.one_way), "")

    def pair(self, source: str, target: str) -> Pair | None:
        """The pair that moves keys from `source` to `target`, if this transition has one."""
        for pair in self.pairs:
            if pair.source == source and pair.target == target:
                return pair
        return None


@dataclass(frozen=True, slots=True)
class Topology:
    """What routes every command. `epoch` grows with each publication and never goes back.

    `unclean` names shards whose servers may hold keys that they do not own (copies in the making,
    moved keys not yet swept): whoever counts or lists keys must look at each key's owner there.
    `generation` counts the switches: as long as it stays, no key changes its owner. Routers hold every command for
    `fenced_shards`, and while the cluster stands `still` for that change every command for every shard.
    """

    epoch: int
    nodes: tuple[Node, ...] = ()
    shards: tuple[Shard, ...] = ()
    placement: Placement = Placement()
    transition: Transition | None = None
    unclean: frozenset[str] = frozenset()
    sharding_enabled: bool = True
    generation: int = 0
    fenced_shards: frozenset[str] = frozenset()
    still: str = ""

    def node(self, node_id: str) -> Node | None:
        """The node of that id, if there is one."""
        return next((node for node in self.nodes if node.id == node_id), None)

    def shard(self, shard_id: str) -> Shard | None:
        """The shard of that id, if there is one."""
        return next((shard for shard in self.shards if shard.id == shard_id), None)

    @property
    def fences(self) -> tuple[Fence, ...]:
        """What routers hold commands for: whole shards, all of them, and the keys of pairs that are fenced."""
        pairs = self.transition.pairs if self.transition is not None else ()
        fenced = (Fence(pair.source, pair.target) for pair in pairs if pair.phase is PairPhase.FENCED)
        all_shards = (Fence(shard.id, answered=True) for shard in self.shards) if self.still else ()
        return (*map(Fence, sorted(self.fenced_shards)), *all_shards, *fenced)


def with_numbers(shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The shards, each with a number: those that have none get the least that are free, in the order given."""
    taken = {shard.number for shard in shards}
    free = (number for number in count(1) if number not in taken)
    return tuple(shard if shard.number else replace(shard, number=next(free)) for shard in shards)
