"""Big values through a router: small commands do not wait behind them."""

from __future__ import annotations

import asyncio

import pytest
from tests.routers import RawClient, RouterLab
from tests.waiting import until

from helios.resp.wire import encode_command
from helios.router.frontend.caller import FutureReply
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", worker=3, member_timeout_s=30)


async def test_small_commands_do_not_wait_behind_big_ones(lab: RouterLab) -> None:
    big, small = lab.key_of("shard-1", "big"), lab.key_of("shard-1", "small")
    value = b"x" * 3_000_000
    one, other = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    shared = lab.router.pool.link("shard-1", 2)
    apart = lab.router.pool.heavy_link("shard-1", 2)
    assert await one.ask("SET", big, value) == b"+OK\r\n"
    assert (shared.issued, apart.issued) == (0, 1)
    for number in range(3):
        one.send("GET", big)
        await one.exactly(b"$3000000\r\n" + value + b"\r\n")
        # Known by its first reply, it has a connection apart from then on.
        assert (shared.issued, apart.issued) == (1, 1 + number)
    # Of one client, all commands keep their order, whichever connection they take.
    for number in range(20):
        one.send("SET", small, str(number))
        one.send("APPEND", big, "y")
        one.send("GET", big)
        one.send("GET", small)
    for number in range(20):
        await one.exactly(b"+OK\r\n:%d\r\n" % (3_000_001 + number))
        await one.exactly(b"$%d\r\n" % (3_000_001 + number) + value + b"y" * (number + 1) + b"\r\n")
        await one.exactly(b"$%d\r\n%d\r\n" % (len(str(number)), number))
    assert apart.issued == 1 + 2 + 20
    assert await other.ask("STRLEN", big) == b":3000020\r\n"
    one.close()
    other.close()


async def test_a_big_reply_on_the_shared_connection_lets_others_pass_by_another(lab: RouterLab) -> None:
    pool = lab.router.pool
    bigs = [lab.key_of("shard-1", f"big:{number}:") for number in range(6)]
    value = b"x" * 20_000_000
    one = await RawClient.connect(lab.port)
    for big in bigs:
        assert await one.ask("SET", big, value) == b"+OK\r\n"
    first = pool.link("shard-1", 2)
    assert not pool.reroute(first)  # there is no spare one yet
    spare = pool.spare_link("shard-1", 2)
    await until(lambda: spare.ready, "the spare connection is there")
    # Nobody has seen these replies before, so that each of them comes over the connection of all.
    for number, big in enumerate(bigs):
        one.send("GET", big)
        await one.exactly(b"$20000000\r\n" + value + b"\r\n")
        assert pool.link("shard-1", 2) is (spare, first)[number % 2]
        assert pool.spare_link("shard-1", 2) is (first, spare)[number % 2]
    one.close()


async def test_a_client_keeps_its_order_when_the_shared_connection_is_exchanged(lab: RouterLab) -> None:
    pool, counter = lab.router.pool, lab.key_of("shard-1", "counter")
    client = await RawClient.connect(lab.port)
    link = pool.link("shard-1", 2)
    link.connect()
    pool.reroute(link)
    expected = b""
    for number in range(2_000):
        client.send("INCR", counter)
        client.send("EXISTS", counter, counter)
        expected += b":%d\r\n:2\r\n" % (number + 1)
        if not number % 50:
            await asyncio.sleep(0)
            lab.router.reroute(pool.link("shard-1", 2))
    await client.exactly(expected)
    assert await client.ask("DEL", counter) == b":1\r\n"
    client.close()


async def test_a_fence_waits_for_what_is_under_way_on_the_connection_apart(lab: RouterLab) -> None:
    apart = lab.router.pool.heavy_link("shard-1", 2)
    reply = FutureReply()
    apart.send(encode_command([b"PING"]), reply)
    assert lab.router.pool.marks(["shard-1"], lambda key: True) == [(apart, 1)]
    assert await reply == b"+PONG\r\n"
    assert not lab.router.pool.marks(["shard-1"], lambda key: True)
