"""A router while keys change their shard: fences, acknowledgements, held commands, foreign keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.model.topology import PairPhase
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")
OPTIONS = RouterOptions(node="shard-1", hold_timeout_s=20)
CONFIG = {"enable-debug-command": "yes"}
FENCED, SWITCHED, COPYING = PairPhase.FENCED, PairPhase.SWITCHED, PairPhase.COPYING


async def move(lab: RouterLab, key: str, source: str, target: str) -> None:
    """What the coordinator's copy does for one key."""
    async with lab.direct(source) as here, lab.direct(target) as there:
        payload = await here.dump(key)
        assert payload is not None
        await there.restore(key, 0, payload, replace=True)


async def test_an_epoch_without_a_fence_is_acknowledged(lab: RouterLab) -> None:
    await lab.acknowledged(lab.topology.epoch)
    await lab.acknowledged(await lab.publish_move(COPYING, "shard-1", "shard-2"))


async def test_a_fence_holds_its_keys_alone_and_in_order(lab: RouterLab, client: Client) -> None:
    moving, staying = lab.key_of("shard-1", "m"), lab.key_of("shard-1", "s")
    await client.rpush(moving, "before")
    before = lab.topology
    await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))

    writers = [await RawClient.connect(lab.port) for _ in range(5)]
    for number, writer in enumerate(writers):
        writer.send("ECHO", "first")
        for i in range(20):
            writer.send("RPUSH", moving, f"{number}:{i}")
            writer.send("SET", f"x{number}", str(i))
        await writer.exactly(b"$5\r\nfirst\r\n")
    assert len(lab.router.holding) == 5
    assert await client.set(staying, "not held")
    assert await client.exists("x0", "x1", "x2", "x3", "x4") == 0
    assert not any(writer.reader._buffer for writer in writers)  # type: ignore[attr-defined]

    await move(lab, moving, "shard-1", "shard-2")
    lab.topology = replace(before, epoch=lab.topology.epoch)
    await lab.publish_move(SWITCHED, "shard-1", "shard-2")
    for writer in writers:
        for _ in range(20):
            assert (await writer.line()).startswith(b":")
            await writer.exactly(b"+OK\r\n")
        writer.close()
    values = [value.decode() for value in await client.lrange(moving, 0, -1)]
    assert values[0] == "before"
    assert len(values) == 101
    for number in range(5):
        assert [value for value in values if value.startswith(f"{number}:")] == [f"{number}:{i}" for i in range(20)]
    async with lab.direct("shard-1") as source, lab.direct("shard-2") as target:
        assert await source.llen(moving) == 1
        assert await target.llen(moving) == 101


async def test_a_fence_that_is_lifted_lets_commands_go_on_where_they_were(lab: RouterLab, client: Client) -> None:
    key = lab.key_of("shard-1", "m")
    await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
    held = asyncio.create_task(client.set(key, "v"))
    await until(lambda: len(lab.router.holding) == 1, "the command is held")
    await lab.publish(transition=None, unclean=frozenset())
    assert await held
    async with lab.direct("shard-1") as source:
        assert await source.get(key) == b"v"


async def test_a_fence_around_a_shard_holds_all_that_it_owns_and_nothing_else(lab: RouterLab, client: Client) -> None:
    home = min(lab.servers)
    inside, outside = lab.key_of(home, "i"), lab.key_of("shard-2", "o")
    await client.mset({inside: "1", outside: "1"})
    await lab.acknowledged(await lab.publish(fenced_shards=frozenset((home,))))
    commands = (
        ("INCR", inside),
        ("EVAL", "return redis.call('INCR', KEYS[1])", "1", inside),
        ("EVAL", "return 7", "0"),
        ("MSET", inside, "9", outside, "9"),
        ("BLPOP", f"list:{{{inside}}}", "0"),
    )
    held = [await RawClient.connect(lab.port) for _ in commands]
    for number, (raw, command) in enumerate(zip(held, commands, strict=True)):
        raw.send(*command)
        await until(lambda number=number: len(lab.router.holding) == number + 1, "it is held")  # type: ignore[misc]
    assert await client.incr(outside) == 2
    async with lab.direct(home) as direct:
        assert await direct.get(inside) == b"1"
    await lab.publish(fenced_shards=frozenset())
    for raw, reply in zip(held[:4], (b":2\r\n", b":3\r\n", b":7\r\n", b"+OK\r\n"), strict=True):
        assert await raw.line() == reply
    assert await client.lpush(f"list:{{{inside}}}", "x") == 1
    assert await held[4].line() == b"*2\r\n"
    for raw in held:
        raw.close()


