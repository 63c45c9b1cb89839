"""What the topology wants of the data servers of a node. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from helios.control.leaders import is_missed
from helios.model.ids import founder_id, is_replica, replica_id
from helios.model.topology import Shard, Topology
from helios.ports.records import MemberRecord, ReplicasRecord


@dataclass(frozen=True, slots=True)
class Standing:
    """What a member is to its shard, and so how its server starts.

    `leads`: it takes writes as soon as it runs. Who has fellows starts as a follower of nobody, for they may have what
    it has lost. `needed`: the cluster counts on its files, which are never replaced by an empty server's; other
    members are given a whole copy anyway.
    """

    leads: bool
    needed: bool


def standing_of(member_id: str, topology: Topology) -> Standing:
    """What a member is to its shard; the founder of one that is not in the topology yet is to lead it."""
    shard = _shard_of(member_id, topology)
    if shard is None:
        return Standing(leads=not is_replica(member_id), needed=False)
    alone = all(members == {member_id} for members in shard.memberships)
    return Standing(leads=alone, needed=alone or shard.leader == member_id)


def _shard_of(member_id: str, topology: Topology) -> Shard | None:
    """The member's shard, also where it is no member any more: its files may be old then."""
    for shard in topology.shards:
        if founder_id(shard.id) == member_id or any(member.id == member_id for member in shard.servers):
            return shard
    return None


def placed_on(node_id: str, topology: Topology) -> set[str]:
    """The members that the topology lists at a node."""
    return {member.id for shard in topology.shards for member in shard.servers if member.node == node_id}


def wished_on(node_id: str, wishes: Iterable[ReplicasRecord]) -> set[str]:
    """The members that the coordinator wants to have at a node, beside the node's own founder."""
    return {replica_id(wish.shard, node_id) for wish in wishes if node_id in wish.nodes}


def shard_has_fellows(node_id: str, shard: Shard) -> bool:
    """Whether a member at the node leads the shard, and members at other nodes could."""
    return shard.leading.node == node_id and any(member.node != node_id for member in shard.members)


def has_fellows(node_id: str, shard: Shard) -> bool:
    """Whether the shard has members at the node, and at other nodes, too."""
    return {node_id} < {member.node for member in shard.members}


def to_be_missed(node_id: str, topology: Topology, records: Iterable[MemberRecord]) -> list[str]:
    """The shards that are led elsewhere, and whose writes would wait for a member at a node that is about to stop."""
    leaving = {record.id for record in records if record.leaving}
    return [
        shard.id
        for shard in topology.shards
        if shard.leader not in leaving
        and any(
            member.node == node_id and is_missed(member.id, membership, leaving)
            for membership in shard.memberships
            for member in shard.servers
        )
    ]


def to_hand_over(node_id: str, topology: Topology, records: Iterable[MemberRecord]) -> list[str]:
    """The shards that are led at a node and could be led at another one, which stays and whose server runs."""
    staying = {record.id for record in records if not record.leaving and not record.dead and record.node != node_id}
    return [
        shard.id
        for shard in topology.shards
        if shard_has_fellows(node_id, shard) and any(member.id in staying for member in shard.members)
    ]
