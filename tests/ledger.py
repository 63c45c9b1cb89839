"""Writers that note what was acknowledged, and the reckoning at the end: every acknowledged effect, once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff, NoBackoff
from redis.exceptions import ClusterDownError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as NoAnswer

from helios.model.ids import Address

SPACES = ("user", "order", "session")
FAR_MS = 4102444800000  # the year 2100: no key of the ledger expires during a test


@dataclass
class Entry:
    """What is known of one key: acknowledged and uncertain effects."""

    acknowledged: list[str] = field(default_factory=list)
    uncertain: list[str] = field(default_factory=list)


class Ledger:
    """A bounded load on several ports. Each register key has one writer; counters and lists are shared.

    An error that says nothing was executed counts as refused; a lost connection, a time-out and
    `-UNKNOWN` leave the effect uncertain: it may be there once, or not, or come late. So ledgers that follow each
    other in one cluster have a `label` each, which is in all their names.
    """

    def __init__(
        self,
        ports: Sequence[int | Address],
        *,
        seed: int,
        keys: int = 60,
        pause_s: float = 0.002,
        login: tuple[str, str] | None = None,
        patience_s: float = 15,
        label: str = "",
    ) -> None:
        self.ports = list(ports)
        self._login = login
        self._patience_s = patience_s
        self.operations = 0
        self.acknowledged = 0
        self.refused: Counter[str] = Counter()
        self.uncertain: Counter[str] = Counter()
        self._seed = seed
        self._label = label
        self._keys = keys
        self._pause_s = pause_s
        self._registers: dict[str, Entry] = {}
        self._deleted: dict[str, bool] = {}
        self._counters: dict[str, Entry] = {}
        self._lists: dict[str, Entry] = {}
        self._mortal: dict[str, int] = {}
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, writers: int) -> None:
        """Begin to write with so many clients, each on its own port in turn."""
        for number in range(writers):
            self._tasks.append(asyncio.create_task(self._write(number)))

    async def stop(self) -> None:
        """End the writers, each after its last answer."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _write(self, number: int) -> None:
        chooser = random.Random(f"{self._seed}-{number}")
        connection = await self._connect(number)
        count = 0
        while not self._stopping.is_set():
            count += 1
            space = chooser.choice(SPACES) + self._label
            effect = f"{number}-{count}"
            kind = chooser.choice((self._set, self._set, self._increment, self._push, self._expiring, self._delete))
            try:
                await kind(connection, space, number, chooser.randrange(self._keys), effect)
            except (LostConnection, NoAnswer) as error:
                self.uncertain[type(error).__name__] += 1
                await connection.aclose()
                connection = await self._connect(number + count)
            except ResponseError as error:
                self.refused[str(error).split(" ")[0]] += 1
            self.operations += 1
            await asyncio.sleep(self._pause_s)
        await connection.aclose()

    async def _connect(self, turn: int) -> redis.asyncio.Redis:
        return self._client(turn, Retry(NoBackoff(), 0))

    def _client(self, turn: int, retry: Retry, *, decode: bool = False) -> redis.asyncio.Redis:
        port = self.ports[turn % len(self.ports)]
        place = Address("127.0.0.1", port) if isinstance(port, int) else port
        name, password = self._login or (None, None)
        return redis.asyncio.Redis(
            host=place.host,
            port=place.port,
            username=name,
            password=password,
            socket_timeout=self._patience_s,
            socket_connect_timeout=self._patience_s,
            decode_responses=decode,
            retry=retry,
            single_connection_client=True,
        )

    async def _execute(self, connection: redis.asyncio.Redis, entry: Entry, effect: str, *command: object) -> None:
        try:
            await connection.execute_command(*command)
        except ResponseError as error:
            if str(error).startswith("UNKNOWN"):
                entry.uncertain.append(effect)
            raise
        except RedisError:
            entry.uncertain.append(effect)
            raise
        entry.acknowledged.append(effect)
        self.acknowledged += 1

    async def _set(self, connection: redis.asyncio.Redis, space: str, number: int, key: int, effect: str) -> None:
        name = f"{space}:register:{number}:{key}"
        entry = self._registers.setdefault(name, Entry())
        await self._execute(connection, entry, effect, "SET", name, effect)

    async def _delete(self, connection: redis.asyncio.Redis, space: str, number: int, key: int, effect: str) -> None:
        name = f"{space}:register:{number}:{key}"
        entry = self._registers.setdefault(name, Entry())
        await self._execute(connection, entry, "", "DEL", name)

    async def _increment(self, connection: redis.asyncio.Redis, space: str, number: int, key: int, effect: str) -> None:
        name = f"{space}:counter:{key}"
        await self._execute(connection, self._counters.setdefault(name, Entry()), effect, "INCR", name)

    async def _push(self, connection: redis.asyncio.Redis, space: str, number: int, key: int, effect: str) -> None:
        name = f"{space}:list:{key}"
        await self._execute(connection, self._lists.setdefault(name, Entry()), effect, "RPUSH", name, effect)

    async def _expiring(self, connection: redis.asyncio.Redis, space: str, number: int, key: int, effect: str) -> None:
        name = f"{space}:mortal:{number}:{effect}"
        at_ms = FAR_MS + int(effect.partition("-")[2])
        await self._execute(connection, Entry(), effect, "SET", name, effect, "PXAT", at_ms)
        self._mortal[name] = at_ms

    async def check(self) -> int:
        """Compare with what the cluster holds; the number of effects that were checked."""
        # A router that has executed nothing, or no majority for a read, is asked again for up to ten seconds.
        retry = Retry(ConstantBackoff(0.1), 100, (ClusterDownError, TryAgainError))
        async with self._client(0, retry, decode=True) as connection:
            for name, entry in self._registers.items():
                self._check_register(name, entry, await connection.get(name))
            for name, entry in self._counters.items():
                value = int(await connection.get(name) or 0)
                least = len(entry.acknowledged)
                assert least <= value <= least + len(entry.uncertain), (name, value, least, entry.uncertain)
            for name, entry in self._lists.items():
                self._check_list(name, entry, await connection.lrange(name, 0, -1))
            for name, at_ms in self._mortal.items():
                assert await connection.pexpiretime(name) == at_ms, name
        kinds = (self._registers, self._counters, self._lists)
        return len(self._mortal) + sum(len(entry.acknowledged) for kind in kinds for entry in kind.values())

    def _check_register(self, name: str, entry: Entry, value: object) -> None:
        """The last acknowledged effect is there, or an uncertain one. A deletion is the empty effect."""
        allowed = {entry.acknowledged[-1] if entry.acknowledged else "", *entry.uncertain}
        assert (value or "") in allowed, (name, value, entry.acknowledged[-3:], entry.uncertain)

    def _check_list(self, name: str, entry: Entry, found: Sequence[object]) -> None:
        twice = [effect for effect, times in Counter(found).items() if times > 1]
        assert not twice, (name, twice)
        missing = set(entry.acknowledged) - set(found)
        assert not missing, (name, missing)
        assert set(found) <= {*entry.acknowledged, *entry.uncertain}, name

    def names(self) -> set[str]:
        """Every key that was ever written."""
        return {*self._registers, *self._counters, *self._lists, *self._mortal}
