"""The processes of a world: coordinators and routers, which run the real code and can be stopped in many ways."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import aclosing
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.loop import Process
from tests.simulation.network import Listening, Wire
from tests.simulation.scenario import Edge
from tests.simulation.store import SimStore

from helios.admin.client import Admin
from helios.coordinator.service import Coordinator
from helios.engines.memory import MemoryConnector
from helios.errors import StartError
from helios.model.durability import Durability, durabilities_of
from helios.model.sections import Reads, ReplicationSettings
from helios.model.settings import ClusterSettings
from helios.ports.following import followed
from helios.ports.records import SETTINGS
from helios.router.core import Router
from helios.router.options import RouterOptions

if TYPE_CHECKING:
    from tests.simulation.world import World

_ENGINE_TIMEOUT_S = 5.0
_DRIFT = 0.005


class ActorClock:
    """The clocks of a process's machine: they may be fast or slow, jump, and stop while it is suspended."""

    def __init__(self, world: World, rate: float) -> None:
        self.jumped_s = 0.0
        self.suspended_s = 0.0
        self._world = world
        self._rate = rate

    def wall(self) -> float:
        return self._world.clock.wall() + self.jumped_s

    def monotonic(self) -> float:
        return (self._world.loop.time() - self.suspended_s) * self._rate

    def boottime(self) -> float:
        return self._world.loop.time() * self._rate


class Actor(ABC):
    """A process with its handle of the store and its way to the servers; made anew with each start."""

    process: Process
    store: SimStore
    connector: MemoryConnector
    root: asyncio.Task[None]

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.starts = 0
        self.alive = False
        random = Random(f"{world.seed}/clock of {name}")
        drifts = Edge.CLOCKS in world.scenario.edges
        self.clock = ActorClock(world, 1 + random.uniform(-_DRIFT, _DRIFT) if drifts else 1.0)

    def start(self) -> None:
        """Begin a new life."""
        world = self.world
        self.starts += 1
        self.alive = True
        self.process = Process(f"{self.name}/{self.starts}")
        random = Random(f"{world.seed}/{self.process.name}")
        self.store = world.store(random)
        self.store.very_late = 0.01 if Edge.STORE in world.scenario.edges else 0.0
        self.connector = MemoryConnector(
            world.addresses, origin=self.process.name, connect_timeout_s=1.0, timeout_s=_ENGINE_TIMEOUT_S
        )
        process = self.process
        self.root = world.loop.create_task(self._main(), context=process.context)
        self.root.add_done_callback(lambda task: self._ended(process, task), context=world.loop.outside)

    def kill(self) -> None:
        """End it as kill -9 does; what it has sent still arrives."""
        if not self.alive:
            return
        self.alive = False
        self.world.loop.kill(self.process)
        for server in self.world.everyone():
            server.cut(self.process.name)
            server.heal(self.process.name)

    def stop(self) -> None:
        """End it as a supervisor does: it may clean up behind itself."""
        if self.alive:
            self.alive = False
            self.root.cancel()

    def freeze(self) -> None:
        """Stop it where it stands."""
        self.world.loop.freeze(self.process)

    def thaw(self) -> None:
        """Let it go on."""
        self.world.loop.thaw(self.process)

    def _ended(self, process: Process, task: asyncio.Task[None]) -> None:
        if process.dead or task.cancelled():
            return
        failure = task.exception()
        if self.alive and process is self.process:
            self.alive = False
            self.world.loop.send_later(0.5, self.start)
        if not isinstance(failure, StartError):
            self.world.fail(f"{process.name} has died of {failure!r}", failure)

    @abstractmethod
    async def _main(self) -> None:
        """What the process does."""


class CoordinatorActor(Actor):
    """A candidate for coordinator, which stands for a node."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.node = name

    async def _main(self) -> None:
        settings = self.world.scenario.settings
        await Coordinator(self.store, self.connector, self.clock, node_id=self.node, settings=settings).run()


class RouterActor(Actor):
    """A router, which clients call."""

    listening: Listening | None = None
    router: Router | None = None

    @property
    def epoch(self) -> int:
        """Of the topology that it knows; 0 if of none."""
        return 0 if self.router is None else self.router.topology.epoch

    def start(self) -> None:
        """Begin a new life, with no client."""
        self.listening = None
        self._wires: list[Wire] = []
        super().start()

    async def _main(self) -> None:
        world = self.world
        admin = Admin(self.store, self.connector, self.clock)
        options = self._options(world.scenario.settings.replication)
        self.router = router = Router(self.store, self.connector, admin, self.clock, options)
        await router.start()
        await router.serve("router", 0)
        self.listening = world.network.listening
        try:
            await self._follow_settings(router)
        finally:
            await router.stop()

    async def _follow_settings(self, router: Router) -> None:
        """For ever: go by what a person sets, where somebody does."""
        if self.world.scenario.edges.isdisjoint((Edge.SETTINGS, Edge.PROMISES)):
            await asyncio.Event().wait()
        async with aclosing(followed(self.store, ClusterSettings, SETTINGS)) as records:
            async for settings in records:
                router.configure(self._options(settings.replication))

    def _options(self, replication: ReplicationSettings) -> RouterOptions:
        world = self.world
        return RouterOptions(
            inspected=False,
            watches_scripts=False,
            node=self.name,
            session_ttl_s=world.scenario.session_ttl_s,
            member_timeout_s=_ENGINE_TIMEOUT_S,
            hold_timeout_s=world.scenario.hold_timeout_s,
            quorum=replication.durability is Durability.QUORUM,
            quorum_by_key=tuple(
                (pattern, durability is Durability.QUORUM)
                for pattern, durability in durabilities_of(replication.durability_by_key)
            ),
            linearizable=replication.reads is Reads.LINEARIZABLE,
            ack_timeout_s=replication.ack_timeout,
            max_staleness_s=replication.max_staleness,
            turn_s=0.0,  # by the real clock, which would make a life differ from run to run
        )

    def kill(self) -> None:
        """End it; its clients learn that the connection is lost."""
        super().kill()
        for wire in self._wires:
            wire.lose()

    def connect(self) -> Wire | None:
        """A client's connection; None where it is refused."""
        if not self.alive or self.listening is None or not self.listening.open:
            return None
        wire = Wire(self.world.loop, self.process, self.listening)
        self._wires.append(wire)
        return wire
