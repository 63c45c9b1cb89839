"""What becomes of a request: refused with a reason, done at once, or queued for a transition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite

from helios.control.wishes import is_external
from helios.errors import HeliosError, InvalidInput, NotFound, Refused
from helios.model.migration import Change, ChangeKind
from helios.model.topology import ANY, Member, Node, NodeKind, NodeState, Placement, Shard, Topology, with_numbers
from helios.placement.change import moved, with_weights, without_shard
from helios.placement.patterns import PATTERN_MAX_BYTES
from helios.placement.scanning import SHARDS_MAX

RULES_MAX = 5000
"""How many rules a placement may have: it is one record of the store."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that decide about requests."""

    virtual_nodes: int = 150
    auto_rebalance: bool = False
    sharding_enabled: bool = True


@dataclass(frozen=True, slots=True)
class Admission:
    """The topology to publish now (None: as it is), and whether a change of the placement is still to come."""

    topology: Topology | None
    queued: bool


def admit(topology: Topology, change: Change, members: Mapping[str, Member], policy: Policy) -> Admission:
    """Decide about a new request. `members` gives for each node of the change the server that it brings.

    Raises InvalidInput, NotFound or Refused; nothing is to be changed then.
    """
    match change.kind:
        case ChangeKind.FOUND:
            return _found(topology, change, members, policy)
        case ChangeKind.ADD_NODE:
            if change.adopt and topology.nodes:
                raise Refused(
                    f"only the first node of a cluster is adopted, and this one has {_names(topology)}: add "
                    f"{change.nodes[0].id} with --import, which moves its keys to their owners"
                )
            return _add(topology, change.nodes[0], members, policy)
        case ChangeKind.REMOVE_NODE:
            return _remove(topology, change.node)
        case ChangeKind.MIGRATE:
            check_migrate(topology, change.source, change.target, change.pattern)
            return Admission(None, queued=True)
        case ChangeKind.REBALANCE:
            if not topology.nodes:
                raise Refused("there is nothing to rebalance: the cluster has no nodes")
            return Admission(None, queued=True)
        case ChangeKind.REWEIGHT | ChangeKind.DRAIN | ChangeKind.UNDRAIN:
            altered_node(topology, change)
            return Admission(None, queued=True)
        case ChangeKind.BACKUP if not topology.shards:
            raise Refused("there is nothing to copy: the cluster has no nodes")
        case ChangeKind.REPAIR | ChangeKind.BACKUP:
            return Admission(None, queued=True)
        case ChangeKind.PROMOTE:
            return _promote(topology, change)
        case ChangeKind.END_SCRIPT:
            raise Refused("nobody asks for this: SCRIPT KILL and FUNCTION KILL end what runs")


def promoted(topology: Topology, change: Change) -> tuple[Shard, Member]:
    """The shard of a promotion, and the member that it makes the leader. Raises NotFound or Refused."""
    shard = topology.shard(change.shard)
    if shard is None:
        known = ", ".join(other.id for other in topology.shards) or "none yet"
        raise NotFound(f"there is no shard {change.shard!r}; the shards are {known}")
    if topology.node(change.node) is None:
        raise NotFound(f"there is no node {change.node!r}; the nodes are {_names(topology)}")
    counted = {member.id: member for member in (*shard.outgoing, *shard.members)}
    leads = shard.leading.node == change.node and not change.accept_loss
    if shard.id == change.node and is_external(topology, change.node) and not leads:
        raise Refused(
            f"{change.node} is external, and does not lead again once it was lost: Helios does not start its server, "
            "so nobody knows what that lacks. Promote a node of `listshards` that has a copy"
        )
    for member in counted.values():
        if member.node == change.node:
            return shard, member
    if any(member.node == change.node for member in shard.learners):
        raise Refused(f"{change.node} has not got all of {shard.id} yet: try again when `listshards` shows it in sync")
    nodes = ", ".join(sorted(member.node for member in counted.values()))
    raise Refused(f"{change.node} has no copy of {shard.id}: its copies are on {nodes}")


def refuse_joining(node: Node, earlier: Iterable[Change]) -> None:
    """Raise Refused where one of these requests is to import from the same server: one at a time is about a server.

    Two imports would take the same keys for each other's, and to empty a server that brings its keys would lose them.
    """
    for change in earlier:
        for other in change.nodes if change.kind is ChangeKind.ADD_NODE and change.import_keys else ():
            if other.id == node.id or other.address == node.address:
                raise Refused(f"{other.id} at {other.address} joins by an earlier request: wait for its end")


def placement_after(topology: Topology, change: Change) -> Placement:
    """The placement that a queued change asks for, by the topology at the time that its turn has come.

    For a rebalance these are shares of the ring by weight alone; `control.rebalance` uses loads. Raises NotFound,
    InvalidInput or Refused where what came before leaves no sense in it.
    """
    match change.kind:
        case ChangeKind.ADD_NODE | ChangeKind.REBALANCE:
            return with_weights(topology.placement, desired_weights(topology))
        case ChangeKind.REMOVE_NODE:
            return _without(topology, change.node)
        case ChangeKind.REWEIGHT | ChangeKind.DRAIN | ChangeKind.UNDRAIN:
            return _with_altered(topology, altered_node(topology, change))
        case ChangeKind.MIGRATE:
            check_migrate(topology, change.source, change.target, change.pattern)
            return _migrated(topology.placement, change)
        case ChangeKind.FOUND | ChangeKind.PROMOTE | ChangeKind.REPAIR | ChangeKind.BACKUP | ChangeKind.END_SCRIPT:
            return topology.placement


