"""Publish and subscribe through routers: what clients see at rest, on failures, and while channels move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import hiredis
import pytest
import redis
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server
from tests.shards import Shards, running_shards
from tests.waiting import until

from helios.model.topology import PairPhase
from helios.ports.records import SESSIONS
from helios.ports.store import Delete
from helios.router.core import Router
from helios.router.options import RouterOptions
from helios.router.pubsub.subscriptions import Kind
from helios.router.upstream.state import ConnectionState

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", hold_timeout_s=20, member_timeout_s=1, connect_timeout_s=1)


@pytest.fixture(params=[2, 3])
def resp_version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def message(subscriber: Client) -> dict[str, object]:
    """The next message or confirmation."""
    async with asyncio.timeout(20):
        while True:
            found: dict[str, object] | None = await subscriber.get_message(timeout=20)
            if found is not None:
                return found


async def test_channels_patterns_and_shard_channels(lab: RouterLab, client: Client) -> None:
    names = [f"news:{i}" for i in range(10)]
    async with client.pubsub() as subscriber, client.pubsub() as matcher:
        await subscriber.subscribe(*names)
        assert [(await message(subscriber))["data"] for _ in names] == list(range(1, 11))
        await matcher.psubscribe("news:[0-4]", "other")
        assert [(await message(matcher))["type"] for _ in range(2)] == ["psubscribe"] * 2
        for i, name in enumerate(names):
            assert await client.publish(name, f"m{i}") == (2 if i < 5 else 1)
        assert await client.publish("nobody", "x") == 0
        for i, name in enumerate(names):
            found = await message(subscriber)
            assert (found["type"], found["channel"], found["data"]) == ("message", name.encode(), f"m{i}".encode())
        found_names = {(await message(matcher))["channel"] for _ in range(5)}
        assert found_names == {name.encode() for name in names[:5]}
        assert await client.pubsub_channels("news:*") == sorted(name.encode() for name in names)
        assert await client.pubsub_numsub("news:1", "nobody") == [(b"news:1", 1), (b"nobody", 0)]
        assert await client.pubsub_numpat() == 2
        told = await client.info()
        assert (told["pubsub_clients"], told["pubsub_channels"], told["pubsub_patterns"]) == (2, len(names), 2)
        await subscriber.unsubscribe()
        assert [(await message(subscriber))["data"] for _ in names] == list(range(9, -1, -1))
        assert await client.publish("news:7", "x") == 0
        assert len(lab.router.hub.topics) == 2
    await until(lambda: not lab.router.hub.topics, "the router wants nothing any more")

    raw = await RawClient.connect(lab.port)
    raw.send("HELLO", "3")
    await until(lambda: bool(raw.reader._buffer), "it is greeted")  # type: ignore[attr-defined]
    await raw.reader.readuntil(b"modules\r\n*0\r\n")
    raw.send("SSUBSCRIBE", "a", "b", "a")
    for channel, count in (b"a", 1), (b"b", 2), (b"a", 2):
        await raw.exactly(b">3\r\n$10\r\nssubscribe\r\n$1\r\n%b\r\n:%d\r\n" % (channel, count))
    assert await client.execute_command("SPUBLISH", "b", "hello") == 1
    assert await client.publish("b", "elsewhere") == 0
    await raw.exactly(b">3\r\n$8\r\nsmessage\r\n$1\r\nb\r\n$5\r\nhello\r\n")
    assert await client.execute_command("PUBSUB", "SHARDCHANNELS") == [b"a", b"b"]
    raw.send("SET", "{x}k", "v")
    await raw.exactly(b"+OK\r\n")
    raw.send("SUNSUBSCRIBE")
    for channel, count in (b"a", 1), (b"b", 0):
        await raw.exactly(b">3\r\n$12\r\nsunsubscribe\r\n$1\r\n%b\r\n:%d\r\n" % (channel, count))
    raw.send("UNSUBSCRIBE")
    await raw.exactly(b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n")
    raw.close()


async def test_a_subscribed_client_with_resp2_may_do_little(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    for word in ("SUBSCRIBE", "GET", "PING", "NOSUCH"):
        raw.send(word, "c")
    await raw.exactly(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    assert (await raw.line()).startswith(b"-ERR Can't execute 'get': only (P|S)SUBSCRIBE")
    await raw.exactly(b"*2\r\n$4\r\npong\r\n$1\r\nc\r\n")
    # As at a server: what it does not know is said to be unknown, whatever the connection may do.
    assert (await raw.line()).startswith(b"-ERR unknown command 'NOSUCH'")
    raw.send("RESET")
    await raw.exactly(b"+RESET\r\n")
    raw.send("SET", "k", "v")
    raw.send("GET", "k")
    await raw.exactly(b"+OK\r\n$1\r\nv\r\n")
    assert not lab.router.hub.topics
    raw.close()


async def test_what_follows_a_subscription_comes_after_it(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    raw.send("HELLO", "3")
    await raw.reader.readuntil(b"modules\r\n*0\r\n")
    for i in range(200):
        raw.send("SUBSCRIBE", f"c{i}")
        raw.send("PUBLISH", f"c{i}", "m")
    parser = hiredis.Reader()
    found: list[object] = []
    async with asyncio.timeout(20):
        while len(found) < 600:
            parser.feed(await raw.reader.read(65536))
            while (frame := parser.gets()) is not False:
                found.append(frame)
    for i in range(200):
        confirmed = found.index([b"subscribe", b"c%d" % i, i + 1])
        assert found.index([b"message", b"c%d" % i, b"m"]) > confirmed
    assert found.count(1) == 200
    raw.close()


async def test_messages_pass_a_command_that_blocks(lab: RouterLab, client: Client) -> None:
    raw = await RawClient.connect(lab.port)
    raw.send("HELLO", "3")
    await raw.reader.readuntil(b"modules\r\n*0\r\n")
    raw.send("SUBSCRIBE", "c")
    await raw.exactly(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    raw.send("BLPOP", "list", "0")
    await until(lambda: bool(lab.router.blocked), "it blocks")
    assert await client.publish("c", "m") == 1
    await raw.exactly(b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
    assert await client.rpush("list", "x") == 1
    await raw.exactly(b"*2\r\n$4\r\nlist\r\n$1\r\nx\r\n")
    raw.close()


async def test_scripts_and_transactions_publish_from_any_shard(lab: RouterLab, client: Client) -> None:
    async with client.pubsub() as subscriber:
        channels = [lab.key_of(shard, "c") for shard in SHARDS]
        await subscriber.subscribe(*channels)
        for _ in channels:
            await message(subscriber)
        for key in (lab.key_of(shard, "k") for shard in SHARDS):
            async with client.pipeline() as pipe:
                pipe.set(key, "v")
                for channel in channels:
                    pipe.publish(channel, "from a transaction")
                assert await pipe.execute() == [True, 1, 1]
            for channel in channels:
                assert await client.eval("return redis.call('PUBLISH', ARGV[1], 'from a script')", 1, key, channel) == 1
            found = [await message(subscriber) for _ in range(4)]
            for channel in channels:
                texts = [each["data"] for each in found if each["channel"] == channel.encode()]
                assert texts == [b"from a transaction", b"from a script"]


async def test_one_who_does_not_read_is_let_go(servers: dict[str, Server]) -> None:
    options = RouterOptions(node="shard-1", client_bytes=4_000_000)
    async with RouterLab(servers, options=options).running() as lab, lab.client() as publisher:
        raw = await RawClient.connect(lab.port)
        raw.send("SUBSCRIBE", "c")
        await raw.exactly(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        payload = "x" * 1_000_000
        while not lab.router.clients.limits.ended:
            assert await publisher.publish("c", payload) <= 1
        await until(lambda: not lab.router.hub.topics, "nothing is subscribed for it any more")
        assert await publisher.publish("c", "x") == 0
        raw.close()


async def test_a_dead_shard_takes_only_its_own_channels(servers: dict[str, Server]) -> None:
    async with RouterLab(servers, options=OPTIONS).running() as lab, lab.client() as client:
        here, there = lab.key_of("shard-1", "c"), lab.key_of("shard-2", "c")
        async with client.pubsub() as subscriber:
            await subscriber.subscribe(here, there)
            assert [(await message(subscriber))["type"] for _ in range(2)] == ["subscribe"] * 2
            servers["shard-2"].kill()
            with pytest.raises(redis.ResponseError, match="shard-2"):
                for _ in range(100):
                    await client.publish(there, "lost")
            assert await client.publish(here, "goes on") == 1
            assert (await message(subscriber))["data"] == b"goes on"
            async with lab.client(3) as other, other.pubsub() as late:
                await late.subscribe(here)
                assert (await message(late))["type"] == "subscribe"
                await late.subscribe(lab.key_of("shard-2", "d"))
                with pytest.raises(redis.ResponseError, match=r"shard-2 does not answer .* nothing was subscribed"):
                    await message(late)
            async with lab.client(3) as other, other.pubsub() as matcher:
                # A pattern is served by the shards that answer, and by the other when it does again.
                await matcher.psubscribe("c:*")
                assert (await message(matcher))["type"] == "psubscribe"
                assert await client.publish(here, "seen") == 2
                assert [(await message(each))["data"] for each in (subscriber, matcher)] == [b"seen", b"seen"]
                servers["shard-2"].start()

                async def both_reached() -> bool:
                    try:
                        return bool(await client.publish(there, "again") == 2)
                    except redis.ResponseError:
                        return False

                await until(both_reached, "channel and pattern are subscribed again")
                assert [(await message(each))["data"] for each in (subscriber, matcher)] == [b"again", b"again"]


async def test_no_pattern_is_subscribed_where_no_shard_answers(servers: dict[str, Server]) -> None:
    async with RouterLab(servers, options=OPTIONS).running() as lab, lab.client(3) as client:
        for shard in SHARDS:
            servers[shard].kill()
        try:
            async with client.pubsub() as matcher:
                await matcher.psubscribe("*")
                with pytest.raises(redis.ResponseError, match=r"shard-\d does not answer .* nothing was subscribed"):
                    await message(matcher)
            assert not lab.router.hub.topics
        finally:
            for shard in SHARDS:
                servers[shard].start()


async def test_a_router_says_so_until_the_target_of_a_fence_has_its_subscriptions(servers: dict[str, Server]) -> None:
    options = RouterOptions(node="shard-1", hold_timeout_s=20)
    async with RouterLab(servers, options=options).running() as lab, lab.client() as client:
        moving = lab.key_of("shard-1", "m")
        async with client.pubsub() as subscriber:
            await subscriber.subscribe(lab.key_of("shard-1", "s"))
            await message(subscriber)
            links = lab.router.hub._links.values()
            await until(lambda: all(link.state is ConnectionState.READY for link in links), "both are connected")
            servers["shard-2"].stop()
            try:
                await subscriber.subscribe(moving)
                assert (await message(subscriber))["type"] == "subscribe"
                epoch = await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-2")

                async def acknowledged() -> bool:
                    return [session.acked_epoch for session in await lab.sessions()] == [epoch]

                await until(acknowledged, "no command is under way, and that does not wait for the target")
                for _ in range(50):
                    await client.get(lab.key_of("shard-1", "s"))
                assert [session.deaf for session in await lab.sessions()] == [True]
            finally:
                servers["shard-2"].cont()
            await lab.acknowledged(epoch)
            held = asyncio.create_task(client.publish(moving, "held"))
            await until(lambda: len(lab.router.holding) == 1, "it is held")
            await lab.publish(transition=None)
            assert await held == 1
            assert (await message(subscriber))["data"] == b"held"


async def test_subscriptions_outlive_the_session_of_their_router(lab: RouterLab, client: Client) -> None:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("c")
        await subscriber.psubscribe("c*")
        assert [(await message(subscriber))["type"] for _ in range(2)] == ["subscribe", "psubscribe"]
        (session,) = await lab.sessions()
        await lab.store.commit([Delete(SESSIONS + session.id)])
        await until(lambda: lab.router.keeper.sessions == 2 and lab.router.alive(), "the router has a new session")

        kinds: set[object] = set()

        async def both_again() -> bool:
            # The count of a publication says nothing here: the server may still see the last session's connection.
            await client.publish("c", "m")
            while (found := await subscriber.get_message(timeout=0.05)) is not None:
                kinds.add(found["type"])
            return len(kinds) == 2

        await until(both_again, "both are subscribed again")
        assert kinds == {"message", "pmessage"}


# --- real moves -------------------------------------------------------------------------------------------------


async def router_over(shards: Shards, node: str, stack: AsyncExitStack) -> int:
    """A router of its own over the cluster; its port."""
    options = RouterOptions(node=node, hold_timeout_s=20)
    router = Router(shards.store, shards.connector, shards.admin, shards.clock, options)
    await router.start()
    stack.push_async_callback(router.stop)
    return await router.serve("127.0.0.1", 0)


async def test_every_message_comes_once_and_in_order_while_its_channel_moves(tmp_path: Path) -> None:
    channels = [f"channel:{i}" for i in range(24)]
    async with running_shards(tmp_path, 2, fsync="no") as shards, AsyncExitStack() as stack:
        ports = [await router_over(shards, f"shard-{i}", stack) for i in (1, 2)]
        clients: list[Client] = [
            await stack.enter_async_context(redis.asyncio.Redis(port=port, protocol=3 - i, legacy_responses=True))
            for i, port in enumerate(ports)
        ]
        got: list[dict[bytes, list[bytes]]] = []
        readers: list[asyncio.Task[None]] = []
        for pattern in (False, True):
            for client in clients:
                subscriber = await stack.enter_async_context(client.pubsub())
                await (subscriber.psubscribe("channel:*") if pattern else subscriber.subscribe(*channels))
                for _ in range(1 if pattern else len(channels)):
                    await message(subscriber)
                got.append({})
                readers.append(asyncio.create_task(collect(subscriber, got[-1])))
        moving = True
        sent: dict[bytes, int] = {}

        async def publish(client: Client, channel: str) -> None:
            number = 0
            while moving:
                assert await client.publish(channel, str(number)) >= 2
                number += 1
            sent[channel.encode()] = number

        publishers = [asyncio.create_task(publish(clients[i % 2], name)) for i, name in enumerate(channels)]
        node = await shards.server("shard-3")
        await shards.admin.add_node(node.id, str(node.address))
        await shards.settled()
        assert len((await shards.topology()).placement.weights) == 3
        await shards.admin.remove_node("shard-3")
        await shards.settled()
        moving = False
        await asyncio.gather(*publishers)
        for found in got:
            await until(lambda found=found: sum(map(len, found.values())) >= sum(sent.values()), "all has come")  # type: ignore[misc]
            assert found == {name: [str(i).encode() for i in range(count)] for name, count in sent.items()}
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def collect(subscriber: Client, found: dict[bytes, list[bytes]]) -> None:
    async for each in subscriber.listen():
        found.setdefault(each["channel"], []).append(each["data"])


# --- many names in one command ------------------------------------------------------------------------------------

MANY = [f"name:{number}".encode() for number in range(6000)]
LONG_TIMEOUTS = replace(OPTIONS, session_ttl_s=30, member_timeout_s=30, connect_timeout_s=10)


@pytest.fixture
async def slow_lab(servers: dict[str, Server]) -> AsyncIterator[RouterLab]:
    async with RouterLab(servers, options=LONG_TIMEOUTS).running() as made:
        yield made


async def others_are_served(lab: RouterLab, work: asyncio.Task[None]) -> int:
    """How many commands of another client are carried out meanwhile."""
    other = await RawClient.connect(lab.port)
    served = 0
    while not work.done():
        assert await other.ask("SET", lab.key_of("shard-1", "other"), "v") == b"+OK\r\n"
        served += 1
    other.close()
    await work
    return served


async def confirmations(raw: RawClient, word: bytes, count: int) -> None:
    for _ in range(count):
        assert await raw.line() == b"*3\r\n"
        assert [await raw.line() for _ in range(5)][1] == word + b"\r\n"


async def test_a_subscription_to_many_names_lets_others_in(slow_lab: RouterLab) -> None:
    raw, publisher = await RawClient.connect(slow_lab.port), await RawClient.connect(slow_lab.port)
    raw.send("SUBSCRIBE", *MANY)
    assert await others_are_served(slow_lab, asyncio.create_task(confirmations(raw, b"subscribe", len(MANY)))) > 2
    assert await publisher.ask("PUBLISH", MANY[-1], "m") == b":1\r\n"
    message = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%s\r\n$1\r\nm\r\n" % (len(MANY[-1]), MANY[-1])
    await raw.exactly(message)
    raw.send("UNSUBSCRIBE")
    raw.send("PING", "after")
    assert await others_are_served(slow_lab, asyncio.create_task(confirmations(raw, b"unsubscribe", len(MANY)))) > 2
    await raw.exactly(b"$5\r\nafter\r\n")
    assert not slow_lab.router.hub.topics
    raw.send("SUBSCRIBE", *MANY)
    raw.send("RESET")
    raw.send("SUBSCRIBE", "one")
    await confirmations(raw, b"subscribe", len(MANY))
    assert await raw.line() == b"+RESET\r\n"
    await confirmations(raw, b"subscribe", 1)
    assert list(slow_lab.router.hub.topics.wanted()) == [(Kind.CHANNEL, b"one")]
    raw.close()
    publisher.close()


async def test_a_client_that_leaves_amid_a_subscription_leaves_nothing(slow_lab: RouterLab) -> None:
    raw = await RawClient.connect(slow_lab.port)
    raw.send("SUBSCRIBE", *MANY)
    await until(lambda: len(slow_lab.router.hub.topics) > 1000, "it is under way")
    assert len(slow_lab.router.hub.topics) < len(MANY)
    raw.writer.transport.abort()
    await until(lambda: not slow_lab.router.clients and not slow_lab.router.hub.topics, "nothing is subscribed for it")


async def test_a_connection_that_was_lost_amid_many_subscriptions_has_them_again(slow_lab: RouterLab) -> None:
    raw, publisher = await RawClient.connect(slow_lab.port), await RawClient.connect(slow_lab.port)
    raw.send("SUBSCRIBE", *MANY)
    await confirmations(raw, b"subscribe", len(MANY))
    for shard in SHARDS:
        async with slow_lab.direct(shard) as direct:
            assert await direct.client_kill_filter(_type="pubsub")
    names = {slow_lab.owner(name): name for name in MANY}
    links = slow_lab.router.hub._links
    for shard, name in names.items():
        await until(lambda shard=shard, name=name: links[shard].has((Kind.CHANNEL, name)), "all are subscribed again")  # type: ignore[misc]
        assert await publisher.ask("PUBLISH", name, "m") == b":1\r\n"
    raw.close()
    publisher.close()


async def test_counting_the_subscribers_of_many_names_fills_no_queue(servers: dict[str, Server]) -> None:
    options = replace(LONG_TIMEOUTS, member_commands=500)
    async with RouterLab(servers, options=options).running() as lab:
        raw, listener = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
        listener.send("SUBSCRIBE", MANY[7])
        await confirmations(listener, b"subscribe", 1)

        async def counted() -> None:
            raw.send("PUBSUB", "NUMSUB", *MANY)
            assert await raw.line() == b"*%d\r\n" % (2 * len(MANY))
            for number, name in enumerate(MANY):
                await raw.exactly(b"$%d\r\n%s\r\n:%d\r\n" % (len(name), name, number == 7))

        assert await others_are_served(lab, asyncio.create_task(counted())) > 2
        raw.close()
        listener.close()
