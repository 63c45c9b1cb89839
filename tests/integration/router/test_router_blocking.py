"""Commands that wait, through a router: as a server has them, while their keys move, and when somebody leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.routers import Client, RawClient, RouterLab, answers_to
from tests.servers import Server
from tests.waiting import until

from helios.model.topology import PairPhase
from helios.router.commands.blocking import Blocked
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
FENCED, SWITCHED = PairPhase.FENCED, PairPhase.SWITCHED
OPTIONS = RouterOptions(node="shard-1", connect_timeout_s=1, member_timeout_s=1, max_backoff_s=0.1, hold_timeout_s=20)


async def blocked_at(lab: RouterLab, shard: str, count: int = 1) -> None:
    """Return when so many commands wait at a shard's server."""
    async with lab.direct(shard) as direct:

        async def there() -> bool:
            return bool((await direct.info("clients"))["blocked_clients"] == count)

        await until(there, f"{count} commands wait at {shard}")


class Journey:
    """A move of the keys `m:*` from one shard to the other, step by step."""

    def __init__(self, lab: RouterLab, source: str = "shard-1", target: str = "shard-2") -> None:
        self.lab, self.source, self.target = lab, source, target
        self.before = lab.topology

    async def fence(self) -> None:
        await self.lab.acknowledged(await self.lab.publish_move(FENCED, self.source, self.target))

    async def switch(self, *keys: str) -> None:
        """Copy these keys, and let the target own them."""
        async with self.lab.direct(self.source) as here, self.lab.direct(self.target) as there:
            for key in keys:
                payload = await here.dump(key)
                if payload is not None:
                    await there.restore(key, 0, payload, replace=True)
        self.lab.topology = replace(self.before, epoch=self.lab.topology.epoch)
        await self.lab.acknowledged(await self.lab.publish_move(SWITCHED, self.source, self.target))


SCRIPTS = [
    [
        "RPUSH {t}l a b c",
        "BLPOP {t}n {t}l 0",
        "BRPOP {t}l 5",
        "BLMOVE {t}l {t}m LEFT RIGHT 0",
        "BRPOPLPUSH {t}m {t}l 1",
    ],
    ["RPUSH {t}l a b c", "BLMPOP 0 2 {t}n {t}l LEFT COUNT 2", "BLMPOP 0.01 1 {t}n LEFT", "LRANGE {t}l 0 -1"],
    ["ZADD {t}z 1 a 2.5 b 3 c", "BZPOPMIN {t}z 0", "BZPOPMAX {t}n {t}z 0", "BZMPOP 0 1 {t}z MIN", "BZPOPMIN {t}z .01"],
    ["XADD {t}s 1-1 f v", "XREAD BLOCK 0 STREAMS {t}s 0", "XREAD COUNT 1 BLOCK 10 STREAMS {t}s {t}x $ $"],
    ["XADD {t}s 1-1 f v", "XGROUP CREATE {t}s g 0", "XREADGROUP GROUP g c BLOCK 0 STREAMS {t}s >"],
    ["XGROUP CREATE {t}s g 0 MKSTREAM", "XREADGROUP GROUP g c BLOCK 10 STREAMS {t}s >", "XREAD STREAMS {t}s 0"],
    ["BLPOP {t}l x", "BLPOP {t}l -1", "BLPOP {t}l 1e400", "BLPOP {t}l inf", "BLPOP {t}l", "BLMPOP -1 1 {t}l LEFT"],
    [
        "XREAD BLOCK x STREAMS {t}s $",
        "XREAD BLOCK -1 STREAMS {t}s $",
        "XREAD BLOCK 1 STREAMS",
        "XREAD BLOCK 1.5 STREAMS {t}s 0",
    ],
    ["SET {t}l v", "BLPOP {t}l 0", "BLMOVE {t}l {t}m LEFT MIDDLE 0", "SET {t}s v", "XREAD BLOCK 0 STREAMS {t}s $"],
    [
        "BLPOP {t}l 0.01",
        "BRPOP {t}l .01",
        "BLMOVE {t}l {t}m LEFT LEFT 0.01",
        "BRPOPLPUSH {t}l {t}m 0.01",
        "BLPOP {t}l 1e-2",
    ],
]


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_what_waits_is_answered_as_a_server_does(lab: RouterLab, protocol: str, plain: Server) -> None:
    for script in SCRIPTS:
        theirs, ours = [await answers_to(script, port, protocol) for port in (plain.port, lab.port)]
        assert theirs == ours, script


