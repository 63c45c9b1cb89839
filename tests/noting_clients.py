"""Clients that do one thing after another through several routers and note what came of it."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, ResponseError, TryAgainError

from helios.model.ids import Address


class NotingClients(ABC):
    """Begins and ends them; who derives says what they do."""

    def __init__(
        self,
        ports: Sequence[int | Address],
        *,
        seed: int,
        pause_s: float,
        login: tuple[str, str] | None = None,
        patience_s: float = 15,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self._ports = list(ports)
        self._login = login
        self._patience_s = patience_s
        self._seed = seed
        self._pause_s = pause_s
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, clients: int) -> None:
        """Begin with so many clients, each on its own port in turn."""
        self._tasks += [asyncio.create_task(self._run(number)) for number in range(clients)]

    async def stop(self) -> None:
        """End the clients, each after its last answer."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    @abstractmethod
    async def _act(self, client: redis.asyncio.Redis, chooser: random.Random, number: int, count: int) -> bool:
        """Do one thing, the client's so manieth, and note it; whether the connection is still good."""

    async def _run(self, number: int) -> None:
        chooser = random.Random(f"{self._seed}-{number}")
        turn, count = number, 0
        client = self._connect(turn)
        while not self._stopping.is_set():
            count += 1
            if not await self._act(client, chooser, number, count):
                await client.aclose()
                turn += 1
                client = self._connect(turn)
            await asyncio.sleep(self._pause_s)
        await client.aclose()

    def _connect(self, turn: int) -> redis.asyncio.Redis:
        return connected(self._ports[turn % len(self._ports)], self._login, self._patience_s)


def connected(port: int | Address, login: tuple[str, str] | None, patience_s: float) -> redis.asyncio.Redis:
    """A client with one connection, to a port of this machine or elsewhere, that repeats nothing by itself."""
    place = Address("127.0.0.1", port) if isinstance(port, int) else port
    name, password = login or (None, None)
    return redis.asyncio.Redis(
        host=place.host,
        port=place.port,
        username=name,
        password=password,
        socket_timeout=patience_s,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
    )


def code_of(error: ResponseError) -> str:
    """The code of an error, which redis-py takes off where it has a class for it."""
    known = {ClusterDownError: "CLUSTERDOWN", TryAgainError: "TRYAGAIN"}
    return known.get(type(error)) or str(error).split(" ")[0]