async def test_a_fence_around_a_shard_is_acknowledged_when_nothing_is_in_flight_there(
    lab: RouterLab, client: Client
) -> None:
    inside, outside = lab.key_of("shard-1"), lab.key_of("shard-2")
    await client.get(inside)
    await lab.acknowledged(lab.topology.epoch)
    lab.servers["shard-1"].stop()
    try:
        in_flight = asyncio.create_task(client.set(inside, "v"))
        link = lab.router.pool.links[2]["shard-1"]
        await until(lambda: link.issued > link.answered, "the command is in flight")
        epoch = await lab.publish(fenced_shards=frozenset(("shard-1", "shard-2")))
        await until(lambda: lab.router.topology.epoch == epoch, "the epoch is applied")
        async with lab.client() as other:
            for _ in range(50):
                await other.get(lab.key_of("shard-3"))
        assert [session.acked_epoch for session in await lab.sessions()] == [epoch - 1]
    finally:
        lab.servers["shard-1"].cont()
    assert await in_flight
    await lab.acknowledged(epoch)
    reading = asyncio.create_task(client.get(outside))
    await until(lambda: len(lab.router.holding) == 1, "the reader is held")
    await lab.publish(fenced_shards=frozenset())
    assert await reading is None


async def test_a_fence_is_acknowledged_when_what_is_in_flight_was_answered(lab: RouterLab, client: Client) -> None:
    key = lab.key_of("shard-1", "m")
    await client.get(key)
    await lab.acknowledged(lab.topology.epoch)
    lab.servers["shard-1"].stop()
    try:
        in_flight = asyncio.create_task(client.set(key, "v"))
        link = lab.router.pool.links[2]["shard-1"]
        await until(lambda: link.issued > link.answered, "the command is in flight")
        epoch = await lab.publish_move(FENCED, "shard-1", "shard-2")
        await until(lambda: lab.router.topology.epoch == epoch, "the epoch is applied")
        # Had it nothing to wait for, it would acknowledge while these commands go to and fro.
        async with lab.client() as other:
            for _ in range(50):
                await other.get(lab.key_of("shard-2"))
        assert [session.acked_epoch for session in await lab.sessions()] == [epoch - 1]
        assert not in_flight.done()
    finally:
        lab.servers["shard-1"].cont()
    assert await in_flight
    await lab.acknowledged(epoch)


async def test_a_connection_lost_in_flight_is_ended_at_the_server_before_the_fence_is_acknowledged(
    servers: dict[str, Server],
) -> None:
    options = RouterOptions(node="shard-1", member_timeout_s=0.3, connect_timeout_s=0.3, hold_timeout_s=20)
    async with RouterLab(servers, options=options).running() as lab, lab.client() as client:
        key = lab.key_of("shard-1", "m")
        await client.delete(key)
        await lab.acknowledged(lab.topology.epoch)
        servers["shard-1"].stop()
        try:
            with pytest.raises(redis.ResponseError, match=r"the connection to shard-1 .* outcome unknown"):
                await client.set(key, "late")
            epoch = await lab.publish_move(FENCED, "shard-1", "shard-2")
            await until(lambda: lab.router.topology.epoch == epoch, "the epoch is applied")
            with pytest.raises(redis.ResponseError, match="shard-1 does not answer"):
                for _ in range(100):
                    await client.get(lab.key_of("shard-1", "s"))
            assert [session.acked_epoch for session in await lab.sessions()] == [epoch - 1]
        finally:
            servers["shard-1"].cont()
        await lab.acknowledged(epoch)
        async with lab.direct("shard-1") as direct:
            value = await direct.get(key)
            assert value in (None, b"late")
            # From the acknowledgement on, nothing of the lost connection may run any more.
            for _ in range(20):
                await direct.ping()
                assert await direct.get(key) == value


async def test_holding_ends_with_an_error(servers: dict[str, Server]) -> None:
    options = RouterOptions(node="shard-1", hold_timeout_s=0.2)
    async with RouterLab(servers, options=options).running() as lab:
        key = lab.key_of("shard-1", "m", number=9)
        await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
        raw = await RawClient.connect(lab.port)
        raw.send("SET", key, "v")
        raw.send("PING")
        raw.send("GET", key)
        raw.send("ECHO", "x")
        assert (await raw.line()).startswith(b"-TRYAGAIN 'SET' was held for 0.2 s")
        assert await raw.line() == b"+PONG\r\n"
        assert (await raw.line()).endswith(b"nothing was executed\r\n")
        await raw.exactly(b"$1\r\nx\r\n")
        assert (await lab.router.execute([b"GET", key.encode()])).startswith(b"-TRYAGAIN 'GET' was held")
        raw.send("SET", key, "v")
        assert b"while keys are handed over to another shard" in await raw.line()
        await lab.publish(transition=None, unclean=frozenset())
        raw.send("GET", key)
        assert await raw.line() == b"$-1\r\n"
        raw.close()


async def test_holding_for_a_shard_without_a_leader_names_it(servers: dict[str, Server]) -> None:
    options = RouterOptions(node="shard-1", hold_timeout_s=0.2)
    async with RouterLab(servers, options=options).running() as lab:
        await lab.acknowledged(await lab.publish(fenced_shards=frozenset(("shard-2",))))
        raw = await RawClient.connect(lab.port)
        raw.send("SET", lab.key_of("shard-2"), "v")
        assert (await raw.line()).startswith(b"-TRYAGAIN 'SET' was held for 0.2 s while shard-2 had no leader")
        raw.close()


