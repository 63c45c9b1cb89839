"""A host that leads a shard and coordinates is cut off: how long it takes until another leads, by the virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from random import Random
from unittest.mock import patch

import pytest
from tests.simulation.actors import CoordinatorActor
from tests.simulation.life import Life, collecting_nothing
from tests.simulation.replicated import ReplicatedWorld, choose_replicated
from tests.simulation.scenario import Danger, ServerKind, StoreKind
from tests.simulation.servers import SimServer
from tests.simulation.world import agent_records

from helios.control.silence import Silence
from helios.model.sections import CoordinatorSettings, ReplicationSettings
from helios.model.topology import Shard

_FAILOVER_S = 5.0
_LONG_S = 60.0
_LOOK_AGAIN_S = 0.01


class CutOff(Life):
    """A life in which nothing else happens."""

    world: ReplicatedWorld
    took_s = 0.0

    def __init__(self, seed: int, store: StoreKind = StoreKind.SQLITE, failover_s: float = _FAILOVER_S) -> None:
        scenario = choose_replicated(seed)
        settings = scenario.settings.altered(
            sharding=scenario.settings.sharding.altered(replication_factor=3),
            replication=ReplicationSettings(failover_timeout=failover_s),
            coordinator=CoordinatorSettings(),
        )
        calm = replace(
            scenario,
            settings=settings,
            danger=Danger.CALM,
            store=store,
            coordinators=3,
            late=0.0,
            store_late=0.0,
            edges=frozenset(),
            kinds=(ServerKind.SUPERVISED,) * len(scenario.kinds),
        )
        super().__init__(ReplicatedWorld(seed, calm))

    async def _live(self) -> None:
        world = self.world
        await self._found()
        await self.until(lambda: not any(world.unrest()) and bool(world.invariants.topology.shards))
        await asyncio.sleep(Random(world.seed).uniform(0.0, 3.0))
        coordinator = next(actor for actor in world.coordinators if actor.node == world.coordinator)
        await self.happen(coordinator, world.machines[coordinator.node].servers)

    async def happen(self, coordinator: CoordinatorActor, servers: list[SimServer]) -> None:
        """What befalls the host of the coordinator, on which these servers are."""
        world, leader = self.world, self.shard(coordinator).leader
        began_s = world.loop.time()
        coordinator.store.cut = True
        for agent in world.agents:
            agent.store.cut |= agent.machine.node == coordinator.node
        names = {actor.process.name for actor in world.actors()} - {coordinator.process.name}
        for server in servers:
            for name in names.union(other.name for other in world.everyone() if other is not server):
                server.cut(name)
        await self.until(lambda: self.shard(coordinator).leader != leader)
        self.took_s = world.loop.time() - began_s

    def shard(self, coordinator: CoordinatorActor) -> Shard:
        """The one that is led on the coordinator's host."""
        shard = self.world.invariants.topology.shard(coordinator.node)
        assert shard is not None
        return shard

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when that holds."""
        async with asyncio.timeout(_LONG_S):
            while not holds():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_LOOK_AGAIN_S)


class AgentCutOff(CutOff):
    """The store alone does not hear of the host: its servers answer."""

    async def happen(self, coordinator: CoordinatorActor, servers: list[SimServer]) -> None:
        """Nobody else leads for that."""
        lineage = self.shard(coordinator).lineage
        coordinator.store.cut = True
        await asyncio.sleep(_LONG_S)
        assert self.world.coordinator != coordinator.node
        assert self.shard(coordinator).lineage == lineage


class AgentBack(CutOff):
    """The agent is away, and beats again when another coordinates; meanwhile its servers stand still for a while."""

    async def happen(self, coordinator: CoordinatorActor, servers: list[SimServer]) -> None:
        """The servers have their whole time, for the host is there."""
        world, lineage = self.world, self.shard(coordinator).lineage
        coordinator.store.cut = True
        await self.until(lambda: world.coordinator != coordinator.node)
        for server in servers:
            server.freeze()
        node = world.invariants.topology.node(coordinator.node)
        assert node is not None
        await world.inner.commit(agent_records(node, world.clock.wall()))
        await asyncio.sleep(_FAILOVER_S - 1)
        for server in servers:
            server.thaw()
        await asyncio.sleep(_LONG_S)
        assert self.shard(coordinator).lineage == lineage


def lived(life: CutOff) -> float:
    """Live that life; how long it took until another led."""
    with collecting_nothing():
        outcome = life.run()
        life.world.loop.close()
    assert outcome.failure is None, outcome.failure
    return life.took_s


@pytest.mark.parametrize("store", StoreKind)
@pytest.mark.parametrize("seed", range(3))
def test_another_leads_in_time(seed: int, store: StoreKind) -> None:
    assert lived(CutOff(seed, store)) <= _FAILOVER_S + 1


def test_without_what_the_end_of_its_lease_tells_it_takes_longer() -> None:
    silent_s = Silence.silent_s
    with patch.object(Silence, "silent_s", lambda self, member: silent_s(replace(self, lapse=None), member)):
        assert lived(CutOff(0)) > _FAILOVER_S + 2


@pytest.mark.parametrize("failover_s", [0.5, _FAILOVER_S])
def test_nobody_else_leads_where_only_the_agent_is_cut_off(failover_s: float) -> None:
    lived(AgentCutOff(1, failover_s=failover_s))


def test_the_servers_of_a_host_whose_agent_is_back_have_their_whole_time() -> None:
    lived(AgentBack(1))
