"""Transactions through a router: as a server has them, within a shard, and while keys move."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis
from tests.routers import Client, RawClient, RouterLab, answers_to
from tests.servers import Server
from tests.waiting import until

from helios.model.topology import PairPhase
from helios.router.commands.watching import Watch
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
FENCED, SWITCHED = PairPhase.FENCED, PairPhase.SWITCHED
OPTIONS = RouterOptions(node="shard-1", connect_timeout_s=1, member_timeout_s=1, max_backoff_s=0.1, hold_timeout_s=20)


async def move(lab: RouterLab, key: str, source: str, target: str) -> None:
    """A key's whole way: fenced, copied, switched."""
    before = lab.topology
    await lab.acknowledged(await lab.publish_move(FENCED, source, target))
    await copy(lab, key, source, target)
    lab.topology = replace(before, epoch=lab.topology.epoch)
    await lab.acknowledged(await lab.publish_move(SWITCHED, source, target))


async def copy(lab: RouterLab, key: str, source: str, target: str) -> None:
    async with lab.direct(source) as here, lab.direct(target) as there:
        payload = await here.dump(key)
        if payload is not None:
            await there.restore(key, 0, payload, replace=True)


SCRIPTS = [
    ["MULTI", "SET {t}a 1", "INCR {t}a", "GET {t}a", "EXEC", "EXEC"],
    ["MULTI", "EXEC", "MULTI", "DISCARD", "DISCARD", "UNWATCH"],
    ["MULTI", "MULTI", "SET {t}a 1", "EXEC", "GET {t}a"],
    ["MULTI", "WATCH {t}a", "SET {t}a 1", "EXEC", "GET {t}a"],
    ["MULTI", "GET", "SET {t}a 1", "EXEC", "GET {t}a"],
    ["MULTI", "SET {t}a 1", "EXEC x", "EXEC", "GET {t}a"],
    ["MULTI", "SET {t}a 1", "DISCARD x", "EXEC", "GET {t}a"],
    ["MULTI", "CLIENT NOSUCH", "EXEC"],
    ["MULTI", "SET {t}a x", "INCR {t}a", "LPUSH {t}a 1", "ECHO done", "PING", "EXEC", "GET {t}a"],
    ["MULTI", "SET {t}a 1", "DISCARD", "GET {t}a"],
    ["MULTI", "SET {t}a 1", "RESET", "EXEC", "GET {t}a"],
    [
        "MULTI",
        "BLPOP {t}l 0",
        "BLMOVE {t}l {t}m LEFT LEFT 0",
        "XREAD BLOCK 0 STREAMS {t}s $",
        "BZPOPMIN {t}z 0",
        "EXEC",
    ],
    ["MULTI", "HSET {t}h f v", "HGETALL {t}h", "ZADD {t}z 1.5 m", "ZSCORE {t}z m", "SMEMBERS {t}x", "EXEC"],
    ["WATCH {t}a", "SET {t}a 1", "MULTI", "SET {t}a 2", "EXEC", "GET {t}a"],
    ["WATCH {t}a {t}b", "WATCH {t}c", "SET {t}b 1", "MULTI", "EXEC", "MULTI", "EXEC"],
    ["WATCH {t}a", "SET {t}a 1", "UNWATCH", "MULTI", "SET {t}a 2", "EXEC", "GET {t}a"],
    ["WATCH {t}a", "SET {t}a 1", "MULTI", "DISCARD", "MULTI", "SET {t}a 2", "EXEC", "GET {t}a"],
    ["WATCH {t}a", "SET {t}a 1", "RESET", "MULTI", "SET {t}a 2", "EXEC", "GET {t}a"],
    ["WATCH {t}a", "GET {t}a", "MULTI", "SET {t}a 2", "UNWATCH", "EXEC", "GET {t}a"],
    ["WATCH {t}a", "MULTI", "NOSUCH", "EXEC", "MULTI", "EXEC"],
    ["WATCH", "EXEC", "MULTI x", "UNWATCH x"],
]


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_transactions_are_answered_as_a_server_does(lab: RouterLab, protocol: str, plain: Server) -> None:
    for script in SCRIPTS:
        theirs, ours = [await answers_to(script, port, protocol) for port in (plain.port, lab.port)]
        assert theirs.replace(b"' \r\n", b"'\r\n") == ours, script


