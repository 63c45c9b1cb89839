"""The few ways in which a transition changes the topology; the epoch is the publisher's to raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from helios.control.admission import stays, with_node
from helios.errors import Conflict, Refused, StoreError
from helios.model.topology import Node, NodeState, Pair, PairPhase, Placement, Term, Topology, Transition, with_numbers


@dataclass(frozen=True, slots=True)
class Fence:
    """Routers hold the pair's keys from now on."""

    source: str
    target: str

    def apply(self, topology: Topology) -> Topology:
        """The topology in which the pair is fenced."""
        return _with_phase(topology, self.source, self.target, PairPhase.FENCED)


@dataclass(frozen=True, slots=True)
class Unfence:
    """The pair's keys flow again, to the source."""

    source: str
    target: str

    def apply(self, topology: Topology) -> Topology:
        """The topology in which the pair is being copied."""
        return _with_phase(topology, self.source, self.target, PairPhase.COPYING)


@dataclass(frozen=True, slots=True)
class Switch:
    """The target owns the pair's keys: the only commit point of a move."""

    source: str
    target: str

    def apply(self, topology: Topology) -> Topology:
        """The topology in which the pair is switched; raises StoreError while either has no leader."""
        if topology.fenced_shards.intersection((self.source, self.target)):
            raise StoreError(f"no key moves from {self.source} to {self.target} while one of them has no leader")
        generation = topology.generation + 1
        shards = tuple(
            replace(shard, received=generation) if shard.id == self.target else shard for shard in topology.shards
        )
        counted = replace(topology, generation=generation, shards=shards)
        return _with_phase(counted, self.source, self.target, PairPhase.SWITCHED)


@dataclass(frozen=True, slots=True)
class Together:
    """What becomes of several fences in one epoch: each epoch wakes every router."""

    parts: tuple[Fence | Unfence | Switch, ...]

    def apply(self, topology: Topology) -> Topology:
        """The topology with all of them; raises what one of them raises."""
        for part in self.parts:
            topology = part.apply(topology)
        return topology


@dataclass(frozen=True, slots=True)
class Slow:
    """Routers delay writes to the pair's keys, which change faster than they are copied."""

    source: str
    target: str
    slow_ms: int

    def apply(self, topology: Topology) -> Topology:
        """The topology in which the pair's writers are slowed."""
        return _with_pair(topology, self.source, self.target, lambda pair: replace(pair, slow_ms=self.slow_ms))


@dataclass(frozen=True, slots=True)
class Reverse:
    """What was switched goes back; what was not stays. `migrations` names the way back of each switched pair."""

    migrations: Mapping[tuple[str, str], str]

    def apply(self, topology: Topology) -> Topology:
        """The topology with the roles of the two placements exchanged: who owns each key does not change by it."""
        transition = _running(topology)
        pairs = tuple(
            Pair(pair.target, pair.source, self.migrations[pair.source, pair.target], PairPhase.COPYING)
            if pair.phase is PairPhase.SWITCHED
            else Pair(pair.target, pair.source, "", PairPhase.SWITCHED)
            for pair in transition.pairs
        )
        involved = frozenset(shard for pair in pairs for shard in (pair.source, pair.target))
        # Copies that did not come to an end may lie anywhere.
        unclean = transition.unclean | involved
        back = Transition(transition.change, topology.placement, pairs, reversing=True, unclean=unclean)
        reversed_ = replace(topology, placement=transition.next, transition=back)
        if transition.was is not None:
            reversed_ = _as_it_was(reversed_, transition.was)
        return stays(reversed_, transition.leaving)


def _as_it_was(topology: Topology, was: Node) -> Topology:
    """The topology with the weight and state that a node had, unless somebody has asked since for its removal."""
    node = topology.node(was.id)
    if node is None:
        return topology
    if node.state is NodeState.DRAINING:
        return with_node(topology, replace(node, weight=was.weight, staying=was.state))
    return with_node(topology, replace(node, weight=was.weight, state=was.state))


