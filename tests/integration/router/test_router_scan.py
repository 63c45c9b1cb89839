"""SCAN and HSCAN through two routers while a coordinator moves keys between real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.shards import Shards, running_shards

from helios.model.topology import Node
from helios.placement.routing import Routes
from helios.router.core import Router
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
KEYS = {f"{kind}:{number}".encode(): b"v" for kind in ("user", "cart") for number in range(1200)}


@dataclass
class Lab:
    """A cluster at rest with two routers and a node that waits to be added."""

    shards: Shards
    routers: list[Router]
    fourth: Node

    async def ask(self, *words: bytes, router: int = 0) -> list[bytes]:
        """The elements of an array reply as bulk strings, nested ones in a row."""
        reply = await self.routers[router].execute(list(words))
        assert reply[:1] in b"*$:+", reply
        parts = reply.split(b"\r\n")
        return [parts[i + 1] for i, part in enumerate(parts[:-1]) if part[:1] == b"$"]

    async def scan(self, *options: bytes, moving: asyncio.Event | None = None, pause_s: float = 0) -> list[bytes]:
        """All keys that a scan gives, through one router and the other in turn; `moving` is set when it has begun."""
        cursor, found, turn = b"0", [], 0
        while True:
            cursor, *keys = await self.ask(b"SCAN", cursor, *options, router=turn % 2)
            found += keys
            turn += 1
            if moving is not None:
                moving.set()
            if cursor == b"0":
                return found
            await asyncio.sleep(pause_s)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running_shards(tmp_path, 3, fsync="always") as shards, AsyncExitStack() as stack:
        routers = []
        for name in ("one", "two"):
            options = RouterOptions(node=name, hold_timeout_s=20)
            router = Router(shards.store, shards.connector, shards.admin, shards.clock, options)
            await router.start()
            stack.push_async_callback(router.stop)
            routers.append(router)
        await shards.fill(KEYS)
        yield Lab(shards, routers, await shards.server("shard-4"))


async def test_no_key_is_missed_while_keys_move(lab: Lab) -> None:
    """Scans of several paces, one after the other, while a node joins, keys move by pattern, and it leaves."""
    shards = lab.shards
    moving, writing = asyncio.Event(), True

    async def change() -> None:
        await moving.wait()
        while scans <= 2:  # however fast keys move, and however slowly they are scanned
            await shards.admin.add_node("shard-4", str(lab.fourth.address))
            await shards.settled()
            for source, target, pattern in (
                ("shard-1", "shard-2", "user:*"),
                ("shard-2", "shard-1", "user:1*"),
                ("shard-3", "shard-1", "cart:*"),
                ("shard-4", "shard-3", "*"),
            ):
                await shards.admin.migrate(source, target, pattern)
                await shards.settled()
            await shards.admin.remove_node("shard-4")
            await shards.settled()

    async def write() -> None:
        number = 0
        while writing:
            number += 1
            key = b"other:%d" % (number % 500)
            router = lab.routers[number % 2]
            words = [b"DEL", key] if number % 3 == 0 else [b"SET", key, b"w"]
            assert (await router.execute(words))[:1] in b"+:"

    scans = 0
    changing, writer = asyncio.create_task(change()), asyncio.create_task(write())
    expected = set(KEYS)
    while not changing.done():
        found = await lab.scan(b"COUNT", b"%d" % (7, 40, 600)[scans % 3], moving=moving, pause_s=0.001 * (scans % 2))
        assert expected <= set(found), f"scan {scans} missed {len(expected - set(found))}"
        assert all(key in expected or key.startswith(b"other:") for key in found)
        scans += 1
    await changing
    writing = False
    await writer
    assert {router.topology.generation for router in lab.routers} == {(await shards.topology()).generation}
    assert (await shards.topology()).generation >= 8
    kept = [key for key in await lab.scan() if not key.startswith(b"other:")]
    assert sorted(kept) == sorted(KEYS)


async def test_a_scan_that_was_under_way_finds_what_moves_to_a_shard_behind_it(lab: Lab) -> None:
    shards = lab.shards
    routes = Routes(await shards.topology())
    order = sorted((await shards.topology()).shards, key=lambda shard: shard.number)
    first, last = order[0].id, order[-1].id
    cursor, found = b"0", set()
    while True:  # The first shard has been visited when there are keys of another one.
        cursor, *keys = await lab.ask(b"SCAN", cursor, b"COUNT", b"100")
        found.update(keys)
        if any(routes.owner(key) != first for key in keys):
            break
    await shards.admin.migrate(last, first, "cart:*")
    await shards.settled()
    moved = {key for key in KEYS if routes.owner(key) == last and key.startswith(b"cart:")}
    assert moved - found
    calls = 0
    while cursor != b"0":
        cursor, *keys = await lab.ask(b"SCAN", cursor, b"COUNT", b"100", b"MATCH", b"*", b"TYPE", b"string", router=1)
        found.update(keys)
        calls += 1
    assert found == set(KEYS)
    assert calls < 100


async def test_elements_are_not_missed_where_their_key_moves(lab: Lab) -> None:
    shards = lab.shards
    routes = Routes(await shards.topology())
    key = next(b"big:%d" % n for n in range(999) if routes.owner(b"big:%d" % n) == "shard-1")
    fields = [b"field:%d" % number for number in range(3000)]
    for start in range(0, len(fields), 500):
        words = [word for field in fields[start : start + 500] for word in (field, b"x")]
        assert await lab.routers[0].execute([b"HSET", key, *words]) == b":500\r\n"
    cursor, *some = await lab.ask(b"HSCAN", key, b"0", b"COUNT", b"200")
    found = set(some)
    cursor, *some = await lab.ask(b"HSCAN", key, cursor, b"COUNT", b"200", router=1)
    found.update(some)
    assert 300 < len(found) - 1 < 1000
    await shards.admin.migrate("shard-1", "shard-2", "big:*")
    await shards.settled()
    while cursor != b"0":
        cursor, *some = await lab.ask(b"HSCAN", key, cursor, b"COUNT", b"200", router=1)
        found.update(some)
    assert found == {*fields, b"x"}
    once: list[bytes] = []
    while True:
        cursor, *some = await lab.ask(b"HSCAN", key, cursor, b"NOVALUES")
        once += some
        if cursor == b"0":
            break
    assert sorted(once) == sorted(fields)


async def test_a_restarted_server_is_visited_again(lab: Lab) -> None:
    shards = lab.shards
    order = sorted((await shards.topology()).shards, key=lambda shard: shard.number)
    cursor, *keys = await lab.ask(b"SCAN", b"0", b"COUNT", b"50")
    found = set(keys)
    server = shards.servers[order[0].id]
    server.kill()
    server.start()
    while cursor != b"0":
        reply = await lab.routers[0].execute([b"SCAN", cursor, b"COUNT", b"50"])
        if reply[:1] == b"-":
            assert reply.startswith((b"-CLUSTERDOWN", b"-UNKNOWN"))
            await asyncio.sleep(0.02)
            continue
        parts = reply.split(b"\r\n")
        cursor, *keys = [parts[i + 1] for i, part in enumerate(parts[:-1]) if part[:1] == b"$"]
        found.update(keys)
    assert found == set(KEYS)
