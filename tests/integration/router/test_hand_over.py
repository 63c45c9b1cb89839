"""A router that stops sends clients that asked for it to another node. redis-py asks by itself in RESP3."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import EndpointType, MaintNotificationsConfig
from tests.routers import RawClient, RouterLab
from tests.waiting import until

from helios.model.ids import Address
from helios.model.topology import NodeState
from helios.router.core import Router

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
HERE, THERE = "127.0.0.1", "127.0.0.2"


@asynccontextmanager
async def second_node(lab: RouterLab, state: NodeState = NodeState.ACTIVE) -> AsyncIterator[Router]:
    """A router of shard-2 at the same port of another address, and the topology that says so."""
    options = replace(lab.options, node="shard-2")
    router = Router(lab.store, lab.router._connector, lab.router.admin, lab.clock, options)
    await router.start()
    try:
        await router.serve(THERE, lab.port)
        first, second = lab.topology.nodes
        here = replace(first, address=Address(HERE, lab.port))
        there = replace(second, address=Address(THERE, lab.port), state=state)
        epoch = await lab.publish(nodes=(here, there))
        await until(lambda: lab.router.topology.epoch == epoch, "the first router knows both nodes")
        yield router
    finally:
        await router.stop()


async def asking(lab: RouterLab, *words: str) -> RawClient:
    """A client in RESP3 that has asked to be told."""
    client = await RawClient.connect(lab.port)
    client.send("HELLO", "3")
    client.send("CLIENT", "MAINT_NOTIFICATIONS", "ON", *words)
    while await client.line() != b"+OK\r\n":
        pass
    return client


async def test_redis_py_goes_on_at_another_node_without_an_error(lab: RouterLab) -> None:
    async with second_node(lab) as there:
        client = redis.asyncio.Redis(
            host=HERE,
            port=lab.port,
            protocol=3,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=True),
        )
        done = 0

        async def count(key: str) -> None:
            nonlocal done
            while not stopped.done() or done < 200:
                await client.incr(key)
                done += 1

        stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        workers = [asyncio.create_task(count(f"count:{number}")) for number in range(4)]
        await until(lambda: done > 20, "clients are at work")
        await lab.router.stop()
        stopped.set_result(None)
        await asyncio.gather(*workers)
        counts = [await client.get(f"count:{number}") for number in range(4)]
        assert sum(int(count or 0) for count in counts) == done
        assert len(there.clients) > 0
        await client.aclose()


async def test_the_push_names_a_node_that_serves(lab: RouterLab) -> None:
    async with second_node(lab):
        client = await asking(lab, "moving-endpoint-type", EndpointType.INTERNAL_IP.value)
        stopping = asyncio.create_task(lab.router.stop())
        said = b"".join([await client.line() for _ in range(7)])
        assert said.startswith(b">4\r\n$6\r\nMOVING\r\n:")
        assert said.endswith(b":30\r\n$%d\r\n%s:%d\r\n" % (len(f"{THERE}:{lab.port}"), THERE.encode(), lab.port))
        # It is served until it goes.
        assert await client.ask("PING") == b"+PONG\r\n"
        client.close()
        await asyncio.wait_for(stopping, lab.options.hand_over_timeout_s)


async def test_a_client_that_wants_no_address_connects_again(lab: RouterLab) -> None:
    client = await asking(lab, "moving-endpoint-type", "none")
    stopping = asyncio.create_task(lab.router.stop())
    said = b"".join([await client.line() for _ in range(6)])
    assert said.endswith(b":2\r\n_\r\n")
    client.close()
    await stopping


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.DRAINED])
async def test_nobody_is_sent_to_a_node_that_is_to_go(lab: RouterLab, state: NodeState) -> None:
    async with second_node(lab, state):
        client = await asking(lab)
        await lab.router.stop()
        assert await client.closed() == b""


async def test_who_has_not_asked_or_asks_no_longer_is_told_nothing(lab: RouterLab) -> None:
    async with second_node(lab):
        silent = await RawClient.connect(lab.port)
        silent.send("HELLO", "3")
        former, new = await asking(lab), await asking(lab)
        assert await former.ask("CLIENT", "MAINT_NOTIFICATIONS", "OFF") == b"+OK\r\n"
        assert await new.ask("RESET") == b"+RESET\r\n"
        await lab.router.stop()
        assert b"MOVING" not in await silent.closed() + await former.closed() + await new.closed()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("ON",), b"-ERR CLIENT MAINT_NOTIFICATIONS needs RESP3"),
        (("ON", "moving-endpoint-type", "moon"), b"-ERR moving-endpoint-type must be one of external-fqdn, "),
        (("ON", "moving-endpoint-type"), b"-ERR syntax error"),
        (("SOMETIMES",), b"-ERR syntax error"),
    ],
)
async def test_what_cannot_be_asked_is_refused(lab: RouterLab, words: tuple[str, ...], error: bytes) -> None:
    raw = await RawClient.connect(lab.port)
    assert (await raw.ask("CLIENT", "MAINT_NOTIFICATIONS", *words)).startswith(error)
    raw.close()
