"""How many copies persons want, and that no shard shrinks to fewer than they allow because some are gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from helios.control.wishes import is_external, wishes_of
from helios.model.ids import founder_id, replica_id
from helios.model.settings import ClusterSettings
from helios.model.topology import Shard, Topology

_HEARD_WITHIN_S = 10.0  # by the coordinator, which may stand still or have lost its watch of the store


class Wanted:
    """The settings of a life with copies, as they come to hold."""

    def __init__(self, settings: ClusterSettings, now_s: Callable[[], float], fail: Callable[[str], None]) -> None:
        self._now_s = now_s
        self._fail = fail
        self._settings = settings
        self._former: list[tuple[float, ClusterSettings]] = []  # until when they held
        self._topologies: list[tuple[float, Topology]] = []  # the same, of those with other nodes

    @property
    def factor(self) -> int:
        """How many copies there are to be."""
        return self._settings.sharding.replication_factor

    def changed(self, settings: ClusterSettings) -> None:
        """The store has others."""
        self._former.append((self._now_s(), self._settings))
        self._settings = settings

    def published(self, before: Topology, now: Topology) -> None:
        """The store has a new topology."""
        if before.nodes != now.nodes:
            self._topologies.append((self._now_s(), before))
        for shard in now.shards:
            was = before.shard(shard.id)
            if was is not None and was.leader == shard.leader and len(shard.members) < len(was.members):
                self._shrunk(before, was, shard)

    def _shrunk(self, topology: Topology, was: Shard, now: Shard) -> None:
        if not now.lineage:
            return  # all others were given up: who may do that is looked at elsewhere
        since_s = self._now_s() - _HEARD_WITHIN_S
        held = [self._settings, *(settings for until_s, settings in self._former if until_s >= since_s)]
        known = [topology, *(former for until_s, former in self._topologies if until_s >= since_s)]
        if not any(_may_shrink(one, was, now, settings) for settings in held for one in known):
            self._fail(
                f"{now.id} shrinks from {len(was.members)} members to {len(now.members)}, fewer than it may have"
            )


def _may_shrink(topology: Topology, was: Shard, now: Shard, settings: ClusterSettings) -> bool:
    """Whether a member may leave by these settings: as others have its place, or as it is gone and enough are left."""
    factor = settings.sharding.replication_factor
    if len(now.members) >= settings.replication.least_members(factor):
        return True
    wanted = members_wanted(topology, was, wishes_of(topology, factor))
    return any(member.id not in wanted for member in was.members if member not in now.members)


def members_wanted(topology: Topology, shard: Shard, wishes: Mapping[str, tuple[str, ...]]) -> set[str]:
    """The members that a shard is to have: that of its founder, unless this is external and another leads."""
    founder = founder_id(shard.id)
    replaced = is_external(topology, shard.id) and shard.leader != founder
    return {*(() if replaced else (founder,)), *(replica_id(shard.id, node) for node in wishes.get(shard.id, ()))}