async def test_a_command_with_several_keys_is_held_as_a_whole(lab: RouterLab, client: Client) -> None:
    moving, other = lab.key_of("shard-1", "m"), lab.key_of("shard-3", "s")
    await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
    held = asyncio.create_task(client.mset({other: "1", moving: "2"}))
    await until(lambda: len(lab.router.holding) == 1, "a client is held")
    async with lab.client() as reader:
        assert await reader.get(other) is None
        await lab.publish(transition=None, unclean=frozenset())
        assert await held
        assert await reader.mget(other, moving) == [b"1", b"2"]


async def test_a_client_that_leaves_while_held_leaves_nothing_behind(lab: RouterLab) -> None:
    key = lab.key_of("shard-1", "m")
    await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
    raw = await RawClient.connect(lab.port)
    raw.send("SET", key, "v")
    await until(lambda: len(lab.router.holding) == 1, "a client is held")
    (connection,) = lab.router.clients.values()
    connection.abort()
    await until(lambda: not lab.router.clients, "the connection is gone")
    assert len(lab.router.holding) == 0
    await lab.publish(transition=None, unclean=frozenset())
    assert await lab.router.execute([b"EXISTS", key.encode()]) == b":0\r\n"
    raw.close()


async def test_writes_to_moving_keys_are_delayed_as_the_topology_says(lab: RouterLab, client: Client) -> None:
    moving, staying = lab.key_of("shard-1", "m"), lab.key_of("shard-1", "s")
    await lab.acknowledged(await lab.publish_move(COPYING, "shard-1", "shard-2", slow_ms=100))
    loop = asyncio.get_running_loop()
    pipe = client.pipeline(transaction=False)
    begun = loop.time()
    for i in range(3):
        pipe.rpush(moving, str(i))
        pipe.lrange(moving, 0, -1)
    assert await pipe.execute() == [1, [b"0"], 2, [b"0", b"1"], 3, [b"0", b"1", b"2"]]
    assert loop.time() - begun >= 0.3  # A least time, which a busy machine cannot break.
    assert await client.mset({moving: "1", staying: "2"})
    assert loop.time() - begun >= 0.4
    assert lab.router.holding.delayed == 4
    assert await client.set(staying, "3")
    assert await client.get(moving) == b"1"
    assert lab.router.holding.delayed == 4


async def test_copies_in_the_making_and_keys_not_yet_swept_are_not_seen(lab: RouterLab, client: Client) -> None:
    keys = [f"m:{i}" for i in range(400)]
    await client.mset(dict.fromkeys(keys, "v"))
    moving = [key for key in keys if lab.owner(key) == "shard-1"]
    assert len(moving) > 50
    for key in moving:
        await move(lab, key, "shard-1", "shard-2")

    async def check() -> None:
        assert await client.dbsize() == 400
        assert sorted(await client.keys("m:*")) == sorted(key.encode() for key in keys)
        found = [key async for key in client.scan_iter(match="m:*", count=1000)]
        assert sorted(found) == sorted(key.encode() for key in keys)
        assert await client.randomkey() in found
        assert (await client.info("keyspace"))["db0"]["keys"] == 400

    before = lab.topology
    await lab.acknowledged(await lab.publish_move(COPYING, "shard-1", "shard-2"))
    await check()
    lab.topology = replace(before, epoch=lab.topology.epoch)
    await lab.acknowledged(await lab.publish_move(SWITCHED, "shard-1", "shard-2"))
    await check()
    transition = lab.topology.transition
    assert transition is not None
    swept = await lab.publish(placement=transition.next, transition=None, unclean=frozenset(("shard-1",)))
    await lab.acknowledged(swept)
    await check()
    async with lab.direct("shard-1") as direct:
        await direct.unlink(*moving)
    await lab.acknowledged(await lab.publish(unclean=frozenset()))
    await check()


async def test_emptying_waits_for_the_end_of_a_fence(lab: RouterLab, client: Client) -> None:
    await client.mset({f"k{i}": "v" for i in range(30)})
    await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
    emptying = asyncio.create_task(client.flushall())
    await until(lambda: len(lab.router.holding) == 1, "a client is held")
    async with lab.client() as other:
        assert await other.dbsize() == 30
        await lab.publish(transition=None, unclean=frozenset())
        assert await emptying
        assert await other.dbsize() == 0


async def test_an_old_topology_changes_nothing(lab: RouterLab) -> None:
    now = await lab.publish_move(SWITCHED, "shard-1", "shard-2")
    await lab.acknowledged(now)
    newest = lab.topology
    lab.topology = replace(newest, epoch=now - 2, transition=None)
    await lab.publish()
    lab.topology = newest
    await lab.acknowledged(await lab.publish())
    assert lab.router.topology == lab.topology
