"""Optimistic locking, transactions and queues through several routers, over real processes, while their keys move."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError, WatchError
from tests.cluster import FAST_MOVES, PATIENT, Cluster, running_cluster
from tests.linearizability import Operation, error
from tests.reckoning import at_rest, verb
from tests.waiting import until

ROUNDS = 4
COUNTERS = ("hot:{t}:first", "hot:{t}:second")
PURSES = ("hot:{t}:left", "hot:{t}:right")
QUEUE, DONE, STREAM = "hot:{t}:queue", "hot:{t}:done", "hot:{t}:stream"
# redis-py's annotations promise other types than its replies have.
Client: TypeAlias = Any


class Load:
    """Clients on all routers, and what they were told."""

    def __init__(self, ports: list[int]) -> None:
        self.histories: dict[str, list[Operation]] = {key: [] for key in COUNTERS}
        self.refused: Counter[str] = Counter()
        self.retries = 0
        self.pushed: list[int] = []
        self.popped: list[int] = []
        self.read: list[int] = []
        self.stopping = asyncio.Event()
        self.all_pushed = asyncio.Event()
        self._ports = ports
        self._tasks: list[asyncio.Task[None]] = []
        self._takers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        jobs = [self.count] * 4 + [self.transfer] * 2 + [self.push] * 2
        self._tasks = [asyncio.create_task(self._run(job, number)) for number, job in enumerate(jobs)]
        taking = [self.pop] * 3 + [self.move, self.follow]
        self._takers = [asyncio.create_task(self._run(job, number)) for number, job in enumerate(taking, len(jobs))]

    async def stop(self) -> None:
        self.stopping.set()
        await asyncio.gather(*self._tasks)
        self.all_pushed.set()
        await asyncio.gather(*self._takers)

    @property
    def done(self) -> int:
        """How much has been done so far."""
        return sum(map(len, self.histories.values())) + len(self.popped)

    async def _run(self, job: Callable[[Client, int], Awaitable[None]], number: int) -> None:
        client = redis.asyncio.Redis(
            port=self._ports[number % len(self._ports)],
            protocol=2 + number % 2,
            socket_timeout=30,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=True,
        )
        try:
            await job(client, number)
        finally:
            await client.aclose()

    async def count(self, client: Client, number: int) -> None:
        """Count up by WATCH, GET, MULTI, SET, EXEC, and look."""
        turn = 0
        while not self.stopping.is_set():
            turn += 1
            key = COUNTERS[turn % 2]
            begun = time.monotonic()
            try:
                if turn % 5 == 0:
                    value = await client.get(key)
                    done = Operation(number, "GET", b"", value, begun, time.monotonic())
                else:
                    value = await self._increase(client, key)
                    done = Operation(number, "INCR", b"", value, begun, time.monotonic())
            except WatchError:
                self.retries += 1
            except ResponseError as error:
                self.refused[str(error)] += 1
            else:
                self.histories[key].append(done)
            await asyncio.sleep(0.002)

    async def _increase(self, client: Client, key: str) -> int:
        async with client.pipeline(transaction=True) as pipe:
            await pipe.watch(key)
            value = int(await pipe.get(key) or 0) + 1
            pipe.multi()
            pipe.set(key, value)
            pipe.get(key)
            _, seen = await pipe.execute()
            assert int(seen) == value
            return value

    async def transfer(self, client: Client, number: int) -> None:
        """Take from one purse and give to the other; nobody ever sees both with another sum than before."""
        left, right = PURSES
        while not self.stopping.is_set():
            pipe = client.pipeline(transaction=True)
            pipe.decrby(left, number).incrby(right, number).mget(left, right)
            try:
                *_, (first, second) = await pipe.execute()
                assert int(first) + int(second) == 0
            except ResponseError as error:
                self.refused[str(error)] += 1
            await asyncio.sleep(0.002)

    async def push(self, client: Client, number: int) -> None:
        """Put numbers into the queue and the stream."""
        turn = 0
        while not self.stopping.is_set():
            turn += 1
            element = turn * 100 + number
            pipe = client.pipeline(transaction=True)
            pipe.rpush(QUEUE, element).xadd(STREAM, {"n": element})
            await pipe.execute()
            self.pushed.append(element)
            await asyncio.sleep(0.004)

    async def pop(self, client: Client, number: int) -> None:
        """Take numbers out of the queue, until it is empty at the end."""
        while True:
            found = await client.blpop(QUEUE, timeout=0.3)
            if found is not None:
                self.popped.append(int(found[1]))
            elif self.all_pushed.is_set():
                return

    async def move(self, client: Client, number: int) -> None:
        """Take numbers out of the queue and keep them in another list."""
        while not self.all_pushed.is_set():
            found = await client.blmove(QUEUE, DONE, 0.3)
            if found is not None:
                self.popped.append(int(found))

    async def follow(self, client: Client, number: int) -> None:
        """Read the stream as it grows, from its first entry on."""
        last: bytes | str = "$"
        while True:
            reply = await client.xread({STREAM: last}, block=300)
            if reply:
                ((_, entries),) = reply.items() if isinstance(reply, dict) else reply
                entries = entries[0] if isinstance(reply, dict) else entries
                self.read += [int(fields[b"n"]) for _, fields in entries]
                last = entries[-1][0]
            elif self.all_pushed.is_set():
                return


@pytest.mark.processes
@pytest.mark.timeout(180)
async def test_nothing_is_lost_or_done_twice_while_keys_go_to_and_fro(tmp_path: Path) -> None:
    with running_cluster(tmp_path, shards=2, env=PATIENT | FAST_MOVES) as cluster:
        owner, other = await owners(cluster)
        load = Load(cluster.resp_ports)
        load.start()
        for _ in range(ROUNDS):
            before = load.done
            assert not isinstance(await verb(cluster, "MIGRATE", owner, other, "hot:*"), Exception)
            await at_rest(cluster)

            async def went_on(before: int = before) -> bool:
                return load.done > before + 20

            await until(went_on, "clients go on")
            owner, other = other, owner
        await load.stop()
        assert load.refused == {}
        assert load.retries > 0  # They got in each other's way, or were moved.
        for key in COUNTERS:
            history = load.histories[key]
            written = [operation for operation in history if operation.command == "INCR"]
            assert cluster.command("GET", key) == b"%d" % len(written)
            assert error(history) is None
        assert len(load.pushed) > 20
        assert sorted(load.popped) == sorted(load.pushed)
        assert cluster.command("LLEN", QUEUE) == 0
        assert set(load.read) <= set(load.pushed) and len(set(load.read)) == len(load.read)
        # From its first entry on, the follower has missed none.
        entries = cluster.command("XRANGE", STREAM, "-", "+")
        assert isinstance(entries, list)
        numbers = [int(fields[1]) for _, fields in entries]
        assert load.read == numbers[numbers.index(load.read[0]) :]


async def owners(cluster: Cluster) -> tuple[str, str]:
    """Who owns the keys, and who does not."""
    view = await verb(cluster, "NODEFORKEY", QUEUE)
    assert isinstance(view, list)
    owner = dict(zip(view[::2], view[1::2], strict=True))[b"node_id"].decode()
    return owner, "shard-2" if owner == "shard-1" else "shard-1"