async def test_what_comes_is_delivered_and_later_commands_wait_for_it(
    lab: RouterLab, client: Client, raw: RawClient
) -> None:
    key = lab.key_of("shard-1")
    raw.send("RPUSH", key, "0")
    raw.send("BLPOP", key, "0")
    raw.send("BLPOP", key, "0")
    raw.send("SET", lab.key_of("shard-2"), "later")
    raw.send("GET", lab.key_of("shard-2"))
    await raw.exactly(b":1\r\n" + reply(key, "0"))
    await blocked_at(lab, "shard-1")
    assert await client.get(lab.key_of("shard-2")) is None
    told = await client.info("clients")
    assert (told["blocked_clients"], told["total_blocking_keys"]) == (1, 1)
    assert await client.rpush(key, "1") == 1
    await raw.exactly(reply(key, "1") + b"+OK\r\n$5\r\nlater\r\n")
    assert not lab.router.blocked
    assert await client.exists(key) == 0


def reply(key: str, value: str) -> bytes:
    return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key.encode(), len(value), value.encode())


async def test_keys_of_several_shards_are_refused(lab: RouterLab, raw: RawClient) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    for words in (("BLPOP", here, there, "0"), ("XREAD", "BLOCK", "0", "STREAMS", here, there, "$", "$")):
        assert (await raw.ask(*words)).startswith(
            b"-CROSSSHARD keys are owned by shard-1 and shard-2: '%b'" % words[0].encode()
        )


async def test_a_fence_wakes_what_waits_for_its_keys_and_the_new_owner_gets_it(
    lab: RouterLab, client: Client, raw: RawClient
) -> None:
    moving, staying = lab.key_of("shard-1", "m"), lab.key_of("shard-1", "s")
    other = await RawClient.connect(lab.port)
    other.send("BLPOP", staying, "0")
    await blocked_at(lab, "shard-1")
    (unconcerned,) = lab.router.blocked
    raw.send("BLPOP", moving, "0")
    await blocked_at(lab, "shard-1", 2)

    journey = Journey(lab)
    await journey.fence()  # It is acknowledged although both have no time-out.
    await until(lambda: len(lab.router.holding) == 1, "the client is held")
    assert lab.router.blocked == {unconcerned}
    await blocked_at(lab, "shard-1", 1)
    pushing = asyncio.create_task(client.rpush(moving, "v"))
    await journey.switch(moving)
    assert await pushing == 1
    await raw.exactly(reply(moving, "v"))
    assert lab.router.blocked == {unconcerned}

    # And back again, while it waits at the new owner.
    raw.send("BLPOP", moving, "0")
    await blocked_at(lab, "shard-2")
    await lab.acknowledged(await lab.publish(transition=None, unclean=frozenset()))
    await blocked_at(lab, "shard-1", 2)
    assert await client.rpush(moving, "w") == 1
    await raw.exactly(reply(moving, "w"))
    assert await client.rpush(staying, "x") == 1
    await other.exactly(reply(staying, "x"))
    other.close()


async def test_a_time_out_goes_on_at_the_new_owner(lab: RouterLab, raw: RawClient) -> None:
    moving = lab.key_of("shard-1", "m")
    journey = Journey(lab)
    raw.send("BLPOP", moving, "0.3")
    raw.send("XREAD", "BLOCK", "60000", "STREAMS", moving, "0")
    await blocked_at(lab, "shard-1")
    await journey.fence()
    await journey.switch()
    assert await raw.line() == b"*-1\r\n"
    await blocked_at(lab, "shard-2")
    (call,) = lab.router.blocked
    assert isinstance(call, Blocked)
    assert call._deadline is not None and call._deadline - asyncio.get_running_loop().time() <= 60


async def test_new_entries_of_a_stream_are_those_since_the_client_asked(
    lab: RouterLab, client: Client, raw: RawClient
) -> None:
    moving, second = "m:{x}", "m:second:{x}"
    source = lab.owner(moving)
    journey = Journey(lab, source, "shard-2" if source == "shard-1" else "shard-1")
    await client.xadd(moving, {"f": "old"}, id="1-1")
    raw.send("XREAD", "BLOCK", "0", "STREAMS", moving, second, "$", "$")
    await blocked_at(lab, source)
    await journey.fence()
    await until(lambda: len(lab.router.holding) == 1, "the client is held")
    async with lab.direct(source) as direct:  # As if it had got there before the fence.
        await direct.xadd(moving, {"f": "new"}, id="2-1")
    await journey.switch(moving)
    await raw.exactly(b"*1\r\n*2\r\n$5\r\nm:{x}\r\n*1\r\n*2\r\n$3\r\n2-1\r\n*2\r\n$1\r\nf\r\n$3\r\nnew\r\n")
    raw.send("XREAD", "BLOCK", "0", "STREAMS", second, "$")
    await blocked_at(lab, lab.router.routes.owner(second.encode()) if lab.router.routes else "")
    await client.xadd(second, {"f": "v"}, id="1-1")
    await raw.exactly(b"*1\r\n*2\r\n$12\r\nm:second:{x}\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n")


