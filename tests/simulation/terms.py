"""No two members of a shard can complete a round: who has been replaced never gets a majority to acknowledge again.

Where nothing is promised nobody waits for a round, and a leader may be replaced that could still complete one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helios.model.topology import Shard, Topology

if TYPE_CHECKING:
    from tests.simulation.replicated import ReplicatedWorld


class Terms:
    """The shards as they were when their leaders were replaced, and whether these could go on."""

    def __init__(self, world: ReplicatedWorld) -> None:
        self._world = world
        self._over: dict[str, list[Shard]] = {}

    def published(self, before: Topology, now: Topology) -> None:
        """The store has a new topology."""
        for shard in now.shards:
            was = before.shard(shard.id)
            if was is None or not (was.lineage and shard.lineage):
                continue
            lossy = self._world.asynchronous.promised_nothing and shard.id in now.unclean
            if was.lineage[0].history != shard.lineage[0].history and not lossy:
                self._over.setdefault(shard.id, []).append(was)
        for gone in self._over.keys() - {shard.id for shard in now.shards if shard.lineage}:
            del self._over[gone]
        self.look()

    def look(self) -> None:
        """Fail the life where a leader of a term that is over could have a write acknowledged."""
        for shard_id, terms in self._over.items():
            for shard in terms:
                if self._goes_on(shard):
                    now = self._world.invariants.topology.shard(shard_id)
                    leader = "nobody" if now is None else now.leader
                    self._world.fail(f"{shard.leader} can complete a round of {shard_id}, which {leader} leads")

    def _goes_on(self, shard: Shard) -> bool:
        server = self._world.member(shard.leader)
        if server is None or not server.up:
            return False
        replication = server.replication
        if not replication.leads or replication.state().history != shard.lineage[0].history:
            return False
        # Counted here and not by the product's code, which is on trial.
        attached = {link.address for link in replication._links if link.follower.replication._link is link}
        present = {member.id for member in shard.servers if member.address in attached} | {shard.leader}
        return all(len(members & present) > len(members) // 2 for members in shard.memberships)
