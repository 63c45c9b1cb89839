"""Clients that hammer a few keys through several routers and note what they saw and when, for the checker."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Sequence

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoAnswer
from tests.linearizability import Operation, Reply, error

# Reads are the witnesses. Appended pieces would grow without end if nothing took their place now and then.
REGISTER = ("GET", "GET", "GET", "SET", "SET", "GETSET", "APPEND", "DEL")
COUNTER = ("INCR", "INCR", "GET")


class Recorder:
    """Histories of keys that nobody else writes and that do not exist at the start."""

    def __init__(self, ports: Sequence[int], keys: Sequence[str], *, seed: int, pause_s: float = 0.002) -> None:
        self.refused: Counter[str] = Counter()
        self._ports = list(ports)
        self._keys = list(keys)
        self._seed = seed
        self._pause_s = pause_s
        self._histories: dict[str, list[Operation]] = {key: [] for key in keys}
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, clients: int) -> None:
        """Begin with so many clients, each on its own port in turn. The first half of the keys are registers."""
        self._tasks += [asyncio.create_task(self._run(number)) for number in range(clients)]

    async def stop(self) -> None:
        """End the clients, each after its last answer."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    @property
    def operations(self) -> int:
        """How many have been answered."""
        return sum(not operation.open for history in self._histories.values() for operation in history)

    @property
    def open(self) -> int:
        """Of how many nobody knows whether they happened."""
        return sum(operation.open for history in self._histories.values() for operation in history)

    def check(self) -> None:
        """Fail where the history of a key cannot be put in order."""
        for key, history in self._histories.items():
            said = error(history)
            assert said is None, f"{key}: {said}"

    async def _run(self, number: int) -> None:
        chooser = random.Random(f"{self._seed}-{number}")
        turn = number
        client = self._connect(turn)
        count = 0
        while not self._stopping.is_set():
            count += 1
            index = chooser.randrange(len(self._keys))
            command = chooser.choice(REGISTER if index < len(self._keys) / 2 else COUNTER)
            argument = f"{number}.{count} " if command in ("SET", "GETSET", "APPEND") else ""
            if not await self._note(client, number, command, self._keys[index], argument):
                await client.aclose()
                turn += 1
                client = self._connect(turn)
            await asyncio.sleep(self._pause_s)
        await client.aclose()

    def _connect(self, turn: int) -> redis.asyncio.Redis:
        port = self._ports[turn % len(self._ports)]
        retry = Retry(NoBackoff(), 0)
        return redis.asyncio.Redis(port=port, socket_timeout=15, retry=retry, single_connection_client=True)

    async def _note(self, client: redis.asyncio.Redis, number: int, command: str, key: str, argument: str) -> bool:
        """Do one thing and note it; whether the connection is still good."""
        words = [command, key, argument] if argument else [command, key]
        begin = time.monotonic()
        reply: Reply = None
        end, alive = math.inf, True
        try:
            answer = await client.execute_command(*words)
        except (LostConnection, NoAnswer):
            alive = False
        except ResponseError as error:
            code = str(error).split(" ")[0]
            self.refused[code] += 1
            if code != "UNKNOWN":
                return True  # It says that nothing was done.
        else:
            reply, end = b"OK" if answer is True else answer, time.monotonic()
        self._histories[key].append(Operation(number, command, argument.encode(), reply, begin, end))
        return alive
