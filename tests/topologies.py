"""Topologies for tests of pure code, random and made to order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from random import Random

from hypothesis import assume
from hypothesis import strategies as st

from helios.control.mutations import begin
from helios.model.ids import Address
from helios.model.topology import Member, Node, NodeState, Pair, PairPhase, Placement, Shard, Topology, Transition
from helios.placement.change import moved, with_weights, without_shard
from helios.placement.plan import pairs_between

SHARDS = ("a", "b", "c", "d")
PATTERNS = ("*", "user:*", "user:1*", "*2")
KEYS = tuple(f"{kind}:{n}".encode() for kind in ("user", "x") for n in range(1, 60))


def node(node_id: str, port: int = 6379, **fields: object) -> Node:
    """A node that listens on a port of its own host."""
    return replace(Node(node_id, Address(node_id, port)), **fields)  # type: ignore[arg-type]


def member(node_id: str) -> Member:
    """The founding server of a node."""
    return Member(f"{node_id}.0", node_id, Address(node_id, 7379))


def cluster(*node_ids: str, placement: Placement | None = None, epoch: int = 7) -> Topology:
    """A cluster at rest whose nodes all have their share, unless a placement says otherwise."""
    ids = sorted(node_ids)
    return Topology(
        epoch,
        nodes=tuple(node(n) for n in ids),
        shards=tuple(Shard(n, f"{n}.0", (member(n),)) for n in ids),
        placement=with_weights(Placement(8), dict.fromkeys(ids, 1.0)) if placement is None else placement,
    )


def in_transition(current: Placement, following: Placement, phases: dict[tuple[str, str], PairPhase]) -> Topology:
    """A cluster of all shards on its way; pairs that have no phase given are being copied."""
    pairs = tuple(
        Pair(source, target, f"m-{source}-{target}", phases.get((source, target), PairPhase.COPYING))
        for source, target in pairs_between(current, following)
    )
    involved = frozenset(shard for pair in pairs for shard in (pair.source, pair.target))
    return replace(
        cluster(*SHARDS, placement=current), transition=Transition("change", following, pairs), unclean=involved
    )


def _placement(weights: tuple[float, ...], moves: list[tuple[str, str, str]]) -> Placement:
    on_ring = {shard: weight for shard, weight in zip(SHARDS, weights, strict=True) if weight}
    placement = with_weights(Placement(8), on_ring)
    for move in moves:
        placement = moved(placement, *move)
    return placement


# Drawn from lists that are made once: a choice costs hypothesis far less than putting one together.
_WEIGHTS = sorted(weights for weights in product((0.0, 0.5, 1.0, 2.0), repeat=len(SHARDS)) if any(weights))
_MOVES = [(source, target, pattern) for source, target in permutations(SHARDS, 2) for pattern in PATTERNS]
# Some of the shards on a small ring, and a history of moves by pattern.
PLACEMENTS = st.builds(_placement, st.sampled_from(_WEIGHTS), st.lists(st.sampled_from(_MOVES), max_size=3))


@st.composite
def transitions(draw: st.DrawFn) -> Topology:
    """A topology in a transition with at least one pair, at most one of them fenced, or on its way back."""
    current, following = draw(PLACEMENTS), draw(PLACEMENTS)
    keys = pairs_between(current, following)
    assume(keys)
    switched = draw(st.sets(st.sampled_from(keys)))
    phases = dict.fromkeys(switched, PairPhase.SWITCHED)
    rest = sorted(set(keys) - switched)
    fencing = draw(st.booleans())
    if rest and fencing:
        phases[draw(st.sampled_from(rest))] = PairPhase.FENCED
    topology = in_transition(current, following, phases)
    leaving = draw(st.sampled_from(["", *SHARDS]))
    if leaving and topology.transition is not None and dict(without_shard(current, leaving).weights):
        nodes = tuple(replace(n, state=NodeState.DRAINING) if n.id == leaving else n for n in topology.nodes)
        topology = replace(topology, nodes=nodes, transition=replace(topology.transition, leaving=leaving))
    return topology


def random_topology(random: Random, *, fresh: bool = False) -> Topology:
    """The same from a random source, which is much faster where a walk of hundreds of steps follows.

    Where it need not be `fresh`, it may have been taken over in the middle from a coordinator that is gone.
    """
    while True:
        current, following = (
            _placement(random.choice(_WEIGHTS), random.choices(_MOVES, k=random.randint(0, 2))) for _ in range(2)
        )
        keys = pairs_between(current, following)
        if keys:
            break
    phases: dict[tuple[str, str], PairPhase] = {}
    if not fresh and random.random() < 0.5:
        phases = {key: random.choice([PairPhase.COPYING, PairPhase.SWITCHED]) for key in keys}
        waiting = [key for key in keys if phases[key] is PairPhase.COPYING]
        if waiting and random.random() < 0.5:
            phases[random.choice(waiting)] = PairPhase.FENCED
    topology = in_transition(current, following, phases)
    return one_way(topology, random.choice(keys)) if random.random() < 0.2 else topology


def one_way(topology: Topology, key: tuple[str, str]) -> Topology:
    """The same where keys that this pair has moved could not come back."""
    assert topology.transition is not None
    pairs = tuple(
        replace(pair, one_way="too new") if (pair.source, pair.target) == key else pair
        for pair in topology.transition.pairs
    )
    return replace(topology, transition=replace(topology.transition, pairs=pairs))


def rebalancing(nodes: int, pairs: int) -> Topology:
    """A cluster of that many nodes that has begun to move keys between as many pairs, with many points given away."""
    names = [f"shard-{number}" for number in range(nodes)]
    random = Random(1)
    before = cluster(*names, placement=Placement(150, tuple((name, 1.0) for name in sorted(names))))
    points = tuple(sorted((random.getrandbits(64), random.choice(names)) for _ in range(50 * nodes)))
    keys = [(random.choice(names), name) for name in names[:pairs]]
    moves = tuple(Pair(source, target, f"{number:026}") for number, (source, target) in enumerate(keys))
    return begin(before, "change", replace(before.placement, reassigned=points), moves)