def _promote(topology: Topology, change: Change) -> Admission:
    shard, member = promoted(topology, change)
    if change.accept_loss:
        alone = all(members == {member.id} for members in shard.memberships)
        return Admission(None, queued=not alone or shard.id in topology.fenced_shards)
    if shard.id in topology.fenced_shards:
        raise Refused(
            f"{shard.id} has no leader just now, and gets one by itself as soon as enough of its members answer: "
            f"{', '.join(sorted(member.node for member in shard.members))}. If these are gone for good, "
            f"`promote {shard.id} {change.node} --accept-loss` has it go on with what {change.node} has; what was "
            "acknowledged and has not reached that node is lost then"
        )
    return Admission(None, queued=member.id != shard.leader)


def _without(topology: Topology, node_id: str) -> Placement:
    """The placement without a node. Raises Refused where nobody would be left to own its keys."""
    staying = replace(topology, nodes=tuple(node for node in topology.nodes if node.id != node_id))
    remaining = without_shard(topology.placement, node_id)
    if not topology.sharding_enabled or not remaining.weights:
        remaining = with_weights(remaining, desired_weights(staying))
    if not remaining.weights:
        raise Refused(_last(node_id))
    return remaining


def _migrated(placement: Placement, change: Change) -> Placement:
    """The placement after a migration. Raises Refused where it would have too many rules."""
    following = moved(placement, change.source, change.target, change.pattern)
    if len(following.rules) > RULES_MAX:
        raise Refused(
            f"this would leave {len(following.rules):,} rules, of {RULES_MAX:,} at most: move by patterns that cover "
            "more keys, or move patterns back that need no place of their own"
        )
    return following


def desired_weights(topology: Topology) -> dict[str, float]:
    """The shards that belong on the ring, by weight: those of all nodes that stay, or only the first by id."""
    staying = {node.id: node.weight for node in topology.nodes if node.state is NodeState.ACTIVE}
    if not topology.sharding_enabled and staying:
        first = min(staying)
        return {first: staying[first]}
    return staying


def altered_node(topology: Topology, change: Change) -> Node:
    """The node of a reweight, drain or undrain as the change wants it. Raises what stands in its way."""
    node = topology.node(change.node)
    if node is None:
        raise NotFound(f"there is no node {change.node!r}; the nodes are {_names(topology)}")
    if node.state is NodeState.DRAINING:
        raise Refused(f"{node.id} is being removed")
    match change.kind:
        case ChangeKind.DRAIN:
            if node.state is NodeState.DRAINED:
                raise Refused(f"{node.id} is drained already: `undrain` brings it back, `removenode` lets it go")
            _check_not_last(topology, node.id)
            return replace(node, state=NodeState.DRAINED)
        case ChangeKind.UNDRAIN:
            if node.state is not NodeState.DRAINED:
                raise Refused(f"{node.id} is not drained")
            return replace(node, state=NodeState.ACTIVE)
        case _:
            _check_weight(topology, node.id, change.weight)
            return replace(node, weight=change.weight, state=NodeState.ACTIVE)


def _with_altered(topology: Topology, node: Node) -> Placement:
    """The placement that goes with a node's new weight or state."""
    altered = with_node(topology, node)
    if node.state is NodeState.DRAINED:
        return _without(altered, node.id)
    if not topology.sharding_enabled:
        return with_weights(topology.placement, desired_weights(altered))
    weights = dict(topology.placement.weights)
    before = topology.node(node.id)
    # A node that has never been given a share keeps waiting for one: its weight says how much it will be.
    if node.id in weights or (before is not None and before.state is NodeState.DRAINED):
        weights[node.id] = node.weight
    return with_weights(topology.placement, weights)


def check_migrate(topology: Topology, source: str, target: str, pattern: str) -> None:
    """Raise what is wrong with moving `pattern` from `source` to `target`.

    The source may be ANY (from wherever the keys are), or the target (to where the ring has them).
    """
    for shard in (source, target):
        if shard != ANY and topology.node(shard) is None:
            raise NotFound(f"there is no node {shard!r}; the nodes are {_names(topology)}")
    if source == target:
        raise InvalidInput(f"source and target are both {source!r}: name two different nodes")
    if len(pattern.encode()) > PATTERN_MAX_BYTES:
        raise InvalidInput(f"the pattern has {len(pattern.encode()):,} bytes, of {PATTERN_MAX_BYTES:,} at most")
    if not pattern:
        raise InvalidInput("the pattern is empty: write '*' for every key")
    if not topology.sharding_enabled:
        raise Refused("sharding is disabled (sharding.enabled: false): every key stays on the first node")
    node = topology.node(target)
    if node is not None and node.state is NodeState.DRAINING:
        raise Refused(f"{target} is being removed: it takes no more keys")
    if node is not None and node.state is NodeState.DRAINED:
        raise Refused(f"{target} is drained: bring it back with `undrain` before keys move to it")


