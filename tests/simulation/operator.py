"""The operator, who changes the cluster while clients use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.actors import Actor
from tests.simulation.scenario import Edge

from helios.admin.client import Admin
from helios.errors import HeliosError
from helios.model.topology import NodeState

if TYPE_CHECKING:
    from tests.simulation.world import World

# What operators ask for, and how often.
_DEEDS = {
    "migrate": 40,
    "add": 18,
    "remove": 12,
    "reweight": 5,
    "drain": 4,
    "undrain": 3,
    "rebalance": 8,
    "cancel": 10,
    "pause": 5,
    "resume": 5,
    "repair": 3,
    "set": 5,
}
_SETTINGS = (
    ("sharding.migration_rate", ("0", "20", "500")),
    ("sharding.max_concurrent_migrations", ("1", "3")),
    ("sharding.verify_moves", ("true", "false")),
    ("sharding.auto_rebalance", ("true", "false")),
    ("coordinator.fence_budget", ("1", "100")),
    ("coordinator.copy_batch", ("1", "20")),
)
_REQUEST_TIMEOUT_S = 2.0
_FIRST_AFTER_S = 0.4
_WHOLE = 0.7  # how often everything is to move from where routers are held up


class Operator(Actor):
    """Whoever changes the cluster: a verb now and then, at random."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self._source = ""  # whose keys are to move next
        self._wished = asyncio.Event()
        self._open = 0
        self.idle = asyncio.Event()  # no request is without its answer
        self.idle.set()

    def wish(self, source: str) -> None:
        """Let this shard's keys move soon."""
        self._source = source
        self._wished.set()

    async def _main(self) -> None:
        world = self.world
        random = Random(f"{world.seed}/operator")
        admin = Admin(self.store, self.connector, self.clock)
        # A life without a move shows nothing: one begins as soon as there is something to move.
        edges = world.scenario.edges
        if Edge.SCRIPTS in edges:
            first = ["add", "rebalance"]  # keys come to a server that has none of the functions yet
        else:
            first = ["add" if Edge.IMPORTS in edges else "rebalance" if Edge.ADOPTED in edges else "migrate"]
        await asyncio.sleep(_FIRST_AFTER_S)
        while self._goes_on():
            await self._verb(admin, random, first.pop(0) if first else None)
            with suppress(TimeoutError):
                async with asyncio.timeout(random.expovariate(1 / world.scenario.verb_every_s)):
                    await self._wished.wait()
                    self._wished.clear()
                    first = ["migrate"]
        await asyncio.Event().wait()

    def _goes_on(self) -> bool:
        # In a brief life nothing new is begun behind the last fault, or most of it would be spent in calm moves.
        return self.world.serving and not (self.world.scenario.brief and self.world.faults.over)

    async def _verb(self, admin: Admin, random: Random, deed: str | None) -> None:
        what, ask = await self._choose(admin, random, deed or random.choices(list(_DEEDS), list(_DEEDS.values()))[0])
        await self.ask(what, ask)

    async def ask(self, what: str, request: Awaitable[object]) -> None:
        """Ask for something, and take down what is said to it."""
        with self._asking():
            try:
                await request
            except HeliosError as error:
                self.world.note(f"{self.name}: {what}: {error.code}")
            else:
                self.world.note(f"{self.name}: {what}: done")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._open += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self.idle.set()

    async def _choose(self, admin: Admin, random: Random, deed: str) -> tuple[str, Awaitable[object]]:
        world = self.world
        ids = sorted(world.servers)
        nodes = world.invariants.topology.nodes
        members = [node.id for node in nodes]
        one, other = random.choice(members or ids), random.choice(members or ids)
        wished = self._source in members
        if wished:
            one, self._source = self._source, ""
        elif Edge.IMPORTS in world.scenario.edges and random.random() < 0.3:
            deed = "add"
        match deed:
            case "migrate":
                whole = _WHOLE if wished else 0
                pattern = (
                    "*"
                    if random.random() < whole
                    else random.choice(("*", "user:*", "cart:*", "*:1:*", "n:*", "*[02468]", "session:*"))
                )
                return f"migrate {one} {other} {pattern}", admin.migrate(one, other, pattern)
            case "add":
                one = random.choice([shard for shard in ids if shard not in members] or ids)
                weight, flush = random.choice((0.5, 1.0, 2.0)), random.random() < 0.7
                brings = Edge.IMPORTS in world.scenario.edges and random.random() < 0.8
                return f"add {one}{' with its keys' if brings else ''}", admin.add_node(
                    one, str(world.address(one)), weight=weight, flush=flush and not brings, import_keys=brings
                )
            case "remove":
                return f"remove {one}", admin.remove_node(one)
            case "reweight":
                weight = random.choice((0.2, 1.0, 3.0))
                return f"reweight {one} {weight:g}", admin.reweight(one, weight)
            case "drain":
                return f"drain {one}", admin.drain(one)
            case "undrain":
                one = random.choice([node.id for node in nodes if node.state is NodeState.DRAINED] or ids)
                return f"undrain {one}", admin.undrain(one)
            case "rebalance":
                strategy, by = random.choice(("minimize_movement", "uniform")), random.choice(("keys", "bytes", "ops"))
                return f"rebalance {strategy} {by}", admin.rebalance(strategy=strategy, by=by)
            case "repair":
                return deed, self._repair(admin)
            case "set":
                name, values = random.choice(_SETTINGS)
                value = random.choice(values)
                return f"set {name} {value}", admin.change_setting(name, value)
            case "pause":
                return deed, self._to_one(admin, random, admin.pause_migration)
            case "resume":
                return deed, self._to_one(admin, random, admin.resume_migration)
        return deed, self._to_one(admin, random, admin.cancel_migration)

    async def _repair(self, admin: Admin) -> None:
        """Wait for it for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                await admin.check(repair=True)

    async def _to_one(self, admin: Admin, random: Random, verb: Callable[[str], Awaitable[object]]) -> None:
        active = await admin.active_migrations()
        if active:
            await verb(random.choice(active).id)