async def test_a_transaction_stays_within_a_shard(lab: RouterLab, client: Client) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    pipe = client.pipeline(transaction=True)
    pipe.set(here, "1").set(there, "2")
    with pytest.raises(redis.ResponseError, match="CROSSSHARD keys are owned by shard-1 and shard-2: a transaction"):
        await pipe.execute()
    assert await client.exists(here, there) == 0
    pipe = client.pipeline(transaction=True)
    pipe.mset({here: "1", lab.key_of("shard-1", number=1): "2"}).mget(here, lab.key_of("shard-1", number=1)).ping()
    assert await pipe.execute() == [True, [b"1", b"2"], True]


async def test_what_is_watched_stays_within_a_shard(lab: RouterLab, raw: RawClient) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    assert (await raw.ask("WATCH", here, there)).startswith(b"-CROSSSHARD keys are owned by shard-1 and shard-2")
    assert await raw.ask("WATCH", here) == b"+OK\r\n"
    assert (await raw.ask("WATCH", there)).startswith(b"-CROSSSHARD")
    raw.send("MULTI")
    raw.send("SET", there, "1")
    assert [await raw.line() for _ in range(2)] == [b"+OK\r\n", b"+QUEUED\r\n"]
    assert (await raw.ask("EXEC")).startswith(b"-CROSSSHARD")
    assert await raw.ask("EXISTS", there) == b":0\r\n"
    # The transaction is over, and nothing is watched any more.
    raw.send("MULTI")
    raw.send("SET", there, "1")
    raw.send("EXEC")
    await raw.exactly(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n")


async def test_transactions_of_many_clients_do_not_mix(lab: RouterLab, client: Client) -> None:
    keys = [lab.key_of("shard-1", number=i) for i in range(3)]

    async def transfer(number: int) -> None:
        async with lab.client(2 + number % 2) as own:
            for _ in range(20):
                pipe = own.pipeline(transaction=True)
                for key in keys:
                    pipe.rpush(key, number)
                    pipe.llen(key)
                lengths = (await pipe.execute())[1::2]
                assert len(set(lengths)) == 1  # Nobody came in between.

    await asyncio.gather(*(transfer(number) for number in range(8)))
    assert [await client.llen(key) for key in keys] == [160] * 3
    assert await client.lrange(keys[0], 0, -1) == await client.lrange(keys[2], 0, -1)


async def test_a_transaction_is_held_by_a_fence_and_runs_as_a_whole_at_the_new_owner(
    lab: RouterLab, client: Client
) -> None:
    moving, tag = "m:{x}", "{x}"
    source, target = (lab.owner(moving), "shard-2" if lab.owner(moving) == "shard-1" else "shard-1")
    await client.set(moving, "1")
    before = lab.topology
    await lab.acknowledged(await lab.publish_move(FENCED, source, target))
    pipe = client.pipeline(transaction=True)
    pipe.incr(moving).incr(f"m:second:{tag}").get(moving)
    held = asyncio.create_task(pipe.execute())
    await until(lambda: len(lab.router.holding) == 1, "the transaction is held")
    await copy(lab, moving, source, target)
    lab.topology = replace(before, epoch=lab.topology.epoch)
    await lab.publish_move(SWITCHED, source, target)
    assert await held == [2, 1, b"2"]
    async with lab.direct(target) as there, lab.direct(source) as here:
        assert await there.mget(moving, f"m:second:{tag}") == [b"2", b"1"]
        assert await here.mget(moving, f"m:second:{tag}") == [b"1", None]


async def test_a_transaction_that_is_held_too_long_is_over(servers: dict[str, Server]) -> None:
    async with RouterLab(servers, options=replace(OPTIONS, hold_timeout_s=0.2)).running() as lab:
        key = lab.key_of("shard-1", "m", number=9)
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("WATCH", key) == b"+OK\r\n"
        await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
        raw.send("MULTI")
        raw.send("SET", key, "v")
        raw.send("EXEC")
        await raw.exactly(b"+OK\r\n+QUEUED\r\n")
        assert (await raw.line()).startswith(b"-TRYAGAIN 'EXEC' was held for 0.2 s")
        assert (await raw.ask("EXEC")) == b"-ERR EXEC without MULTI\r\n"
        assert not lab.router.watches
        raw.close()


async def test_exec_answers_null_after_a_watched_key_has_moved(lab: RouterLab, client: Client) -> None:
    key = lab.key_of("shard-1", "m")
    await client.set(key, "1")
    for protocol, null in ((2, b"*-1\r\n"), (3, b"_\r\n")):
        raw = await RawClient.connect(lab.port)
        raw.send("HELLO", str(protocol))
        raw.send("WATCH", key)
        await raw.before(b"*0\r\n+OK\r\n")
        if protocol == 2:
            await move(lab, key, "shard-1", "shard-2")
            # Back again: what the first server says of the key since then counts no more.
            await lab.acknowledged(await lab.publish(transition=None, unclean=frozenset()))
        else:
            await move(lab, key, "shard-1", "shard-2")
        raw.send("MULTI")
        raw.send("SET", key, "2")
        raw.send("EXEC")
        await raw.exactly(b"+OK\r\n+QUEUED\r\n" + null)
        raw.send("MULTI")
        raw.send("GET", key)
        raw.send("EXEC")
        await raw.exactly(b"+OK\r\n+QUEUED\r\n*1\r\n$1\r\n1\r\n")
        raw.close()


async def test_watching_waits_for_the_end_of_a_fence(lab: RouterLab, raw: RawClient) -> None:
    key = lab.key_of("shard-1", "m")
    await lab.acknowledged(await lab.publish_move(FENCED, "shard-1", "shard-2"))
    raw.send("WATCH", key)
    await until(lambda: len(lab.router.holding) == 1, "the client is held")
    await lab.publish(transition=None, unclean=frozenset())
    assert await raw.line() == b"+OK\r\n"
    assert await raw.ask("MULTI") == b"+OK\r\n"
    assert await raw.ask("EXEC") == b"*0\r\n"


async def test_exec_answers_null_after_the_connection_that_watched_was_lost(lab: RouterLab, raw: RawClient) -> None:
    key = lab.key_of("shard-1")
    assert await raw.ask("WATCH", key) == b"+OK\r\n"
    (watch,) = lab.router.watches
    assert isinstance(watch, Watch)
    async with lab.direct("shard-1") as direct:
        await direct.client_kill_filter(_id=watch.connection.client_id)
    await until(lambda: not watch.holds(2), "the loss is noticed")
    raw.send("MULTI")
    raw.send("SET", key, "v")
    raw.send("EXEC")
    await raw.exactly(b"+OK\r\n+QUEUED\r\n*-1\r\n")
    assert await raw.ask("EXISTS", key) == b":0\r\n"


async def test_exec_answers_null_after_the_session_has_ended(servers: dict[str, Server]) -> None:
    async with RouterLab(servers, options=replace(OPTIONS, session_ttl_s=1.0)).running() as lab:
        key = lab.key_of("shard-1", number=3)
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("WATCH", key) == b"+OK\r\n"
        lab.routers_store.away = True
        await until(lambda: len(lab.router.pool.dedicated) == 0, "the connections are closed")
        lab.routers_store.away = False
        await until(lab.router.alive, "there is a new session")
        raw.send("MULTI")
        raw.send("SET", key, "v")
        raw.send("EXEC")
        await raw.exactly(b"+OK\r\n+QUEUED\r\n*-1\r\n")
        raw.close()


async def test_lines_are_used_again_with_nothing_watched(lab: RouterLab, client: Client) -> None:
    key = lab.key_of("shard-1")
    for ending in ("EXEC", "DISCARD", "UNWATCH", "leave"):
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("WATCH", key) == b"+OK\r\n"
        if ending in ("EXEC", "DISCARD"):
            assert await raw.ask("MULTI") == b"+OK\r\n"
        if ending != "leave":
            await raw.ask(ending)
        raw.close()
        await until(lambda: not lab.router.watches, "nothing is watched")
        await client.incr(key)
        other = await RawClient.connect(lab.port)
        assert await other.ask("WATCH", lab.key_of("shard-1", number=1)) == b"+OK\r\n"
        assert await other.ask("MULTI") == b"+OK\r\n"
        assert await other.ask("EXEC") == b"*0\r\n"
        other.close()
    await until(lambda: not lab.router.watches, "nothing is watched")
    assert len(lab.router.pool.dedicated) == 1


async def test_too_many_lines_are_refused(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, dedicated=2, idle_dedicated=0)
    async with RouterLab(servers, options=options).running() as lab:
        key = lab.key_of("shard-1")
        raws = [await RawClient.connect(lab.port) for _ in range(3)]
        for connection in raws[:2]:
            assert await connection.ask("WATCH", key) == b"+OK\r\n"
        assert (await raws[2].ask("WATCH", key)).startswith(b"-OVERLOADED 2 clients of this router")
        said = await lab.router.execute([b"INFO", b"clients"])
        assert b"\r\nwatching_clients:2\r\n" in said
        assert b"\r\ntotal_watched_keys:2\r\n" in said
        assert await raws[0].ask("UNWATCH") == b"+OK\r\n"
        await until(lambda: len(lab.router.pool.dedicated) == 1, "a connection is free")
        assert await raws[2].ask("WATCH", key) == b"+OK\r\n"
        assert (await raws[0].ask("WATCH", key)).startswith(b"-OVERLOADED")
        lab.router.configure(replace(options, dedicated=3))
        assert await raws[0].ask("WATCH", key) == b"+OK\r\n"
        for connection in raws:
            connection.close()


async def test_a_server_that_dies_leaves_the_outcome_unknown(lab: RouterLab) -> None:
    key = lab.key_of("shard-1")
    watching, plain = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    assert await watching.ask("WATCH", key) == b"+OK\r\n"
    assert await plain.ask("SET", key, "0") == b"+OK\r\n"
    server = lab.servers["shard-1"]
    server.stop()
    for connection in (watching, plain):
        connection.send("MULTI")
        connection.send("SET", key, "v")
        connection.send("EXEC")
        connection.send("PING")
    await until(lambda: lab.router.totals.commands >= 10, "the commands have arrived")
    server.kill()
    try:
        for connection in (watching, plain):
            await connection.exactly(b"+OK\r\n+QUEUED\r\n")
            assert (await connection.line()).startswith(b"-UNKNOWN the connection to shard-1 at 127.0.0.1")
            assert await connection.line() == b"+PONG\r\n"
        await until(lambda: lab.router.pool.links[2]["shard-1"].state.value == "down", "the link is down")
        assert (await watching.ask("WATCH", key)).startswith(b"-CLUSTERDOWN shard-1 does not answer at")
        assert await watching.ask("MULTI") == b"+OK\r\n"
        assert await watching.ask("SET", key, "1") == b"+QUEUED\r\n"
        assert (await watching.ask("EXEC")).startswith(b"-CLUSTERDOWN shard-1 does not answer at")
        assert await watching.ask("EXEC") == b"-ERR EXEC without MULTI\r\n"
    finally:
        server.start()
        watching.close()
        plain.close()


async def test_an_error_of_the_server_at_queue_time_is_told_by_exec(lab: RouterLab, raw: RawClient) -> None:
    key = lab.key_of("shard-1")
    async with lab.direct("shard-1") as direct:
        await direct.config_set("maxmemory", "1")
        try:
            raw.send("MULTI")
            raw.send("SET", key, "v")
            raw.send("EXEC")
            await raw.exactly(b"+OK\r\n+QUEUED\r\n")
            assert (await raw.line()).startswith(
                b"-EXECABORT Transaction discarded because of: OOM command not allowed"
            )
        finally:
            await direct.config_set("maxmemory", "0")