def _found(topology: Topology, change: Change, members: Mapping[str, Member], policy: Policy) -> Admission:
    if topology.nodes:
        raise Refused(f"the cluster exists already, with the nodes {_names(topology)}")
    fresh = Topology(
        topology.epoch,
        placement=Placement(virtual_nodes=policy.virtual_nodes),
        sharding_enabled=policy.sharding_enabled,
    )
    for node in change.nodes:
        fresh = _with_node(fresh, node, members)
    if change.adopt:
        # The server that comes with keys has them all; the others get their share when somebody asks for it.
        adopted = {node.id: node.weight for node in change.nodes if node.kind is NodeKind.EXTERNAL}
        return Admission(replace(fresh, placement=with_weights(fresh.placement, adopted)), queued=False)
    return Admission(_owning_all(fresh), queued=False)


def _add(topology: Topology, node: Node, members: Mapping[str, Member], policy: Policy) -> Admission:
    if not topology.nodes:
        fresh = Placement(virtual_nodes=policy.virtual_nodes)
        topology = replace(topology, placement=fresh, sharding_enabled=policy.sharding_enabled)
        return Admission(_owning_all(_with_node(topology, node, members)), queued=False)
    grown = _with_node(topology, node, members)
    changes_first = not grown.sharding_enabled and desired_weights(grown) != dict(grown.placement.weights)
    return Admission(grown, queued=policy.auto_rebalance or changes_first)


def _remove(topology: Topology, node_id: str) -> Admission:
    node = topology.node(node_id)
    if node is None:
        raise NotFound(f"there is no node {node_id!r}; the nodes are {_names(topology)}")
    if node.state is NodeState.DRAINING:
        raise Refused(f"{node_id} is being removed already")
    _check_not_last(topology, node_id)
    return Admission(with_node(topology, replace(node, state=NodeState.DRAINING, staying=node.state)), queued=True)


def _with_node(topology: Topology, node: Node, members: Mapping[str, Member]) -> Topology:
    known = topology.node(node.id)
    if known is not None:
        raise Refused(f"{node.id} is a node already, at {known.address}")
    for other in topology.nodes:
        if other.address == node.address:
            raise Refused(f"{node.address} is the address of {other.id}: each node needs one of its own")
    _check_weight(topology, node.id, node.weight)
    member = members.get(node.id)
    if member is None:
        raise Refused(f"{node.id} at {node.address} has no running server: start it first")
    if len(topology.shards) == SHARDS_MAX:
        raise Refused(f"{node.id} would be one node too many: a cluster has {SHARDS_MAX} at most")
    shards = with_numbers((*topology.shards, Shard(node.id, member.id, (member,))))
    return replace(
        topology,
        nodes=tuple(sorted((*topology.nodes, node), key=lambda other: other.id)),
        shards=tuple(sorted(shards, key=lambda other: other.id)),
    )


def _check_weight(topology: Topology, node_id: str, weight: float) -> None:
    if not isfinite(weight):
        raise InvalidInput(f"weight {weight} of {node_id} is no number of points: use a finite one above 0")
    if round(topology.placement.virtual_nodes * weight) < 1:
        raise InvalidInput(f"weight {weight} of {node_id} gives it no point on the ring: use a larger one")


def _owning_all(topology: Topology) -> Topology:
    return replace(topology, placement=with_weights(topology.placement, desired_weights(topology)))


def stays(topology: Topology, node_id: str) -> Topology:
    """The topology in which a node that was to leave is again what it was before."""
    node = topology.node(node_id)
    if node is None or node.state is not NodeState.DRAINING:
        return topology
    return with_node(topology, replace(node, state=node.staying, staying=NodeState.ACTIVE))


def with_node(topology: Topology, node: Node) -> Topology:
    """The topology with one node as given; nothing changes where it has none of that id."""
    return replace(topology, nodes=tuple(node if other.id == node.id else other for other in topology.nodes))


def _check_not_last(topology: Topology, node_id: str) -> None:
    """Raise Refused where no other node is there to take the keys."""
    if not any(other.state is NodeState.ACTIVE for other in topology.nodes if other.id != node_id):
        raise Refused(_last(node_id))


def _last(node_id: str) -> str:
    return f"{node_id} is the last node: its keys would have nowhere to go; add another node first"


def _names(topology: Topology) -> str:
    return ", ".join(node.id for node in topology.nodes) or "none yet"


def holds_keys(node: Node, keys: int, *, first: bool) -> str:
    """Why a server that holds keys does not join without a word about them."""
    options = (
        "--adopt to found the cluster with its keys where they are"
        if first
        else "--import to move each of them to its owner in this cluster"
    )
    return (
        f"{node.id} at {node.address} holds {keys} keys already: add it with {options}, or with --flush to delete them"
    )


def refusal(error: HeliosError) -> str:
    """How a refusal is kept with the change: code and sentence."""
    return f"{error.code} {error}"