async def test_nothing_is_taken_for_a_client_that_has_left(lab: RouterLab, client: Client) -> None:
    key = lab.key_of("shard-1")
    errors = dict(lab.router.totals.errors)
    for leave in ("close", "abort"):
        raw = await RawClient.connect(lab.port)
        # It waited behind another command: reading had been stopped then.
        raw.send("GET", key)
        raw.send("BLPOP", key, "0")
        raw.send("ECHO", "never")
        await blocked_at(lab, "shard-1")
        (waiting,) = [number for number, other in lab.router.clients.items() if other.call is not None]
        getattr(raw.writer.transport, leave)()
        await until(lambda number=waiting: number not in lab.router.clients, "its leaving is noticed")  # type: ignore[misc]
        await until(lambda: len(lab.router.pool.dedicated) == 0, "its connection is ended")
        await blocked_at(lab, "shard-1", 0)
        assert await client.rpush(key, "v") == 1
        assert await client.lpop(key) == b"v"
    assert not lab.router.blocked
    assert lab.router.totals.errors == errors, "nobody was told of an unknown outcome"


async def test_who_has_hung_up_already_gets_what_is_there_and_is_not_waited_for(lab: RouterLab) -> None:
    key = lab.key_of("shard-1")
    raw = await RawClient.connect(lab.port)
    raw.send("RPUSH", key, "v")
    raw.send("BLPOP", key, "0")
    raw.writer.write_eof()
    assert (await raw.closed()).startswith(b":1\r\n")
    await until(lambda: not lab.router.clients, "it is gone")
    await until(lambda: not lab.router.blocked, "nothing waits")


async def test_a_fence_need_not_wait_for_a_client_that_has_left(lab: RouterLab, client: Client) -> None:
    moving = lab.key_of("shard-1", "m")
    raw = await RawClient.connect(lab.port)
    raw.send("BLPOP", moving, "0")
    await blocked_at(lab, "shard-1")
    raw.writer.transport.abort()
    journey = Journey(lab)
    await journey.fence()
    await journey.switch()
    assert await client.rpush(moving, "v") == 1
    assert await client.llen(moving) == 1


async def test_a_killed_server_is_named_at_once(lab: RouterLab, raw: RawClient) -> None:
    key, elsewhere = lab.key_of("shard-1"), lab.key_of("shard-2")
    other = await RawClient.connect(lab.port)
    other.send("BLPOP", elsewhere, "0")
    raw.send("BLPOP", key, "0")
    await blocked_at(lab, "shard-1")
    server = lab.servers["shard-1"]
    server.kill()
    try:
        assert (await raw.line()).startswith(b"-UNKNOWN the connection to shard-1 at 127.0.0.1")
        link = lab.router.pool.links[2]["shard-1"]
        await until(lambda: link.state.value == "down", "the link is down")
        assert (await raw.ask("BLPOP", key, "0")).startswith(b"-CLUSTERDOWN shard-1 does not answer at 127.0.0.1")
    finally:
        server.start()
    await until(lambda: link.state.value == "ready", "the server is back")
    assert await raw.ask("RPUSH", key, "v") == b":1\r\n"
    raw.send("BLPOP", key, "0")
    await raw.exactly(reply(key, "v"))
    assert await raw.ask("RPUSH", elsewhere, "v") == b":1\r\n"
    await other.exactly(reply(elsewhere, "v"))
    other.close()


async def test_what_only_reads_begins_again_after_its_connection_was_lost(
    lab: RouterLab, client: Client, raw: RawClient
) -> None:
    key = lab.key_of("shard-1", "stream")
    assert await client.xadd(key, {"a": "1"}, id="1-1")
    raw.send("XREAD", "BLOCK", "0", "STREAMS", key, "$")
    await blocked_at(lab, "shard-1")
    (before,) = lab.router.blocked
    async with lab.direct("shard-1") as direct:
        await direct.client_kill_filter(_type="normal", skipme=True)
    await until(lambda: bool(lab.router.blocked - {before}), "it is sent again")
    await blocked_at(lab, "shard-1")
    assert await client.xadd(key, {"b": "2"}, id="2-2") == b"2-2"
    entry = b"*2\r\n$3\r\n2-2\r\n*2\r\n$1\r\nb\r\n$1\r\n2\r\n"
    await raw.exactly(b"*1\r\n*2\r\n$%d\r\n%b\r\n*1\r\n%b" % (len(key), key.encode(), entry))
    # Where nobody answers any more, it is told so, and nothing about it is unknown.
    raw.send("XREAD", "BLOCK", "0", "STREAMS", key, "$")
    await blocked_at(lab, "shard-1")
    lab.servers["shard-1"].kill()
    try:
        assert (await raw.line()).startswith(b"-CLUSTERDOWN shard-1 does not answer at 127.0.0.1")
    finally:
        lab.servers["shard-1"].start()


