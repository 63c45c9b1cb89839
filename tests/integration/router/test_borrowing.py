"""Commands that read keys of several shards: the replies are a server's, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.routers import Client, RawClient, RouterLab, served_aside
from tests.servers import Server
from tests.typed_replies import Reply, TypedClient
from tests.waiting import until

from helios.model.topology import PairPhase
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")


@pytest.fixture(scope="module")
def aside(servers: dict[str, Server]) -> Iterator[RouterLab]:
    with served_aside(servers) as made:
        yield made


@pytest.fixture
def keys(lab: RouterLab) -> list[str]:
    """A key of each shard."""
    return [lab.key_of(shard) for shard in SHARDS]


@pytest.mark.parametrize(
    "filling, command",
    [
        ("SADD {} a b {}", "SUNION {0} {1} {2}"),
        ("SADD {} a b {}", "SINTER {0} {1} {2}"),
        ("SADD {} a b {}", "SDIFF {2} {1}"),
        ("SADD {} a b {}", "SINTERCARD 3 {0} {1} {2} LIMIT 1"),
        ("SADD {} a b {}", "SUNIONSTORE {0} {1} {2}"),
        ("SADD {} a b {}", "SDIFFSTORE {1} {2} {0}"),
        ("SADD {} a b {}", "SINTERSTORE {1} {1} {0}"),
        ("ZADD {} 1.5 a 2 {}", "ZUNION 3 {0} {1} {2} WEIGHTS 1 2 3 AGGREGATE MAX WITHSCORES"),
        ("ZADD {} 1.5 a 2 {}", "ZINTER 2 {0} {1} WITHSCORES"),
        ("ZADD {} 1.5 a 2 {}", "ZDIFF 2 {2} {1} WITHSCORES"),
        ("ZADD {} 1.5 a 2 {}", "ZINTERCARD 2 {2} {1}"),
        ("ZADD {} 1.5 a 2 {}", "ZUNIONSTORE {0} 2 {1} {2}"),
        ("ZADD {} 1.5 a 2 {}", "ZRANGESTORE {0} {1} 0 -1"),
        ("GEOADD {} 13.3 38.1 a 15.1 37.5 {}", "GEOSEARCHSTORE {0} {1} FROMLONLAT 15 37 BYRADIUS 200 km"),
        ("GEOADD {} 13.3 38.1 a 15.1 37.5 {}", "GEORADIUS {0} 15 37 200 km STORE {1}"),
        ("PFADD {} a b {}", "PFCOUNT {0} {1} {2}"),
        ("PFADD {} a b {}", "PFMERGE {2} {0} {1}"),
        ("SET {} v{}", "BITOP XOR {0} {1} {2}"),
        ("SET {} v{}", "LCS {0} {1} IDX"),
        ("SET {} v{}", "COPY {0} {1} REPLACE"),
        ("SET {} v{}", "COPY {0} {1}"),
        ("RPUSH {} 3 1 {}", "SORT {0} ALPHA STORE {1}"),
        ("SET {} v{}", "SUNION {0} {1}"),
        ("SET {} v{}", "SINTERSTORE {0} none {1}"),
        ("SADD {} a b {}", "ZUNION 2 {0} {1} WEIGHTS 1"),
    ],
)
def test_the_reply_and_what_is_stored_are_those_of_one_server(
    aside: RouterLab, plain: Server, filling: str, command: str
) -> None:
    keys = [aside.key_of(shard) for shard in SHARDS]
    words = command.format(*keys).split()
    with TypedClient(aside.port) as router, TypedClient(plain.port) as server:
        for client in (router, server):
            client.ask("FLUSHALL")
            for number, key in enumerate(keys):
                assert client.ask(*filling.format(key, number).split()).kind != "-"
        assert in_any_order(router.ask(*words)) == in_any_order(server.ask(*words))
        for key in keys:
            for asked in (("TYPE", key), ("DUMP", key), ("TTL", key)):
                assert router.ask(*asked) == server.ask(*asked)
        assert router.ask("DBSIZE") == server.ask("DBSIZE")
        assert len(router.ask("KEYS", "*").parts or ()) == int(server.ask("DBSIZE").text or b"")


def in_any_order(reply: Reply) -> tuple[str, bytes | None, list[str]]:
    return reply.kind, reply.text, sorted(map(repr, reply.parts or ()))


async def test_a_copy_takes_the_time_to_live_along(client: Client, keys: list[str]) -> None:
    await client.set(keys[0], "v", px=90_000)
    assert await client.copy(keys[0], keys[1])
    assert await client.pexpiretime(keys[1]) == await client.pexpiretime(keys[0]) > 0


async def test_commands_of_a_pipeline_keep_their_order(client: Client, keys: list[str]) -> None:
    pipe = client.pipeline(transaction=False)
    expected: list[object] = []
    for number in range(50):
        pipe.sadd(keys[0], number).sunion(keys[0], keys[1]).sunionstore(keys[2], keys[1], keys[0]).scard(keys[2])
        members = {b"%d" % member for member in range(number + 1)}
        expected += [1, members, number + 1, number + 1]
    assert await pipe.execute() == expected


async def test_what_is_too_big_is_not_copied(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers, options=RouterOptions(node="shard-1", transaction_bytes=1000))
    await lab.empty()
    async with lab.running(), lab.client() as client:
        here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
        await client.sadd(here, "a")
        await client.sadd(there, *(f"{number:x}" for number in range(1000)))
        raw = await RawClient.connect(lab.port)
        refused = await raw.ask("SUNIONSTORE", here, here, there)
        assert refused.startswith(b"-CROSSSHARD keys are owned by shard-1 and shard-2: 'SUNIONSTORE'")
        assert b"copies do not help: they would have" in refused
        assert await client.smembers(here) == {b"a"}
        raw.close()


async def test_it_waits_behind_a_fence_and_goes_where_the_keys_are_then(lab: RouterLab, client: Client) -> None:
    here, there, third = (lab.key_of(shard) for shard in SHARDS)
    await client.sadd(there, "b")
    await client.sadd(third, "c")
    await lab.acknowledged(await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-2", "*"))
    stored = asyncio.create_task(client.sunionstore(here, there, third))
    await until(lambda: len(lab.router.holding) == 1, "the command is held")
    assert not stored.done()
    await lab.publish_move(PairPhase.SWITCHED, "shard-1", "shard-2", "*")
    assert await stored == 2
    async with lab.direct("shard-2") as direct:
        assert await direct.smembers(here) == {b"b", b"c"}
    async with lab.direct("shard-1") as direct:
        assert await direct.keys() == []


async def test_keys_that_move_while_copies_are_made_are_looked_for_again(lab: RouterLab, client: Client) -> None:
    here, there, third = (lab.key_of(shard) for shard in SHARDS)
    await client.sadd(there, "b")
    await client.sadd(third, "c")
    assert await client.sunion(there, third) == {b"b", b"c"}  # the connections are there
    lab.servers["shard-2"].stop()
    try:
        stored = asyncio.create_task(client.sunionstore(here, there, third))
        await until(lambda: any(link.answered < link.issued for link in lab.router.pool.of("shard-2")), "it is asked")
        await lab.acknowledged(await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-3", "*"))
    finally:
        lab.servers["shard-2"].cont()
    await lab.publish_move(PairPhase.SWITCHED, "shard-1", "shard-3", "*")
    assert await stored == 2
    async with lab.direct("shard-3") as direct:
        assert await direct.smembers(here) == {b"b", b"c"}
    async with lab.direct("shard-1") as direct:
        assert await direct.keys() == []


async def test_it_is_counted_as_a_command(client: Client, keys: list[str]) -> None:
    await client.config_resetstat()
    await client.sunion(*keys)
    stats = await client.info("commandstats")
    assert stats["cmdstat_sunion"]["calls"] == 1
    assert "cmdstat_restore" not in stats
