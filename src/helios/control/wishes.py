"""On which nodes each shard is to have a member, beside the server that founded it. Pure."""

from __future__ import annotations

from helios.model.topology import NodeKind, NodeState, Shard, Topology
from helios.placement.replicas import Copies, Host, place_replicas


def wishes_of(topology: Topology, factor: int) -> dict[str, tuple[str, ...]]:
    """For each shard that is to have such members the nodes that carry them.

    A shard that an external server founded has that among its members as long as it leads. Afterwards one of the nodes
    that carry a copy stands in its place.
    """
    nodes = [node for node in topology.nodes if node.kind is NodeKind.SUPERVISED and node.state is NodeState.ACTIVE]
    hosts = [Host(node.id, node.weight, node.zone) for node in nodes]
    zones = {node.id: node.zone for node in topology.nodes}
    homes = {shard.id: _home(topology, shard, hosts) for shard in topology.shards}
    copies = [
        Copies(shard.id, homes[shard.id], tuple(node for node in carriers(shard) if node != homes[shard.id]))
        for shard in topology.shards
    ]
    placed = place_replicas(hosts, copies, factor, zones=zones) if factor > 1 and hosts else {}
    wishes = {
        shard.id: (*([] if homes[shard.id] == shard.id else [homes[shard.id]]), *placed.get(shard.id, ()))
        for shard in topology.shards
    }
    return {shard: nodes for shard, nodes in wishes.items() if nodes}


def external_members(topology: Topology, shard: Shard) -> frozenset[str]:
    """The shard's members on servers that Helios does not start: its founder, if any."""
    if not is_external(topology, shard.id):
        return frozenset()
    return frozenset(member.id for member in shard.servers if member.node == shard.id)


def is_external(topology: Topology, node_id: str) -> bool:
    """Whether the node is a server that Helios does not start."""
    node = topology.node(node_id)
    return node is not None and node.kind is NodeKind.EXTERNAL


def carriers(shard: Shard) -> list[str]:
    """The nodes that carry the shard beside its founder's, those that count first."""
    members = dict.fromkeys(member.node for member in (*shard.members, *shard.outgoing, *shard.learners))
    return [node for node in members if node != shard.id]


def _home(topology: Topology, shard: Shard, hosts: list[Host]) -> str:
    """The node that always has the shard: its founder's, or for one that an external server has lost, a carrier."""
    if shard.leading.node == shard.id or not is_external(topology, shard.id):
        return shard.id
    staying = {host.id for host in hosts}
    # One that has begun to take the place of a node which goes is kept to.
    kept = next((node for node in carriers(shard) if node in staying), "")
    if kept or not hosts:
        return kept or shard.leading.node
    return place_replicas(hosts, [Copies(shard.id, shard.id)], 2)[shard.id][0]