async def test_a_server_that_hangs_does_not_let_its_clients_wait_for_ever(lab: RouterLab, raw: RawClient) -> None:
    key = lab.key_of("shard-1")
    raw.send("BLPOP", key, "0")
    await blocked_at(lab, "shard-1")
    lab.servers["shard-1"].stop()
    try:
        assert (await raw.line()).startswith(b"-UNKNOWN the connection to shard-1 at 127.0.0.1")
    finally:
        lab.servers["shard-1"].cont()
    # The command of before is ended at the server, so that what comes is not taken for nobody.
    await until(lambda: len(lab.router.pool.dedicated) == 0, "the connection is ended")
    assert await raw.ask("RPUSH", key, "v") == b":1\r\n"
    assert await raw.ask("LLEN", key) == b":1\r\n"


async def test_another_client_can_end_the_wait(lab: RouterLab, raw: RawClient) -> None:
    key = lab.key_of("shard-1")
    assert not lab.router.clients.unblock(99, as_error=True)
    for as_error, answer in ((True, b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"), (False, b"*-1\r\n")):
        raw.send("BLPOP", key, "0")
        await blocked_at(lab, "shard-1")
        (number,) = lab.router.clients
        assert lab.router.clients.unblock(number, as_error=as_error)
        assert await raw.line() == answer
        assert not lab.router.clients.unblock(number, as_error=as_error)


async def test_stopping_answers_what_waits(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers, options=OPTIONS)
    key = lab.key_of("shard-1", "stopping")
    async with lab.running():
        raw = await RawClient.connect(lab.port)
        raw.send("BLPOP", key, "0")
        await blocked_at(lab, "shard-1")
    assert await raw.closed() == b"-CLUSTERDOWN the router is stopping; nothing was executed\r\n"
    assert await lab.sessions() == []


async def test_calls_inside_the_process_wait_too(lab: RouterLab) -> None:
    key = lab.key_of("shard-1").encode()
    waiting = asyncio.create_task(lab.router.execute([b"BLPOP", key, b"0"]))
    await blocked_at(lab, "shard-1")
    assert await lab.router.execute([b"RPUSH", key, b"v"]) == b":1\r\n"
    assert await waiting == reply(key.decode(), "v")
    given_up = asyncio.create_task(lab.router.execute([b"BLPOP", key, b"0"]))
    await blocked_at(lab, "shard-1")
    given_up.cancel()
    await blocked_at(lab, "shard-1", 0)


async def test_every_element_is_taken_once_while_the_list_goes_to_and_fro(lab: RouterLab, client: Client) -> None:
    moving = lab.key_of("shard-1", "m")
    count = 300
    taken: list[bytes] = []

    async def take() -> None:
        async with lab.client() as own:
            while len(taken) < count:
                found = await own.blpop(moving, timeout=1)
                if found is not None:
                    taken.append(found[1])

    async def put() -> None:
        for number in range(count):
            await client.rpush(moving, number)
            await asyncio.sleep(0)

    takers = [asyncio.create_task(take()) for _ in range(8)]
    putting = asyncio.create_task(put())
    moves = 0
    while not putting.done() or moves < 3:
        journey = Journey(lab)
        await journey.fence()
        async with lab.direct("shard-2") as there:
            await there.delete(moving)
        await journey.switch(moving)
        # Back: the pair of the other direction is fenced, copied and switched alike.
        back = Journey(lab, "shard-2", "shard-1")
        transition = lab.topology.transition
        assert transition is not None
        back.before = replace(lab.topology, placement=transition.next, transition=None)
        lab.topology = replace(back.before, epoch=lab.topology.epoch)
        await back.fence()
        async with lab.direct("shard-1") as here:
            await here.delete(moving)
        await back.switch(moving)
        lab.topology = replace(journey.before, epoch=lab.topology.epoch)
        await lab.acknowledged(await lab.publish(transition=None, unclean=frozenset()))
        moves += 1
    await asyncio.gather(putting, *takers)
    assert sorted(map(int, taken)) == list(range(count))
    assert await client.llen(moving) == 0
