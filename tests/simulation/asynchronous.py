"""Keys whose writes are acknowledged once the leader has them: a failover may lose the last moments, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from helios.model.durability import Durability, durabilities_of
from helios.model.sections import Reads, ReplicationSettings
from helios.model.topology import Topology
from helios.placement.glob import Glob
from helios.placement.patterns import EVERYTHING

if TYPE_CHECKING:
    from tests.simulation.replicated import ReplicatedWorld

Rules: TypeAlias = list[tuple[Glob, Durability]]  # the first that matches decides

_MARGIN_S = 0.5


class Asynchronous:
    """At each failover such keys are what the new leader has of them, and everything holds from then on again.

    But not at once: a router that has not heard of it may go by the leader of before until its lease has ended.
    """

    def __init__(self, world: ReplicatedWorld) -> None:
        self._world = world
        self._rules: list[Rules] = []  # by which keys were told apart until now
        self.promised_nothing = False  # some time: no failover had to meet a majority then
        self.changed(world.scenario.settings.replication)

    def changed(self, replication: ReplicationSettings) -> None:
        """These settings hold: what is acknowledged by them may be lost later, too."""
        self.promised_nothing |= not replication.promises
        rules = (*durabilities_of(replication.durability_by_key), (EVERYTHING, replication.durability))
        # Where reads wait for a majority, writes do, too, unless they are told apart by their keys.
        waits = replication.reads is Reads.LINEARIZABLE and not replication.durability_by_key
        if not waits and any(durability is Durability.ASYNC for _, durability in rules):
            self._rules.append([(Glob(pattern), durability) for pattern, durability in rules])

    def has(self, key: bytes) -> bool:
        """Whether the key is one of them, or was."""
        return any(
            next(durability for pattern, durability in rules if pattern.match(key)) is Durability.ASYNC
            for rules in self._rules
        )

    def published(self, before: Topology, now: Topology) -> None:
        """The store has a new topology."""
        for shard_id in before.fenced_shards - now.fenced_shards if self._rules else ():
            if now.shard(shard_id) is not None:
                self._failed_over(shard_id)

    def _failed_over(self, shard: str) -> None:
        world = self._world
        lost = world.lost
        world.losses.set_back(world.leading(shard), self.has)
        if world.lost > lost:
            world.note(f"{shard} has lost the last of {world.lost - lost} keys")
        until_ms = world.now_ms() + (world.scenario.session_ttl_s + _MARGIN_S) * 1000
        world.judges.doubt_until(lambda key: self.has(key) and world.invariants.owns(shard, key), until_ms)
