"""Clients that hammer a few keys through several routers and note what they saw and when, for the checker."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence

import redis.asyncio
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoAnswer
from tests.linearizability import Operation, Reply, error
from tests.noting_clients import NotingClients, code_of

from helios.model.ids import Address

# Reads are the witnesses. Appended pieces would grow without end if nothing took their place now and then.
REGISTER = ("GET", "GET", "GET", "SET", "SET", "GETSET", "APPEND", "DEL")
COUNTER = ("INCR", "INCR", "GET")


class Recorder(NotingClients):
    """Histories of keys that nobody else writes and that do not exist at the start."""

    def __init__(
        self,
        ports: Sequence[int | Address],
        keys: Sequence[str],
        *,
        seed: int,
        pause_s: float = 0.002,
        login: tuple[str, str] | None = None,
        patience_s: float = 15,
    ) -> None:
        """The first half of the keys are registers."""
        super().__init__(ports, seed=seed, pause_s=pause_s, login=login, patience_s=patience_s)
        self._keys = list(keys)
        self._histories: dict[str, list[Operation]] = {key: [] for key in keys}

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

    async def _act(self, client: redis.asyncio.Redis, chooser: random.Random, number: int, count: int) -> bool:
        index = chooser.randrange(len(self._keys))
        command = chooser.choice(REGISTER if index < len(self._keys) / 2 else COUNTER)
        argument = f"{number}.{count} " if command in ("SET", "GETSET", "APPEND") else ""
        return await self._note(client, number, command, self._keys[index], argument)

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
            self.refused[code_of(error)] += 1
            if code_of(error) != "UNKNOWN":
                return True  # It says that nothing was done.
        else:
            reply, end = b"OK" if answer is True else answer, time.monotonic()
        self._histories[key].append(Operation(number, command, argument.encode(), reply, begin, end))
        return alive
