"""A life of many nodes: `python -m tests.simulation --nodes 1000`.

It is reduced to what grows with the cluster: it is founded, two nodes join, one of the first leaves, and a rebalance is
asked for, while clients write and read. Nothing is late and nothing breaks. The invariants are looked at with each
epoch and each access, as in every life, and after each change the cluster must come to rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace

from tests.simulation.history import Impossible
from tests.simulation.life import Life, collecting_nothing
from tests.simulation.report import Outcome
from tests.simulation.rest import ask_routers, come_to_rest
from tests.simulation.scenario import Danger, Scenario, ServerKind, choose
from tests.simulation.world import World

from helios.admin.client import Admin
from helios.engines.memory import MemoryConnector
from helios.model.sections import ShardingSettings
from helios.model.settings import ClusterSettings

_SEED = 49  # of a calm life
_JOIN = 2
_STEPS_A_NODE = 100_000


def scenario_of(nodes: int) -> Scenario:
    """So many nodes, and two that join."""
    servers = nodes + _JOIN
    sharding = ShardingSettings(migration_rate=0, auto_rebalance=True)
    return replace(
        choose(_SEED),
        settings=ClusterSettings(sharding=sharding),
        danger=Danger.CALM,
        brief=False,
        edges=frozenset(),
        nodes=nodes,
        spare_nodes=_JOIN,
        kinds=(ServerKind.SUPERVISED,) * servers,
        skews_s=(0.0,) * servers,
        routers=2,
        coordinators=2,
        clients=4,
        late=0.0,
        store_late=0.0,
        think_s=0.2,
    )


class LifeOfMany(Life):
    """Founding, two joins, a departure, a rebalance."""

    def __init__(self, nodes: int) -> None:
        super().__init__(World(_SEED, scenario_of(nodes)))
        self.world.loop.steps_max = _STEPS_A_NODE * nodes
        self.took: dict[str, tuple[float, float]] = {}  # by phase: seconds of the processor, and virtual ones

    async def _live(self) -> None:
        world = self.world
        await self._phase("founded", self._found())
        clients = [world.loop.create_task(client.run()) for client in world.clients]
        syncing = world.loop.create_task(self._sync_disks())
        admin = Admin(world.inner, MemoryConnector(world.addresses), world.clock)
        for shard in list(world.servers)[-_JOIN:]:
            await self._phase(f"{shard} joins", admin.add_node(shard, str(world.address(shard))))
        await self._phase("shard-2 leaves", admin.remove_node("shard-2"))
        await self._phase("a rebalance", admin.rebalance())
        world.serving = False
        await asyncio.gather(*clients)
        await ask_routers(world)
        try:
            world.judges.check(world.held, world.loop.time(), world.now_ms())
        except Impossible as error:
            world.fail(str(error), error)
        syncing.cancel()

    async def _phase(self, name: str, work: Awaitable[object]) -> None:
        """Do that, and wait until the cluster is at rest again."""
        began_s, world_s = time.process_time(), self.world.loop.time()
        await work
        await come_to_rest(self.world)
        self.took[name] = time.process_time() - began_s, self.world.loop.time() - world_s


def live_of_many(nodes: int) -> tuple[Outcome, dict[str, tuple[float, float]]]:
    """Such a life, and what each of its phases took: seconds of the processor, and virtual ones."""
    with collecting_nothing():
        life = LifeOfMany(nodes)
        outcome, took = life.run(), life.took
        life.world.loop.close()
        del life
        return outcome, took


def live_as_many(nodes: int) -> int:
    """The same for people; 0 if all went well."""
    outcome, took = live_of_many(nodes)
    for name, (real_s, virtual_s) in took.items():
        print(f"{name}: {real_s:.1f} s of the processor, {virtual_s:.1f} virtual seconds")
    print(
        f"{nodes} nodes: {outcome.steps} steps, {outcome.fences} fences, {outcome.switches} switches, longest fence "
        f"{outcome.longest_fence_s:.2f} s, {outcome.acknowledged} acknowledged"
    )
    print(f"FAILED: {outcome.failure}" if outcome.failure else "everything held")
    return 1 if outcome.failure else 0
