"""Clients that write, read and count through random routers, and the operator who changes the cluster meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.actors import REFUSED, Actor
from tests.simulation.history import QUESTIONS_MAX, Command, CounterHistory, Impossible, KeyHistory

from helios.admin.client import Admin
from helios.errors import HeliosError
from helios.model.topology import NodeState

if TYPE_CHECKING:
    from tests.simulation.world import World

_CLIENT_TIMEOUT_S = 3.0
_KINDS = ("user", "cart", "session")
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
}


class Client:
    """One client: a command, its answer, some thought, the next command."""

    def __init__(self, world: World, number: int, counters: list[CounterHistory]) -> None:
        self._world = world
        self._random = Random(f"{world.seed}/client {number}")
        self._counters = counters
        self._tokens = 0
        self._name = f"c{number}"
        self.keys = [
            KeyHistory(f"{self._random.choice(_KINDS)}:{number}:{index}".encode())
            for index in range(world.scenario.keys_per_client + world.scenario.cold_keys_per_client)
        ]
        self._cold = self.keys[: world.scenario.cold_keys_per_client]

    async def run(self) -> None:
        """Until the world wants no more."""
        while self._world.serving:
            await asyncio.sleep(self._random.expovariate(1 / self._world.scenario.think_s))
            try:
                if self._counters and self._random.random() < 0.2:
                    await self._count(self._random.choice(self._counters))
                else:
                    await self._command(self._random.choice(self.keys))
            except Impossible as impossible:
                self._world.fail(str(impossible), impossible)
                return

    async def _call(self, argv: list[bytes]) -> tuple[bytes, float, float]:
        world = self._world
        router = self._random.choice(world.routers)
        begin_ms = world.clock.wall() * 1000
        raw = await router.call(argv, self._random.expovariate(2000), _CLIENT_TIMEOUT_S)
        end_ms = world.clock.wall() * 1000
        world.note(f"{self._name} via {router.name}: {b' '.join(argv).decode()} -> {raw[:60]!r}")
        return raw, begin_ms, end_ms

    async def _command(self, history: KeyHistory) -> None:
        if history.questions >= QUESTIONS_MAX:
            return
        command = self._choose_cold(history) if history in self._cold else self._choose()
        raw, begin_ms, end_ms = await self._call(_argv(command, history.key))
        if raw.startswith(b"-UNKNOWN"):
            history.unanswered(command, begin_ms, end_ms)
        elif raw.startswith(b"-"):
            self._check_refusal(raw)
            history.refused(command, raw.decode(), end_ms)
        else:
            history.answered(command, _answer(raw), begin_ms, end_ms)
            self._world.acknowledged += 1

    async def _count(self, counter: CounterHistory) -> None:
        counter.asked += 1
        raw, begin_ms, end_ms = await self._call([b"INCR", counter.key])
        if raw.startswith(b"-UNKNOWN"):
            counter.unanswered += 1
        elif raw.startswith(b"-"):
            self._check_refusal(raw)
        else:
            counter.answered(int(raw[1:]), begin_ms, end_ms)
            self._world.acknowledged += 1

    def _check_refusal(self, raw: bytes) -> None:
        if not raw[1:].decode().startswith(REFUSED):
            raise Impossible(f"a client was answered {raw!r}")

    def _choose_cold(self, history: KeyHistory) -> Command:
        if any(possible.value.data is None or possible.open for possible in history.possible):
            return Command("SET", b"cold")
        return Command("GET")

    def _choose(self) -> Command:
        random = self._random
        self._tokens += 1
        token = f"{self._name}.{self._tokens};".encode()
        if random.random() < self._world.scenario.ending:
            lives_s = random.choice((0.1, 1.0, 3.0)) * random.uniform(0.1, 1.0)
            return Command("SET", token, int((self._world.clock.wall() + lives_s) * 1000))
        choice = random.random()
        if choice < 0.25:
            return Command("GET")
        if choice < 0.6:
            return Command("APPEND", token)
        if choice < 0.75:
            return Command("DEL")
        return Command("SET", token)


class Operator(Actor):
    """Whoever changes the cluster: a verb now and then, at random."""

    async def _main(self) -> None:
        world = self.world
        random = Random(f"{world.seed}/operator")
        admin = Admin(self.store, self.connector, world.clock)
        while self._goes_on():
            await asyncio.sleep(random.expovariate(1 / world.scenario.verb_every_s))
            if self._goes_on():
                await self._verb(admin, random)
        await asyncio.Event().wait()

    def _goes_on(self) -> bool:
        # In a brief life nothing new is begun behind the last fault, or most of it would be spent in calm moves.
        return self.world.serving and not (self.world.scenario.brief and self.world.faults.over)

    async def _verb(self, admin: Admin, random: Random) -> None:
        world = self.world
        what, ask = await self._choose(admin, random)
        try:
            await ask
        except HeliosError as error:
            world.note(f"operator: {what}: {error.code}")
        else:
            world.note(f"operator: {what}: done")

    async def _choose(self, admin: Admin, random: Random) -> tuple[str, Awaitable[object]]:
        world = self.world
        ids = sorted(world.servers)
        nodes = world.invariants.topology.nodes
        members = [node.id for node in nodes]
        one, other = random.choice(members or ids), random.choice(members or ids)
        [deed] = random.choices(list(_DEEDS), list(_DEEDS.values()))
        match deed:
            case "migrate":
                pattern = random.choice(("*", "user:*", "cart:*", "*:1:*", "n:*", "*[02468]", "session:*"))
                return f"migrate {one} {other} {pattern}", admin.migrate(one, other, pattern)
            case "add":
                one = random.choice([shard for shard in ids if shard not in members] or ids)
                weight, flush = random.choice((0.5, 1.0, 2.0)), random.random() < 0.7
                return f"add {one}", admin.add_node(one, str(world.address(one)), weight=weight, flush=flush)
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
            case "pause":
                return deed, self._to_one(admin, random, admin.pause_migration)
            case "resume":
                return deed, self._to_one(admin, random, admin.resume_migration)
        return deed, self._to_one(admin, random, admin.cancel_migration)

    async def _to_one(self, admin: Admin, random: Random, verb: Callable[[str], Awaitable[object]]) -> None:
        active = await admin.active_migrations()
        if active:
            await verb(random.choice(active).id)


def _argv(command: Command, key: bytes) -> list[bytes]:
    argv = [command.name.encode(), key]
    if command.data:
        argv.append(command.data)
    if command.expire_at_ms is not None:
        argv += [b"PXAT", b"%d" % command.expire_at_ms]
    return argv


def _answer(raw: bytes) -> object:
    if raw.startswith(b"+"):
        return raw[1:-2]
    if raw.startswith(b":"):
        return int(raw[1:])
    return None if raw == b"$-1\r\n" else raw.split(b"\r\n", 1)[1][:-2]