@dataclass(frozen=True, slots=True)
class Finish:
    """Every pair has switched: the next placement is the current one. `unswept` shards still hold moved keys."""

    unswept: frozenset[str]

    def apply(self, topology: Topology) -> Topology:
        """The topology without the transition, and without the node that was leaving."""
        transition = _running(topology)
        involved = {shard for pair in transition.pairs for shard in (pair.source, pair.target)}
        leaving = transition.leaving
        return replace(
            topology,
            placement=transition.next,
            transition=None,
            unclean=((topology.unclean - involved) | self.unswept) - {leaving},
            nodes=tuple(node for node in topology.nodes if node.id != leaving),
            shards=tuple(shard for shard in topology.shards if shard.id != leaving),
            fenced_shards=topology.fenced_shards - {leaving},
        )


Mutation = Fence | Unfence | Switch | Together | Slow | Reverse | Finish


def together(parts: Sequence[Fence | Unfence | Switch]) -> Fence | Unfence | Switch | Together:
    """The parts, of which there is one at least, as one mutation."""
    return parts[0] if len(parts) == 1 else Together(tuple(parts))


def parts_of(mutation: Mutation | None) -> tuple[Fence | Unfence | Switch, ...]:
    """What a mutation does to fences, one after the other."""
    match mutation:
        case Together(parts):
            return parts
        case Fence() | Unfence() | Switch():
            return (mutation,)
        case _:
            return ()


def begin(
    topology: Topology,
    change: str,
    following: Placement,
    pairs: tuple[Pair, ...],
    leaving: str = "",
    altered: Node | None = None,
) -> Topology:
    """The topology in which the transition to `following` has begun; without pairs it has ended with it.

    `altered` is a node as it is to be from now on, unless the transition is given up.
    """
    if topology.transition is not None:
        raise Refused("another transition is running")
    if topology.fenced_shards:
        raise Conflict(f"nothing moves while {', '.join(sorted(topology.fenced_shards))} has no leader")
    was = None if altered is None else topology.node(altered.id)
    if altered is not None:
        topology = with_node(topology, altered)
    involved = frozenset(shard for pair in pairs for shard in (pair.source, pair.target))
    started = replace(
        topology,
        shards=with_numbers(topology.shards),
        transition=Transition(change, following, pairs, leaving=leaving, was=was, unclean=topology.unclean),
        unclean=topology.unclean | involved,
    )
    return started if pairs else Finish(frozenset()).apply(started)


def swept(topology: Topology, shard_id: str, before: Topology) -> Topology:
    """The topology in which a shard has only keys that it owns, unless another server leads it than did `before`."""
    if _term(topology, shard_id) != _term(before, shard_id):
        return topology
    return replace(topology, unclean=topology.unclean - {shard_id})


def _term(topology: Topology, shard_id: str) -> tuple[str, tuple[Term, ...]] | None:
    shard = topology.shard(shard_id)
    return None if shard is None else (shard.leader, shard.lineage)


def _running(topology: Topology) -> Transition:
    if topology.transition is None:
        raise Refused("no transition is running")
    return topology.transition


def _with_phase(topology: Topology, source: str, target: str, phase: PairPhase) -> Topology:
    # Once the pair has switched nothing is copied that its writers could outrun.
    switched = phase is PairPhase.SWITCHED
    return _with_pair(
        topology, source, target, lambda pair: replace(pair, phase=phase, slow_ms=0 if switched else pair.slow_ms)
    )


def _with_pair(topology: Topology, source: str, target: str, change: Callable[[Pair], Pair]) -> Topology:
    transition = _running(topology)
    pairs = tuple(change(pair) if (pair.source, pair.target) == (source, target) else pair for pair in transition.pairs)
    return replace(topology, transition=replace(transition, pairs=pairs))
