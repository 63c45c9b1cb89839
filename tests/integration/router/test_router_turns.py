"""What is too long for one turn of the router's loop: others come in between, and nothing else is different."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.model.topology import PairPhase
from helios.resp.wire import encode_command
from helios.router.commands.slices import LONG

pytestmark = pytest.mark.processes

SHARDS = ("shard-1", "shard-2", "shard-3")
MANY = 2 * LONG


@pytest.fixture
async def lab(servers: dict[str, Server]) -> AsyncIterator[RouterLab]:
    async with RouterLab(servers).running() as made:
        yield made
        await made.empty()


def named(prefix: str) -> list[str]:
    return [f"{prefix}:{number}" for number in range(MANY)]


async def test_many_keys_are_parted_and_their_values_put_together(lab: RouterLab, client: Client) -> None:
    keys = named("many")
    assert await client.mset({key: key for key in keys})
    assert await client.mget([*keys, "none"]) == [*(key.encode() for key in keys), None]
    assert await client.exists(*keys, "none") == MANY
    assert await client.touch(*keys) == MANY
    assert await client.delete(*keys, "none") == MANY
    assert await client.unlink(*keys) == 0
    raw = await RawClient.connect(lab.port)
    assert (await raw.ask("MSET", *keys, "odd")).startswith(b"-ERR wrong number of arguments for 'mset'")
    assert (await raw.ask("SUNION", *keys)).startswith(b"-CROSSSHARD")
    raw.close()


async def test_many_keys_of_one_shard_go_there_as_they_came(lab: RouterLab, client: Client) -> None:
    keys = [f"{{tag}}:{number}" for number in range(MANY)]
    assert await client.mset(dict.fromkeys(keys, "v"))
    assert await client.mget(keys) == [b"v"] * MANY
    await client.sadd("{tag}set", "member")
    await client.delete(*keys)
    assert await client.sunion("{tag}set", *keys) == {b"member"}


async def test_the_arguments_of_long_commands_are_freed_bit_by_bit_once_nobody_needs_them(lab: RouterLab) -> None:
    keys = [f"{{tag}}:{number}" for number in range(60_000)]
    discarded = lab.router._outbox.discarded
    raw = await RawClient.connect(lab.port)
    assert await raw.ask("SADD", "{tag}", *keys) == b":60000\r\n"
    await until(lambda: not discarded, "nothing is left")
    needed = [b"SREM", b"{tag}", *(key.encode() for key in keys)]
    assert await lab.router.execute(needed) == b":60000\r\n"
    assert await raw.ask("EXISTS", *keys) == b":0\r\n"
    await until(lambda: len(discarded) == 1, "that of the other is gone, which came later")
    assert len(needed) == 60_002
    del needed
    await until(lambda: not discarded, "nothing is left")
    raw.close()


async def test_big_values_arrive_whole_whichever_command_brings_them(lab: RouterLab, client: Client) -> None:
    big, other = b"v" * (3 << 20), b"w" * (2 << 20)
    assert await client.set("big", big, nx=True)
    assert await client.set("big", other, nx=True) is None
    assert await client.set("big", other, get=True) == big
    assert await client.append("big", big) == len(other) + len(big)
    assert await client.mset({"first": big, "second": other})
    assert await client.mget("first", "second", "big") == [big, other, other + big]
    async with client.pipeline(transaction=True) as pipe:
        pipe.set("first", other)
        pipe.strlen("first")
        assert await pipe.execute() == [True, len(other)]
    async with client.pipeline(transaction=False) as pipe:
        pipe.set("small", "v").set(big, "of a big key").set("big", big).get(big).strlen("big").get("small")
        assert await pipe.execute() == [True, True, True, b"of a big key", len(big), b"v"]
    members = [f"member:{number}" for number in range(20_000)]
    assert await client.sadd("set", *members) == len(members)
    raw = await RawClient.connect(lab.port)
    assert (await raw.ask("GET", "big", "v" * (2 << 20))).startswith(b"-ERR wrong number of arguments for 'get'")
    raw.close()


async def test_many_keys_wait_behind_a_fence_and_go_where_the_keys_are_then(lab: RouterLab, client: Client) -> None:
    before = lab.topology
    keys = named("m")
    await lab.acknowledged(await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-2", "m:*"))
    writing = asyncio.create_task(client.mset(dict.fromkeys(keys, "v")))
    await until(lambda: len(lab.router.holding) == 1, "the command is held")
    lab.topology = replace(before, epoch=lab.topology.epoch)
    await lab.publish()
    assert await writing
    assert await client.exists(*keys) == MANY


async def test_what_was_found_by_routes_of_before_is_found_anew(lab: RouterLab, client: Client) -> None:
    keys = [f"new:{number}" for number in range(50_000)]
    writing = asyncio.create_task(client.mset(dict.fromkeys(keys, "v")))
    while not writing.done():
        await lab.publish()
        await asyncio.sleep(0.01)  # epochs come one after the other, not all in one turn
    assert await writing
    assert await client.exists(*keys) == len(keys)
    await lab.empty()


async def test_others_are_answered_while_many_names_are_worked_on(lab: RouterLab, client: Client) -> None:
    for words in (["COMMAND", "INFO", *["get"] * 100_000], ["MGET", *(f"key:{i}" for i in range(100_000))]):
        long = await RawClient.connect(lab.port)
        long.send(*words)
        reading = asyncio.create_task(long.line())
        answered = 0
        while not reading.done():
            assert await client.ping()
            answered += 1
        assert reading.result() == b"*100000\r\n"
        assert answered > 1
        long.close()


async def test_a_long_pipeline_leaves_room_for_others(lab: RouterLab, client: Client) -> None:
    count = 50_000
    long = await RawClient.connect(lab.port)
    long.writer.write(encode_command([b"ECHO", b"x"]) * count)

    async def read() -> None:
        for _ in range(count):
            await long.exactly(b"$1\r\nx\r\n")

    reading = asyncio.create_task(read())
    answered = 0
    while not reading.done():
        assert await client.ping()
        answered += 1
    await reading
    assert answered > 1
    long.close()


async def test_named_commands_and_parameters_are_what_they_were(lab: RouterLab) -> None:
    async with lab.client() as client:
        nothing, get = await client.execute_command("COMMAND INFO", "nosuch", "GET")
        assert nothing is None
        assert get[:2] == [b"get", 2]
    raw = await RawClient.connect(lab.port)
    raw.send("CONFIG", "GET", "maxmemor?", "MAXMEMORY")
    await raw.exactly(b"*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n")
    raw.close()
