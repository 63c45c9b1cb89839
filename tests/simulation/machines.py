"""Nodes of a world whose shards have several members: the real code of agents over servers that are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, cast

from tests.simulation.actors import Actor
from tests.simulation.servers import ADMIN, SimServer

from helios.errors import StartError, StoreError
from helios.model.ids import Address, founder_id
from helios.node.files import NodeFolder
from helios.node.keeper import MemberKeeper
from helios.node.member import MemberServer
from helios.node.members import Members
from helios.ports.records import MemberRecord

if TYPE_CHECKING:
    from tests.simulation.replicated import ReplicatedWorld

_KILLED = -9
_LOADS_S = 0.15  # on average
_ELSEWHERE = 0.5  # how often a server's port is taken, in lives in which that happens


@dataclass(eq=False)
class Placed:
    """A server's files, and the server that runs on them or does not; `epoch` is what is remembered beside them."""

    server: SimServer
    address: Address
    has_data: bool = False
    epoch: int = 0


class Machine:
    """What a node has, whether its agent runs or not. `make` makes a server that has never run."""

    def __init__(self, node: str, random: Random, make: Callable[[str], Placed]) -> None:
        self.node = node
        self.random = random
        self.placed: dict[str, Placed] = {}  # by member id
        self._make = make

    @property
    def servers(self) -> list[SimServer]:
        """All of its servers."""
        return [placed.server for placed in self.placed.values()]

    def place(self, member_id: str) -> Placed:
        """The member's files, made where there are none."""
        if member_id not in self.placed:
            self.placed[member_id] = self._make(member_id)
        return self.placed[member_id]


class _Folder:
    """A node's folder, as far as agents look into it here."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.root = self

    @property
    def name(self) -> str:
        return self._machine.node

    def others(self) -> list[str]:
        return sorted(self._machine.placed.keys() - {founder_id(self.name)})

    def members(self) -> Iterator[object]:
        return iter(())

    def clear_discarded(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Spec:
    id: str
    node: str


class _Process:
    """A run of a server."""

    def __init__(self, server: SimServer) -> None:
        self._server = server
        self._starts = server.starts

    async def wait(self) -> int:
        while self._server.up and self._server.starts == self._starts:
            await self._server.ended()
        return _KILLED


class _Member:
    """A data server of a node, as its keeper knows one."""

    crowded = False

    def __init__(self, machine: Machine, world: ReplicatedWorld, member_id: str) -> None:
        self.spec = _Spec(member_id, machine.node)
        self.process: _Process | None = None
        self._machine = machine
        self._world = world

    @property
    def _placed(self) -> Placed:
        return self._machine.place(self.spec.id)

    @property
    def state(self) -> Placed | None:
        return self._machine.placed.get(self.spec.id)

    def has_data(self) -> bool:
        return self._placed.has_data

    def port_taken(self) -> bool:
        return False

    async def start(self, *, needed: bool, leads: bool = True) -> None:
        placed = self._placed
        if not placed.server.up:
            if needed and not placed.has_data:
                raise StartError(f"the data of {self.spec.id} is gone")
            await asyncio.sleep(self._machine.random.expovariate(1 / _LOADS_S))
            placed.server.replication.detached_at_start = not leads
            self._world.run_server(self.spec.id, placed)
            placed.has_data = True
        self.process = _Process(placed.server)

    def record(self) -> MemberRecord:
        placed = self._placed
        run = f"run {placed.server.starts}"
        return MemberRecord(self.spec.id, self.spec.node, placed.address, *ADMIN, run=run)

    def remember_epoch(self, epoch: int) -> None:
        self._placed.epoch = epoch

    async def answers(self) -> bool:
        return not self._placed.server.frozen

    async def stop(self) -> None:
        if self.process is not None and self._placed.server.up:
            self._placed.server.sync()
            self._placed.server.crash()
        self.process = None

    async def discard(self) -> None:
        self._world.discard(self._machine, self.spec.id)

    async def remove(self) -> None:
        if self.state is not None:
            self.process = _Process(self._placed.server)
            await self.stop()
            await self.discard()


class AgentActor(Actor):
    """The agent of a node, as far as it runs the node's servers."""

    def __init__(self, world: ReplicatedWorld, machine: Machine) -> None:
        super().__init__(world, f"agent of {machine.node}")
        self.machine = machine
        self._nodes = world

    async def _main(self) -> None:
        members = Members(cast(NodeFolder, _Folder(self.machine)), self.store, self._keeper)
        try:
            await members.start()
            await members.keep()
        except StoreError as error:
            raise StartError(f"the agent ends: {error}") from error
        finally:
            await members.stop()

    def _keeper(self, member_id: str) -> MemberKeeper:
        server = cast(MemberServer, _Member(self.machine, self._nodes, member_id))
        return MemberKeeper(server, self.store, self.clock, self._tell)

    async def _tell(self, sentence: str) -> None:
        self.world.note(f"{self.name}: {sentence}")
