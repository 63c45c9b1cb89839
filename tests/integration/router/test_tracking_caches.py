"""Caches of clients that are told by CLIENT TRACKING: a library's, and others while keys move."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from tests.cacher import Cacher
from tests.routers import RouterLab, served_aside
from tests.servers import Server
from tests.shards import running_shards
from tests.waiting import blocking_until, until

from helios.router.core import Router
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")


@pytest.fixture
def aside(servers: dict[str, Server]) -> Iterator[RouterLab]:
    with served_aside(servers) as lab:
        yield lab


def test_a_librarys_cache_is_right(aside: RouterLab, monkeypatch: pytest.MonkeyPatch) -> None:
    # It asks for a server by the name of Redis, whatever that can do.
    monkeypatch.setattr(CacheProxyConnection, "DEFAULT_SERVER_NAME", "valkey")
    with (
        redis.Redis(port=aside.port, protocol=3, cache_config=CacheConfig()) as caching,
        redis.Redis(port=aside.port, legacy_responses=True) as plain,
    ):
        cache = caching.get_cache()
        assert cache is not None
        plain.flushall()
        keys = [f"k:{i}" for i in range(20)]
        for value in ("1", "2", "3"):
            for key in keys:
                plain.set(key, value)
            for key in keys:
                blocking_until(lambda key=key, value=value: caching.get(key) == value.encode())  # type: ignore[misc]
            assert cache.size == len(keys)
        for key in keys:
            caching.set(key, "own")
            assert caching.get(key) == b"own"


class Cache:
    """What a client has cached, by the rules of the protocol: a reply is kept until the key is named, or anything."""

    def __init__(self, cacher: Cacher) -> None:
        self.cacher = cacher
        self.values: dict[str, Any] = {}

    async def read(self, key: str) -> None:
        value = await self.cacher.ask("GET", key)
        self.listen()
        self.values[key] = value

    def listen(self) -> None:
        while self.cacher.came:
            _, named = self.cacher.came.popleft()
            for key in list(self.values) if named is None else [name.decode() for name in named]:
                self.values.pop(key, None)


async def test_no_cache_is_stale_when_all_is_quiet_again(tmp_path: Path) -> None:
    keys = [f"key:{i}" for i in range(200)]
    async with running_shards(tmp_path, 2, fsync="no") as shards, AsyncExitStack() as stack:
        ports = []
        for name in ("shard-1", "shard-2"):
            options = RouterOptions(node=name, hold_timeout_s=20)
            router = Router(shards.store, shards.connector, shards.admin, shards.clock, options)
            await router.start()
            stack.push_async_callback(router.stop)
            ports.append(await router.serve("127.0.0.1", 0))
        moving = True
        caches = [Cache(await Cacher.connect(port)) for port in (*ports, *ports)]

        async def cache_at_random(cache: Cache, seed: int) -> None:
            choice = random.Random(seed)
            await cache.cacher.ask("CLIENT", "TRACKING", "ON")
            while moving:
                await cache.read(choice.choice(keys))
                cache.listen()

        async def write_at_random(port: int, seed: int) -> None:
            choice = random.Random(seed)
            writer = await Cacher.connect(port)
            while moving:
                key = choice.choice(keys)
                await writer.ask(*choice.choice((("INCR", key), ("DEL", key))))
            writer.raw.close()

        tasks = [asyncio.create_task(cache_at_random(cache, seed)) for seed, cache in enumerate(caches)]
        tasks += [asyncio.create_task(write_at_random(port, port)) for port in ports]
        node = await shards.server("shard-3")
        await shards.admin.add_node(node.id, str(node.address))
        await shards.settled()
        await shards.admin.remove_node("shard-3")
        await shards.settled()
        moving = False
        await asyncio.gather(*tasks)
        truth = await Cacher.connect(ports[0])
        values = {key: await truth.ask("GET", key) for key in keys}

        async def all_right() -> bool:
            for cache in caches:
                assert await cache.cacher.ask("PING") == b"PONG"
                cache.listen()
            return all(values[key] == value for cache in caches for key, value in cache.values.items())

        await until(all_right, "no client keeps an old value")
        assert any(cache.values for cache in caches)
        for cache in caches:
            cache.cacher.raw.close()
        truth.raw.close()
