"""How a client asks routers for something, and what it makes of their answers."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from tests.simulation.actors import RouterActor
from tests.simulation.data import Fault
from tests.simulation.network import REFUSED, Wire

if TYPE_CHECKING:
    from tests.simulation.world import World

_CLIENT_TIMEOUT_S = 3.0
_REFUSALS = (b"CLUSTERDOWN", b"TRYAGAIN", b"NOREPLICAS", b"OVERLOADED", b"UNAVAILABLE", b"CROSSSHARD", b"EXECABORT")
# What is said of a command whose other parts have been carried out.
_IN_PART = re.compile(rb"it was carried out on|it may have been on")


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers to commands that were sent together; times in Unix milliseconds."""

    answers: list[Any]
    begin_ms: float
    end_ms: float

    @property
    def last(self) -> Any:
        """The last answer."""
        return self.answers[-1]

    @property
    def unknown(self) -> bool:
        """Whether nobody knows what became of it."""
        last = self.last
        return isinstance(last, Fault) and (last.startswith(b"UNKNOWN") or _IN_PART.search(last) is not None)

    @property
    def refused(self) -> bool:
        """Whether it was said that nothing was executed."""
        return isinstance(self.last, Fault) and self.last.startswith(_REFUSALS) and not self.unknown


class Asker:
    """A client's connections to routers, one to each at a time."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.random = Random(f"{world.seed}/client {number}")
        self.name = f"c{number}"
        self.wires: dict[RouterActor, Wire] = {}
        self._tokens = 0

    async def ask(self, *commands: list[bytes], timeout_s: float = _CLIENT_TIMEOUT_S) -> Asked:
        """Send commands together to some router."""
        world = self.world
        return await self.ask_by(self.random.choice(world.routers), *commands, timeout_s=timeout_s)

    async def ask_by(self, router: RouterActor, *commands: list[bytes], timeout_s: float = _CLIENT_TIMEOUT_S) -> Asked:
        """Send commands together to this router, and take down what it answers."""
        world = self.world
        begin_ms = world.clock.wall() * 1000
        wire = self.wires.get(router)
        if wire is None or wire.lost:
            wire = router.connect()
        if wire is None:
            await asyncio.sleep(self.random.expovariate(2000))
            answers: list[Any] = [REFUSED] * len(commands)
        else:
            self.wires[router] = wire
            answers = await wire.call(list(commands), self.random.expovariate(2000), timeout_s)
        asked = Asked(answers, begin_ms, world.clock.wall() * 1000)
        words = "; ".join(b" ".join(argv).decode() for argv in commands)
        world.note(f"{self.name} via {router.name}: {words} -> {str(answers[-1])[:60]}")
        if not (asked.unknown or asked.refused):
            world.acknowledged += 1
        return asked

    def token(self) -> bytes:
        """A value that nobody has written yet."""
        return f"{self.name}.{self.next_number()};".encode()

    def next_number(self) -> int:
        """Greater than those before."""
        self._tokens += 1
        return self._tokens
