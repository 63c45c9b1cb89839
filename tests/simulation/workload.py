"""Clients that write and read keys of their own through random routers, and now and then some that others use, too."""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.asking import Asked, Asker
from tests.simulation.data import Fault, to_argv
from tests.simulation.history import QUESTIONS_MAX, Command, Impossible, KeyHistory
from tests.simulation.rivalry import Rivalry
from tests.simulation.scenario import Edge
from tests.simulation.scripting import Scripting
from tests.simulation.scripts import FLUSH_SCRIPT

if TYPE_CHECKING:
    from tests.simulation.world import World

_MARGIN_S = 0.5
_DRIFT = 1.01  # of routers' clocks, at most
_KINDS = ("user", "cart", "session")


class Client:
    """One client: a command, its answer, some thought, the next command."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._asker = Asker(world, number)
        self._random = self._asker.random
        self._reader = Asker(world, number)
        self._reader.random = Random(f"{world.seed}/reader {number}")
        self._rivalry = Rivalry(self._asker)
        self._scripting = Scripting(self._asker)
        scenario = world.scenario
        self.keys = [
            KeyHistory(f"{self._random.choice(_KINDS)}:{number}:{index}".encode(), skew_ms=scenario.skew_ms)
            for index in range(scenario.keys_per_client + scenario.cold_keys_per_client)
        ]
        self._cold = self.keys[: scenario.cold_keys_per_client]
        self._streams = self.keys[len(self.keys) - scenario.streams_per_client :]
        self._strings = self.keys[: len(self.keys) - scenario.streams_per_client]
        if Edge.LEADER_READS in scenario.edges:
            # A router that has not heard of another leader may go by the one of before until its lease has ended.
            for history in self.keys:
                history.read_back_ms = (scenario.session_ttl_s + _MARGIN_S) * 1000
        self._brought: list[KeyHistory] = []
        self._flushes = 0
        self.arriving: dict[KeyHistory, Command] = {}
        self._loads = Edge.SCRIPTS in scenario.edges and number == 0
        self._deeds = self._choices()

    def _choices(self) -> dict[str, int]:
        """What it does, and how often."""
        scenario = self._world.scenario
        return {
            "single": 60,
            "count": 15 if scenario.counters else 0,
            "count watching": 5 if scenario.counters else 0,
            "register": scenario.register_weight if scenario.registers else 0,
            "pair": 8 if scenario.pairs else 0,
            "queue": 12 if scenario.queues else 0,
            "several": 12 if Edge.SEVERAL in scenario.edges else 0,
            "script": 12 if Edge.SCRIPTS in scenario.edges else 0,
            "undeclared": 5 if Edge.SCRIPTS in scenario.edges else 0,
            "read made up": 2 if Edge.SCRIPTS in scenario.edges else 0,
            "remember": 1 if Edge.SCRIPTS in scenario.edges else 0,
            "load": 2 if self._loads else 0,
            "scan": 2,
            "flush": scenario.flush_weight if Edge.FLUSHES in scenario.edges else 0,
            "flush one": 1 if Edge.LOSING in scenario.edges else 0,
            "read from replicas": 40 if Edge.REPLICA_READS in scenario.edges else 0,
        }

    def expect(self, key: bytes, value: bytes) -> None:
        """Use this key, too: it may come with a server that joins, if the cluster has none of that name."""
        self.arriving[self._use(key)] = Command("IMPORT", value)

    def inherit(self, key: bytes, value: bytes) -> None:
        """Use this key, too: a server has it of which the cluster is made."""
        now_ms = self._world.clock.wall() * 1000
        self._use(key).answered(Command("SET", value), b"OK", now_ms, now_ms)

    def _use(self, key: bytes) -> KeyHistory:
        history = KeyHistory(key, skew_ms=self._world.scenario.skew_ms)
        self._brought.append(history)
        self.keys.append(history)
        self._strings.append(history)
        return history

    async def run(self) -> None:
        """Until the world wants no more."""
        world, random = self._world, self._random
        deeds, often = list(self._deeds), list(self._deeds.values())
        while world.serving:
            await asyncio.sleep(random.expovariate(1 / world.scenario.think_s))
            try:
                [deed] = random.choices(deeds, often)
                await self._do("load" if self._loads and not world.judges.library.loaded else deed)
            except Impossible as error:
                world.fail(str(error), error)
                return

    async def _do(self, deed: str) -> None:
        world, random = self._world, self._random
        match deed:
            case "single":
                await self._single(random.choice(self._moving_streams() or self.keys + 2 * self._brought))
            case "count":
                await self._rivalry.count(random.choice(world.judges.counters))
            case "count watching":
                await self._rivalry.count_watching(random.choice(world.judges.counters))
            case "register":
                await self._rivalry.register(random.choice(world.judges.registers))
            case "pair":
                await self._rivalry.pair(random.choice(world.judges.pairs))
            case "queue":
                await self._rivalry.queue(random.choice(world.judges.queues))
            case "several":
                await self._several()
            case "script" | "undeclared":
                await self._script(deed)
            case "read made up":
                if world.judges.made_up:
                    await self._scripting.read(random.choice(list(world.judges.made_up)))
            case "remember":
                await self._scripting.remember()
            case "load":
                await self._scripting.load()
            case "scan":
                await self._scan()
            case "flush":
                await self._flush()
            case "read from replicas":
                await self._read_from_replicas(random.choice(self.keys))
            case "flush one":
                await self._asker.ask([b"EVAL", FLUSH_SCRIPT, b"1", random.choice(self.keys).key])

    def _tell(self, history: KeyHistory, command: Command, asked: Asked, answer: object) -> None:
        """What became of a command of one's own."""
        if asked.unknown:
            history.unanswered(command, asked.begin_ms, asked.end_ms)
        elif asked.refused:
            history.refused(command, asked.last.decode(), asked.end_ms)
        else:
            history.answered(command, answer, asked.begin_ms, asked.end_ms)

    # Keys of one's own

    async def _single(self, history: KeyHistory) -> None:
        if history.questions >= QUESTIONS_MAX:
            return
        if history in self._cold:
            command = self._choose_cold(history)
        elif history in self._streams:
            command = self._choose_for_stream(history)
        else:
            command = self._choose()
        asked = await self._asker.ask(to_argv(command.name, history.key, command.arguments))
        self._tell(history, command, asked, asked.last)

    async def _read_from_replicas(self, history: KeyHistory) -> None:
        """Over a connection of its own, which sees nothing of what the others write."""
        command = Command("XINFO" if history in self._streams else "GET")
        asked = await self._reader.ask([b"READONLY"], to_argv(command.name, history.key, command.arguments))
        if not (asked.unknown or asked.refused):
            back_ms = self._world.max_staleness_s * 1000 * _DRIFT
            history.looked(command, asked.last, asked.begin_ms, asked.end_ms, max(back_ms, history.read_back_ms or 0.0))

    def _moving_streams(self) -> list[KeyHistory]:
        """Own streams that are being copied: what servers tell nobody of them is easily missed now."""
        if Edge.XSETID not in self._world.scenario.edges or self._random.random() < 0.3:
            return []
        return [history for history in self._streams if self._moves(history)]

    def _moves(self, history: KeyHistory) -> bool:
        routes = self._world.invariants.routes
        return not routes.empty and routes.pair(history.key) is not None

    def _choose_cold(self, history: KeyHistory) -> Command:
        if any(possible.value.data is None or possible.open for possible in history.possible):
            return Command("SET", b"cold")
        return Command("GET")

    def _choose(self) -> Command:
        random = self._random
        token = self._asker.token()
        if random.random() < self._world.scenario.ending:
            lives_s = random.choice((0.1, 1.0, 3.0)) * random.uniform(0.1, 1.0)
            end_ms = int((self._world.clock.wall() + lives_s) * 1000)
            if random.random() < 0.2:
                return Command("PEXPIREAT", b"%d" % end_ms)
            return Command("SET", token, end_ms)
        [name] = random.choices(("GET", "APPEND", "DEL", "GETDEL", "PERSIST", "SET"), (25, 35, 10, 5, 5, 20))
        return Command(name, token) if name in ("APPEND", "SET") else Command(name)

    def _choose_for_stream(self, history: KeyHistory) -> Command:
        random = self._random
        last = self._asker.next_number()
        number = b"%d-0" % last
        earlier = b"%d-0" % random.randint(1, last)
        names = ("XADD", "XGROUP", "XREADGROUP", "XACK", "XDEL", "XSETID", "XINFO", "DEL")
        sets_ids = Edge.XSETID in self._world.scenario.edges
        # The first has groups, and the others have none: they are told apart by what servers say of them.
        grouping = 0 if sets_ids and history is not self._streams[0] else 6
        # A stream with a group is copied once more behind the fence: one that only grows would never be handed over.
        often = (30, grouping, 20, 10, 5, 30 if sets_ids else 0, 20, 8)
        if sets_ids and all(possible.value.data is None for possible in history.possible):
            often = (1, grouping // 6, 0, 0, 0, 0, 0, 0)
        elif sets_ids and self._moves(history):
            often = (0, 0, 1, 1, 0, 6, 1, 0)
        [name] = random.choices(names, often)
        match name:
            case "XADD":
                return Command(name, number, more=(b"field", self._asker.token()))
            case "XGROUP" | "XREADGROUP":
                return Command(name, b"group")
            case "XACK":
                return Command(name, b"group", more=(earlier,))
            case "XDEL":
                return Command(name, earlier)
            case "XSETID":
                return Command(name, number)
        return Command(name)

    def _free(self) -> list[KeyHistory]:
        """Keys of one's own that may be changed, and of which not too much is unknown."""
        return [history for history in self._strings if history.questions < QUESTIONS_MAX and history not in self._cold]

    async def _script(self, deed: str) -> None:
        free = self._free()
        if not free:
            return
        declared, other = self._random.choice(free), self._random.choice(free)
        if deed == "script":
            await self._scripting.append(declared)
        else:
            await self._scripting.undeclared(declared, other)

    async def _several(self) -> None:
        """MSET, MGET, DEL or EXISTS of keys of one's own, wherever they live."""
        random = self._random
        free = self._free()
        chosen = random.sample(free, min(len(free), random.randint(2, 4)))
        if not chosen:
            return
        [name] = random.choices(("MSET", "MGET", "DEL", "EXISTS"), (4, 4, 2, 1))
        keys = [history.key for history in chosen]
        match name:
            case "MSET":
                values = [self._asker.token() for _ in chosen]
                words = [word for pair in zip(keys, values, strict=True) for word in pair]
                asked = await self._asker.ask([b"MSET", *words])
                for history, value in zip(chosen, values, strict=True):
                    self._tell(history, Command("SET", value), asked, b"OK")
                if not (asked.unknown or asked.refused) and asked.last != b"OK":
                    raise Impossible(f"MSET was answered {asked.last!r}")
            case "MGET":
                asked = await self._asker.ask([b"MGET", *keys])
                if not (asked.unknown or asked.refused):
                    for history, value in zip(chosen, asked.last, strict=True):
                        self._tell(history, Command("GET"), asked, value)
            case _:
                asked = await self._asker.ask([name.encode(), *keys])
                self._tell_count(chosen, name, asked)

    def _tell_count(self, chosen: list[KeyHistory], name: str, asked: Asked) -> None:
        """How many of these keys there were is known, but not which; unless that is clear."""
        if not (asked.unknown or asked.refused):
            count = asked.last
            if count not in (0, len(chosen)):
                if name == "DEL":
                    for history in chosen:
                        history.done(history.asked(Command("DEL"), asked.begin_ms), asked.end_ms)
                return
            for history in chosen:
                self._tell(history, Command(name), asked, int(count > 0))
            return
        for history in chosen:
            self._tell(history, Command(name), asked, None)

    async def _scan(self) -> None:
        """All keys, step by step or at once; those of one's own that are there must be among them, and no others."""
        router = self._random.choice(self._world.routers)
        begin_ms = self._world.clock.wall() * 1000
        found: set[bytes] = set()
        cursor = b"0"
        at_once = self._random.random() < 0.3
        while True:
            asked = await self._asker.ask_by(router, [b"KEYS", b"*"] if at_once else [b"SCAN", cursor])
            if isinstance(asked.last, Fault):
                # The end of a scan asks the store whether there is more to visit.
                if not (asked.unknown or asked.refused or asked.last.startswith(b"STORE")):
                    raise Impossible(f"a scan was answered {asked.last!r}")
                return
            if at_once:
                found.update(asked.last)
                break
            cursor, keys = asked.last
            found.update(keys)
            if cursor == b"0":
                break
        if not self._world.scenario.lists:
            return
        end_ms = self._world.clock.wall() * 1000
        for history in self.keys:
            history.listed(there=history.key in found, begin_ms=begin_ms, end_ms=end_ms)

    async def _flush(self) -> None:
        """Everything goes, also what others have."""
        world = self._world
        if any(history.questions >= QUESTIONS_MAX for history in world.judges.histories):
            return
        now_ms = world.clock.wall() * 1000
        numbers = {history: history.asked(Command("FLUSH"), now_ms) for history in world.judges.histories}
        world.judges.doubt_order()
        invoked = world.loop.time()
        self._flushes += 1
        name = b"FLUSHALL" if self._flushes % 2 else b"FLUSHDB"
        asked = await self._asker.ask([name])
        responded = math.inf if asked.unknown else world.loop.time()
        if not asked.refused:
            for register in world.judges.registers:
                register.add(self._number, "FLUSHALL", b"", b"OK", invoked, responded)
        for history, number in numbers.items():
            if asked.refused:
                history.not_done(number, asked.end_ms)
            elif not asked.unknown:
                history.done(number, asked.end_ms)
        if not (asked.refused or asked.unknown) and asked.last != b"OK":
            raise Impossible(f"{name.decode()} was answered {asked.last!r}")
