"""Shards with their copies: who leads, who follows how closely, and how many are missing."""

from __future__ import annotations

import asyncio

from helios.admin.views import CopyView, ShardView
from helios.control.rounds import Quorum
from helios.errors import EngineError
from helios.model.settings import ClusterSettings
from helios.model.topology import Member, Node, NodeKind, NodeState, Shard, Topology
from helios.ports.engine import Connector, Follower, Replication

NO_LEADER = "no leader"
NO_MAJORITY = "no majority"

_LOOK_S = 2.0


async def shard_views(topology: Topology, connector: Connector, settings: ClusterSettings) -> list[ShardView]:
    """Every shard, its leader first among the copies; how far the others are is the leader's word."""
    said = await asyncio.gather(*(_look(shard, connector) for shard in topology.shards))
    return [_view(shard, one, topology, settings) for shard, one in zip(topology.shards, said, strict=True)]


def missing_copies(shard: Shard, settings: ClusterSettings) -> int:
    """How many members a shard has less than it is to have."""
    return max(0, settings.sharding.replication_factor - _counting(shard))


def troubled(topology: Topology, settings: ClusterSettings) -> list[str]:
    """The shards that have no leader or lack copies, a sentence each."""
    leaderless = [
        f"{shard.id} has no leader: it gets one as soon as enough of its members answer, on "
        f"{', '.join(sorted(member.node for member in shard.members))}"
        for shard in topology.shards
        if shard.id in topology.fenced_shards
    ]
    return leaderless + [
        f"{shard.id} is under-replicated: it has {copies_of(shard, settings)}"
        for shard in topology.shards
        if missing_copies(shard, settings)
    ]


def replaced_servers(topology: Topology) -> dict[str, str]:
    """The external nodes whose keys another leads, and what is to be done about each."""
    return {node.id: said for node in topology.nodes if (said := replaced_server(topology, node))}


def replaced_server(topology: Topology, node: Node) -> str:
    """Who leads what an external node had, and what is to be done; empty where its own server does."""
    shard = topology.shard(node.id) if node.kind is NodeKind.EXTERNAL else None
    if shard is None or shard.leading.node == node.id:
        return ""
    return (
        f"{shard.leading.node} leads what it had, and its own server is left out, whatever that has: "
        f"`removenode {node.id}` gives the keys to the other nodes; `addnode --flush` then takes the server in again"
    )


def why_it_stays(topology: Topology, node: Node) -> str:
    """Why a node that is leaving cannot, and what is to be done; empty where another node takes over what it leads."""
    others = [one for one in topology.nodes if one.kind is NodeKind.SUPERVISED and one.state is NodeState.ACTIVE]
    led = [shard.id for shard in topology.shards if shard.leading.node == node.id != shard.id]
    if node.state is not NodeState.DRAINING or others or not led:
        return ""
    return f"it cannot leave, for it leads {', '.join(led)} and no other node can: add one by `addnode`"


def copies_of(shard: Shard, settings: ClusterSettings) -> str:
    """How many copies a shard has of how many."""
    return f"{_counting(shard)} of {settings.sharding.replication_factor} copies"


def _counting(shard: Shard) -> int:
    """How many members a shard has; one that has just joined saves nobody until the membership before it is over."""
    return min(map(len, shard.memberships))


async def _look(shard: Shard, connector: Connector) -> Replication | None:
    if len(shard.servers) == 1:
        return None  # nobody follows it
    try:
        async with asyncio.timeout(_LOOK_S):
            engine = await connector.open(shard.leading)
            try:
                return await engine.replication()
            finally:
                await engine.close()
    except (EngineError, TimeoutError):
        return None


def _view(shard: Shard, said: Replication | None, topology: Topology, settings: ClusterSettings) -> ShardView:
    others = sorted((member for member in shard.servers if member.id != shard.leader), key=lambda member: member.id)
    alone = len(shard.servers) == 1
    copies = (
        _copy(shard, shard.leading, None if said is None and not alone else True),
        *(_follower(shard, member, said, settings.replication.failover_timeout) for member in others),
    )
    lacking = missing_copies(shard, settings)
    following = {member.address for member, copy in zip(others, copies[1:], strict=True) if copy.in_sync}
    if shard.id in topology.fenced_shards:
        status = NO_LEADER
    elif said is not None and settings.replication.promises and not Quorum.of(shard).met_by(following):
        status = NO_MAJORITY
    else:
        status = "under-replicated" if lacking else "ok"
    return ShardView(
        id=shard.id,
        status=status,
        leader_node=shard.leading.node,
        leader_address=str(shard.leading.address),
        durability=str(settings.replication.durability),
        wanted=settings.sharding.replication_factor,
        missing=lacking,
        copies=copies,
    )


def _follower(shard: Shard, member: Member, said: Replication | None, failover_timeout_s: float) -> CopyView:
    seen = {} if said is None else {follower.address: follower for follower in said.followers}
    follower: Follower | None = seen.get(member.address)
    if said is None or not said.leads:
        return _copy(shard, member, None)
    # As long as it is given a whole copy it has acknowledged nothing, whatever its leader says of it.
    silent = follower is not None and follower.lag_s >= failover_timeout_s
    if follower is None or silent or not follower.online or not follower.offset:
        return _copy(shard, member, False)
    return _copy(shard, member, True, max(0, said.offset - follower.offset), follower.lag_s)


def _copy(
    shard: Shard, member: Member, in_sync: bool | None, lag_bytes: int | None = None, lag_s: float | None = None
) -> CopyView:
    counted = {one.id for one in shard.members}
    if member.id == shard.leader:
        role = "leader"
    elif member.id in counted:
        role = "replica"
    else:
        role = "learner" if any(one.id == member.id for one in shard.learners) else "leaving"
    return CopyView(member.id, member.node, str(member.address), role, in_sync, lag_bytes, lag_s)
