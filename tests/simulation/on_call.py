"""Whoever operates a cluster with copies, and is called when a shard has no leader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.operator import Operator
from tests.simulation.scenario import Edge

from helios.admin.client import Admin
from helios.control.wishes import is_external
from helios.model.topology import NodeKind, NodeState

if TYPE_CHECKING:
    from tests.simulation.world import World

_EVERY_S = 2.0
_NEEDLESS = 0.2  # how often a loss is accepted where nobody has called
_SETTINGS = {
    Edge.COPIES: (("sharding.replication_factor", ("1", "2", "3")), ("replication.min_members", ("0", "1", "2", "3"))),
    Edge.SETTINGS: (
        ("replication.ack_timeout", ("0.1", "0.5", "2")),
        ("replication.failover_timeout", ("0.5", "1", "3")),
        ("replication.max_staleness", ("0.1", "0.5", "1.5")),
        ("replication.rebalance_leaders", ("true", "false")),
        ("coordinator.fence_ack_timeout", ("0.1", "0.5", "1")),
        ("coordinator.lease_ttl", ("1", "2", "3")),
        ("sharding.migration_rate", ("0", "20", "500")),
    ),
    Edge.PROMISES: (
        ("replication.reads", ("leader", "linearizable")),
        ("replication.durability", ("async", "quorum")),
        ("replication.durability_by_key", ("", "user:*=async", "cart:*=quorum", "n:*=async,session:*=async")),
    ),
}
_WRONG = 0.1  # how often a node is named that may have no copy
_STAYING = 3  # nodes of ours, so that two are left when one goes
_GONE_FOR_GOOD_S = 8.0  # a shard without a leader for so long has lost one that nobody else starts


class OnCall(Operator):
    """An operator who does what only clusters with copies need, beside everything else."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._calls: list[tuple[str, str]] = []
        self._called = asyncio.Event()

    def call(self, shard: str, node: str) -> None:
        """Most copies of the shard are away, and the node's is not."""
        self._calls.append((shard, node))
        self._called.set()

    async def _choose(self, admin: Admin, random: Random, deed: str) -> tuple[str, Awaitable[object]]:
        # Where all other nodes leave, nobody takes over from a server outside, and who has its copy stays for ever.
        if Edge.OUTSIDE in self.world.scenario.edges and deed in ("remove", "drain"):
            nodes = self.world.invariants.topology.nodes
            if sum(one.kind is NodeKind.SUPERVISED and one.state is NodeState.ACTIVE for one in nodes) < _STAYING:
                deed = "rebalance"
        return await super()._choose(admin, random, deed)

    async def _main(self) -> None:
        edges = self.world.scenario.edges
        admin = Admin(self.store, self.connector, self.clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super()._main())
            if Edge.ACCEPTED in edges:
                tasks.create_task(self._answer_calls(admin, tasks))
            if Edge.OUTSIDE in edges:
                tasks.create_task(self._choose_for(admin))
            for edge in (edge for edge in _SETTINGS if edge in edges):
                tasks.create_task(self._change(edge, admin))

    async def _change(self, edge: Edge, admin: Admin) -> None:
        random = Random(f"{self.world.seed}/{edge} wanted")
        while self._goes_on():
            await asyncio.sleep(random.expovariate(1 / _EVERY_S))
            name, values = random.choice(_SETTINGS[edge])
            value = random.choice(values)
            await self.ask(f"set {name} {value}", admin.change_setting(name, value))

    async def _answer_calls(self, admin: Admin, tasks: asyncio.TaskGroup) -> None:
        random = Random(f"{self.world.seed}/on call")
        while self._goes_on():
            with suppress(TimeoutError):
                async with asyncio.timeout(random.expovariate(1 / _EVERY_S)):
                    await self._called.wait()
            self._called.clear()
            accept_loss = bool(self._calls) or random.random() < _NEEDLESS
            shard, node = self._calls.pop() if self._calls else self._some_copy(random)
            what = f"promote {shard} {node}{' --accept-loss' * accept_loss}"
            tasks.create_task(self.ask(what, admin.promote(shard, node, accept_loss=accept_loss)))

    async def _choose_for(self, admin: Admin) -> None:
        """Of several copies that were restarted with an external leader each may lack something: a person chooses."""
        random, since_s = Random(f"{self.world.seed}/chosen"), dict[str, float]()
        while True:
            await asyncio.sleep(_EVERY_S)
            topology, now_s = self.world.invariants.topology, self.world.loop.time()
            since_s = {shard: since_s.get(shard, now_s) for shard in sorted(topology.fenced_shards)}
            for shard_id, at_s in since_s.items():
                shard = topology.shard(shard_id)
                if shard is None or now_s < at_s + _GONE_FOR_GOOD_S or not is_external(topology, shard.leading.node):
                    continue
                copies = [one.node for one in (*shard.outgoing, *shard.members) if one.id != shard.leader]
                node = random.choice(copies)
                await self.ask(
                    f"promote {shard_id} {node} --accept-loss", admin.promote(shard_id, node, accept_loss=True)
                )

    def _some_copy(self, random: Random) -> tuple[str, str]:
        topology = self.world.invariants.topology
        shard = random.choice(topology.shards)
        with_copies = [one.node for one in shard.servers]
        return shard.id, random.choice([one.id for one in topology.nodes] if random.random() < _WRONG else with_copies)
