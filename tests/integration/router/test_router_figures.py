"""What a router says of itself: its clients, its commands, those that took long, and keys that stand out."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis
from tests.routers import Client, RawClient, RouterLab
from tests.waiting import until

from helios.admin.routers import router_views, slow_commands
from helios.model.topology import PairPhase
from helios.ports.engine import BIG_VALUE_BYTES
from helios.ports.records import BIG_KEYS, BigKeysRecord, list_records
from helios.resp.wire import encode_command
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", worker=3, slow_s=0.05, member_timeout_s=30)


async def test_routers_are_asked_at_the_address_in_their_sessions(lab: RouterLab, client: Client) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    for number in range(10):
        await client.set(here, str(number))
        await client.get(there)
    await client.mget(here, there)
    with pytest.raises(redis.ResponseError):
        await client.rename(here, there)
    with pytest.raises(redis.ResponseError):
        await client.incr(here, "nothing")
    (view,) = await router_views(lab.store)
    assert (view.node, view.worker, view.answers, view.error) == ("shard-1", 3, True, None)
    assert view.epoch == 1
    assert 0 < view.lease_left_s <= 10
    assert view.clients == 1
    assert view.errors == {"CROSSSHARD": 1, "ERR": 1}
    assert view.bytes_in > 500
    assert view.bytes_out > 100
    by_name = {shard.shard: shard for shard in view.shards}
    assert by_name["shard-1"].writes == 11
    assert by_name["shard-2"].reads == 11
    assert by_name["shard-1"].latency.count == 12
    assert {shard.state for shard in view.shards} == {"ready"}
    half, most = view.latency.at(0.5), view.latency.at(0.999)
    assert half is not None
    assert most is not None
    assert 0 < half <= most < 30
    lab.router.pool.close("the test says so")
    (later,) = await router_views(lab.store)
    assert {shard.shard: shard.writes for shard in later.shards}["shard-1"] == 11
    assert later.latency.count == view.latency.count


async def test_keys_that_are_asked_for_much_are_told(lab: RouterLab, client: Client) -> None:
    hot, spread = lab.key_of("shard-2", "hot"), [lab.key_of("shard-1", "cold", number) for number in range(50)]

    async def told() -> bool:
        pipeline = client.pipeline(transaction=False)
        for number in range(300):
            pipeline.get(hot)
            pipeline.set(spread[number % 50], "v")
        await pipeline.execute()
        (view,) = await router_views(lab.store)
        return [(one.key, one.shard) for one in view.hot_keys[:1]] == [(hot, "shard-2")] and view.hot_keys[0].ops > 0

    await until(told, "the router tells which key is hot")


async def test_keys_with_big_values_are_named_for_the_coordinator(lab: RouterLab, client: Client) -> None:
    written, read = lab.key_of("shard-1", "written"), lab.key_of("shard-2", "read")
    direct = lab.direct("shard-2")
    await direct.set(read, b"x" * (1 << 20))
    await client.set(written, b"x" * BIG_VALUE_BYTES)
    await client.get(read)

    async def named() -> bool:
        records = await list_records(lab.store, BigKeysRecord, BIG_KEYS)
        return [record.value.names() for record in records] == [sorted([written.encode(), read.encode()])]

    await until(named, "both are in the store")


async def test_nobody_else_learns_anything_there(lab: RouterLab) -> None:
    (session,) = await lab.sessions()
    host, _, port = session.address.rpartition(":")
    assert host == "127.0.0.1"
    for frames in ([b"STATS"], [b"AUTH", b"guess"], [b"AUTH", b""], [b"GET", b"a"], [b"AUTH", b"x" * 2000]):
        raw = await RawClient.connect(int(port))
        raw.writer.write(encode_command(frames) + encode_command([b"STATS"]))
        said = await raw.closed()
        assert said.startswith((b"-NOAUTH", b"-WRONGPASS")) or not said
        assert b"epoch" not in said
    good = await RawClient.connect(int(port))
    good.send("AUTH", session.secret)
    good.send("GET", "a")
    assert (await good.closed()).startswith(b"+OK\r\n-NOAUTH")
    assert len(await router_views(lab.store)) == 1


async def test_a_router_that_does_not_answer_is_shown_as_such(lab: RouterLab) -> None:
    (session,) = await lab.sessions()
    lab.router._endpoint.close()

    async def silent() -> bool:
        (view,) = await router_views(lab.store)
        return not view.answers

    await until(silent, "nothing listens there any more")
    (view,) = await router_views(lab.store)
    assert view.session == session.id
    assert f"it does not answer at {session.address}" in (view.error or "")


async def test_slow_commands_stand_in_the_log(lab: RouterLab) -> None:
    key = lab.key_of("shard-1")
    async with lab.client() as client:
        await client.client_setname("worker")
        await client.set(key, "v")
        # On a busy machine the first commands may have been slow.
        await client.execute_command("SLOWLOG", "RESET")
        await client.execute_command("LATENCY", "RESET")
        lab.servers["shard-1"].stop()
        try:
            asking = asyncio.create_task(client.execute_command("APPEND", key, "x" * 200))
            link = lab.router.pool.links[2]["shard-1"]
            await until(lambda: link.issued > link.answered, "the command is under way")
            await asyncio.sleep(0.06)  # The least time that counts as slow, not a wait for something.
        finally:
            lab.servers["shard-1"].cont()
        assert await asking == 201
        ((_, _, took_us, arguments, address, name),) = await client.execute_command("SLOWLOG", "GET", "-1")
        assert arguments == [b"APPEND", key.encode(), b"x" * 128 + b"... (72 more bytes)"]
        assert took_us >= 50_000
        assert address.startswith(b"127.0.0.1:")
        assert name == b"worker"
        told = await slow_commands(lab.store, 1)
        (slow,) = told.commands
        assert (slow.node, slow.worker, slow.name, told.missing) == ("shard-1", 3, "worker", ())
        assert slow.client == address.decode()
        assert slow.arguments == tuple(argument.decode() for argument in arguments)
        assert slow.took_s >= 0.05
        ((event, _, last_ms, worst_ms),) = await client.execute_command("LATENCY", "LATEST")
        assert event == b"command"
        assert worst_ms >= last_ms >= 50
        assert len(await client.execute_command("LATENCY", "HISTORY", "command")) == 1
        assert "SLOWLOG GET names them" in (await client.execute_command("LATENCY", "DOCTOR")).decode()
        histogram = await client.execute_command("LATENCY", "HISTOGRAM", "append")
        assert histogram[0] == b"append"
        assert histogram[1][:2] == [b"calls", 1]
        assert await client.client_id()
        assert b"client|id" in await client.execute_command("LATENCY", "HISTOGRAM", "client")
        assert await client.execute_command("LATENCY", "RESET") == 1
        assert await client.execute_command("LATENCY", "LATEST") == []
        assert await client.execute_command("SLOWLOG", "RESET")
        assert await client.execute_command("SLOWLOG", "GET") == []
        for words in ("SLOWLOG HELP", "LATENCY HELP"):
            assert len(await client.execute_command(*words.split())) > 5
        for words in ("SLOWLOG GET -2", "SLOWLOG GET x", "LATENCY GRAPH command"):
            with pytest.raises(redis.ResponseError):
                await client.execute_command(*words.split())
        (view,) = await router_views(lab.store)
        assert view.slow_commands == 1


async def test_what_is_held_is_counted_by_shard_and_told(lab: RouterLab, client: Client) -> None:
    before = lab.topology
    await lab.acknowledged(await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-2"))
    held = asyncio.create_task(client.set(lab.key_of("shard-1", "m"), "v"))
    await until(lambda: len(lab.router.holding) == 1, "a client is held")
    (view,) = await router_views(lab.store)
    assert view.held == 1
    assert {shard.shard: shard.held for shard in view.shards} == {"shard-1": 1, "shard-2": 0}
    await asyncio.sleep(0.06)  # The least time that counts as slow, not a wait for something.
    lab.topology = replace(before, epoch=lab.topology.epoch)
    await lab.publish()
    assert await held
    assert "held" in lab.router.slowlog.moments


async def test_info_tells_what_happens(lab: RouterLab, client: Client) -> None:
    key = lab.key_of("shard-1")
    for _ in range(20):
        await client.set(key, "v")
    await until(lambda: lab.router.rate_meter.per_s > 0, "the rate has been sampled twice")
    stats = await client.info("stats")
    assert stats["total_commands_processed"] >= 20
    assert stats["instantaneous_ops_per_sec"] >= 1
    assert stats["total_net_input_bytes"] > 400
    assert stats["total_net_output_bytes"] > 80
    assert (await client.info("commandstats"))["cmdstat_set"]["calls"] == 20
    assert (await client.info("latencystats"))["latency_percentiles_usec_set"]["p99"] > 0
    assert (await client.info("memory"))["used_memory"] > 1_000_000
    with pytest.raises(redis.ResponseError):
        await client.execute_command("NOSUCH")
    assert (await client.info("errorstats"))["errorstat_ERR"] == {"count": 1}
    await client.config_resetstat()
    assert (await client.info("stats"))["total_error_replies"] == 0
