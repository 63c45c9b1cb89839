"""Keys that scripts make up: what is counted and listed is what can be read."""

from __future__ import annotations

from typing import Any

import pytest
from tests.routers import Client, RouterLab
from tests.waiting import until

from helios.ports.records import STRAY_SCRIPTS, StrayScript, list_records
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", hold_timeout_s=20, member_timeout_s=10, connect_timeout_s=0.5)
MAKE = "return redis.call('SET', 'made:' .. ARGV[1], 'v')"
LIBRARY = """#!lua name=making
redis.register_function('make', function(keys, args) return redis.call('SET', 'made:' .. args[1], 'v') end)
"""
MADE = 12


@pytest.fixture(params=[2, 3])
def resp_version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def by_eval(client: Client, key: str, number: int) -> Any:
    return await client.eval(MAKE, 0, number)


async def by_sha(client: Client, key: str, number: int) -> Any:
    return await client.evalsha(await client.script_load(MAKE), 1, key, number)


async def by_function(client: Client, key: str, number: int) -> Any:
    await client.function_load(LIBRARY, replace=True)
    return await client.fcall("make", 1, key, number)


async def by_transaction(client: Client, key: str, number: int) -> Any:
    pipe = client.pipeline(transaction=True)
    pipe.eval(MAKE, 1, key, number)
    return (await pipe.execute())[0]


@pytest.mark.parametrize("make", [by_eval, by_sha, by_function, by_transaction])
async def test_what_is_counted_and_listed_is_what_can_be_read(lab: RouterLab, client: Client, make: Any) -> None:
    await client.mset({f"real:{number}": "v" for number in range(5)})
    assert await client.dbsize() == 5
    where = lab.key_of("shard-1")
    for number in range(MADE):
        assert await make(client, where, number) in (b"OK", "OK", True)
        # Each time anew: what was found out before must not be told again.
        assert await client.dbsize() == 5 + sum([await client.exists(f"made:{n}") for n in range(number + 1)])
    readable = {f"made:{number}".encode() for number in range(MADE) if await client.exists(f"made:{number}")}
    assert 0 < len(readable) < MADE, "the script's node owns some of the names and not all"
    assert set(await client.keys("made:*")) == readable
    assert {key async for key in client.scan_iter("made:*")} == readable
    assert {key async for key in client.scan_iter("made:*", count=100_000)} == readable
    assert (await client.info("keyspace"))["db0"]["keys"] == 5 + len(readable)
    await client.delete(*(f"real:{number}" for number in range(5)))
    assert {await client.randomkey() for _ in range(40)} <= readable
    assert await client.delete(*(f"made:{number}" for number in range(MADE))) == len(readable)
    assert await client.dbsize() == 0
    assert await client.randomkey() is None
    assert await client.keys("*") == []


async def test_a_router_that_starts_later_counts_alike(lab: RouterLab) -> None:
    async with lab.client() as client:
        for number in range(MADE):
            await client.eval(MAKE, 0, number)
        readable = sum([await client.exists(f"made:{number}") for number in range(MADE)])
    for shard in SHARDS:
        async with lab.direct(shard) as direct:
            await direct.config_resetstat()  # as a server that was started anew with its data
    other = RouterLab(lab.servers, options=OPTIONS)
    async with other.running(), other.client() as client:
        assert await client.dbsize() == readable


async def test_without_scripts_a_server_is_asked_for_its_number_alone(lab: RouterLab) -> None:
    async with lab.client() as client, lab.direct("shard-1") as direct:
        await client.mset({f"real:{number}": "v" for number in range(2000)})
        assert await client.dbsize() == 2000
        looked = (await direct.info("commandstats"))["cmdstat_scan"]["calls"]
        assert [await client.dbsize() for _ in range(20)] == [2000] * 20
        assert (await direct.info("commandstats"))["cmdstat_scan"]["calls"] == looked


ANY = "return redis.call('SET', ARGV[1], KEYS[1])"  # its text says nothing of the names


async def test_scripts_that_write_keys_of_other_shards_are_named(lab: RouterLab) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    async with lab.client() as client:
        sha = await client.script_load(MAKE)
        innocent = await client.script_load("return redis.call('SET', KEYS[1], 'made by nobody')")
        await client.evalsha(innocent, 1, here)
        for number in range(MADE):
            await client.evalsha(sha, 1, here, number)
        await until(lambda: sha in lab.router.stray_scripts.found, "a script that has ended is found by its text")
        anything = await client.script_load(ANY)

        async def named() -> bool:
            await client.evalsha(anything, 1, here, there)
            return anything in lab.router.stray_scripts.found

        await until(named, "a script that goes on is found by what the server says has changed")
        assert innocent not in lab.router.stray_scripts.found
        assert (await client.info("helios"))["stray_scripts"] == 2
    records = {one.value.script: one.value for one in await list_records(lab.store, StrayScript, STRAY_SCRIPTS)}
    assert set(records) == {sha, anything}
    assert (records[anything].shard, records[anything].key, records[anything].owner) == ("shard-1", there, "shard-2")
    assert records[sha].owner == "shard-2"


async def test_scripts_that_keep_to_their_keys_are_not_named(lab: RouterLab) -> None:
    async with lab.client() as client:

        async def listened() -> bool:
            await client.eval("return redis.call('INCR', KEYS[1])", 1, lab.key_of("shard-2"))
            await client.set(lab.key_of("shard-2"), 1)
            return bool(lab.router.stray_scripts._known)

        await until(listened, "the script was listened to")
    assert lab.router.stray_scripts.found == {}
