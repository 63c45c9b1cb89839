"""What a client does to keys that others use at the same time: counters, registers, pairs and queues."""

from __future__ import annotations

import asyncio
import math

from tests.simulation.asking import Asker
from tests.simulation.data import Fault
from tests.simulation.history import CounterHistory, Impossible
from tests.simulation.scenario import Edge
from tests.simulation.scripts import BOTH_SCRIPT, COUNT_SCRIPT, sha_of
from tests.simulation.shared import Pair, Queue, Register

_REGISTER = ("GET", "GET", "GET", "SET", "GETSET", "APPEND", "DEL")


class Rivalry:
    """One client among others."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._random = asker.random
        self._world = asker.world

    async def count(self, counter: CounterHistory) -> None:
        """Count up."""
        counter.asked += 1
        asked = await self._asker.ask([b"INCR", counter.key])
        if asked.unknown:
            counter.unanswered += 1
        elif not asked.refused:
            counter.answered(_integer(asked.last), asked.begin_ms, asked.end_ms)

    async def count_watching(self, counter: CounterHistory) -> None:
        """The same as a transaction that comes to nothing if somebody else was quicker."""
        router = self._random.choice(self._world.routers)
        asked = await self._asker.ask_by(router, [b"WATCH", counter.key], [b"GET", counter.key])
        if any(isinstance(answer, Fault) for answer in asked.answers):
            if not (asked.refused or asked.unknown) and isinstance(asked.last, Fault):
                raise Impossible(f"a GET behind a WATCH was answered {asked.last!r}")
            return
        following = int(asked.last or b"0") + 1
        wire = self._asker.wires[router]
        await asyncio.sleep(self._random.expovariate(1 / self._world.scenario.think_s) / 4)
        if self._asker.wires[router] is not wire or wire.lost:
            return  # and with the connection what it watched
        counter.asked += 1
        asked = await self._asker.ask_by(router, [b"MULTI"], [b"SET", counter.key, b"%d" % following], [b"EXEC"])
        # A connection of its own that was lost in between watches nothing.
        if any(isinstance(answer, Fault) for answer in asked.answers[:-1]) and not asked.unknown:
            counter.asked -= 1
        elif asked.unknown:
            counter.unanswered += 1
        elif asked.last is None or asked.refused:
            counter.asked -= 1
        else:
            counter.answered(following, asked.begin_ms, asked.end_ms)

    async def register(self, register: Register) -> None:
        """Read or write."""
        if register.closed:
            return
        name = self._random.choice(_REGISTER)
        argument = self._asker.token() if name in ("SET", "GETSET", "APPEND") else b""
        invoked = self._world.loop.time()
        asked = await self._asker.ask([name.encode(), register.key, *([argument] if argument else [])])
        if asked.refused or (name == "GET" and Edge.LEADER_READS in self._world.scenario.edges):
            return
        responded = math.inf if asked.unknown else self._world.loop.time()
        register.add(self._asker.number, name, argument, None if asked.unknown else asked.last, invoked, responded)

    async def pair(self, pair: Pair) -> None:
        """Count two keys up in one transaction, or read both in a script."""
        if self._random.random() < 0.4:
            asked = await self._asker.ask([b"EVAL", BOTH_SCRIPT, b"2", pair.one, pair.other])
            if not (asked.unknown or asked.refused):
                pair.seen(asked.last, "a script")
            return
        counting = [b"INCR", pair.one], [b"INCR", pair.other]
        if Edge.SCRIPTS in self._world.scenario.edges and self._random.random() < 0.5:
            # What the first call has given the server, the second finds there.
            counting = [b"EVAL", COUNT_SCRIPT, b"1", pair.one], [b"EVALSHA", sha_of(COUNT_SCRIPT), b"1", pair.other]
        asked = await self._asker.ask([b"MULTI"], *counting, [b"EXEC"])
        if asked.unknown:
            pair.perhaps += 1
        elif not asked.refused and asked.last is not None:  # else the connection watched a key for another
            pair.seen(asked.last, "a transaction")
            pair.done(asked.begin_ms)

    async def queue(self, queue: Queue) -> None:
        """Push, or wait a moment for an element."""
        if self._random.random() < 0.5:
            token = self._asker.token()
            asked = await self._asker.ask([b"RPUSH", queue.key, token])
            if asked.unknown:
                queue.perhaps_pushed.add(token)
            elif not asked.refused:
                queue.pushed.add(token)
            return
        asked = await self._asker.ask([b"BLPOP", queue.key, b"%.2f" % self._random.uniform(0.05, 0.6)])
        if asked.unknown:
            queue.perhaps_popped += 1
        elif isinstance(asked.last, list):
            queue.came(asked.last[1])


def _integer(answer: object) -> int:
    if not isinstance(answer, int):
        raise Impossible(f"an INCR was answered {answer!r}")
    return answer
