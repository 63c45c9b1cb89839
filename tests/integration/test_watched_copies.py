"""Copies that vanish from a real target before the switch are made again, whoever took them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from tests.shards import Latch, Shards, running_shards

from helios.placement.routing import Routes
from helios.ports.failpoints import Point

PAIRS = {f"key:{n}".encode(): f"{n} ".encode() * 100 for n in range(3000)}
Vanish: TypeAlias = Callable[[Shards, list[bytes]], Awaitable[int]]
# As a client may send it to the target by a key that lives there.
_SCRIPT = "for at = 1, #ARGV, 1000 do redis.call('DEL', unpack(ARGV, at, math.min(at + 999, #ARGV))) end"


async def deleted_by_a_script(shards: Shards, copies: list[bytes]) -> int:
    """Delete every third copy on the target; how many."""
    gone = copies[::3]
    await shards.execute("shard-2", "EVAL", _SCRIPT, 1, b"own", *gone)
    return len(gone)


async def evicted(shards: Shards, copies: list[bytes]) -> int:
    """Let the target run out of memory for a moment; how many keys it evicts."""
    assert await shards.execute("shard-2", "CONFIG", "SET", "maxmemory-policy", "allkeys-random") == b"OK"
    used = _stat(await shards.execute("shard-2", "INFO", "memory"), "used_memory")
    await shards.execute("shard-2", "CONFIG", "SET", "maxmemory", used - (100 << 10))
    await shards.execute("shard-2", "SET", b"own", b"x")
    await shards.execute("shard-2", "CONFIG", "SET", "maxmemory", 0)
    return _stat(await shards.execute("shard-2", "INFO", "stats"), "evicted_keys")


def _stat(info: object, name: str) -> int:
    assert isinstance(info, bytes)
    found = re.search(rb"^%b:(\d+)" % name.encode(), info, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("point", [Point.CATCHING_UP, Point.FENCED, Point.ACKNOWLEDGED])
@pytest.mark.parametrize("vanish", [deleted_by_a_script, evicted])
async def test_copies_that_vanish_are_made_again(tmp_path: Path, vanish: Vanish, point: Point) -> None:
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        routes = Routes(await shards.topology())
        pairs = {key: value for key, value in PAIRS.items() if routes.owner(key) == "shard-1"}
        await shards.fill(pairs)
        latch.arm(point)
        await shards.admin.migrate("shard-1", "shard-2", "*")
        await asyncio.wait_for(latch.reached.wait(), 60)
        assert (await shards.contents())["shard-2"].keys() == pairs.keys()
        assert await vanish(shards, sorted(pairs)) > 10
        left = (await shards.contents())["shard-2"].keys()
        assert len(left & pairs.keys()) < len(pairs) - 10
        latch.open()
        await shards.settled()
        await shards.execute("shard-2", "DEL", b"own")
        await shards.assert_whole(pairs)
