"""A router's limits: what clients may have, how long they may be silent, and how they log in."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.access.authenticator import Identity
from helios.model.passwords import hashed
from helios.model.users import Role, User
from helios.placement.glob import LONGEST_PATTERN
from helios.resp.wire import encode_command
from helios.router.frontend.caller import FutureReply
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", worker=3, slow_s=0.05, member_timeout_s=30)


# --- silence ----------------------------------------------------------------------------------------------------


async def test_idle_clients_are_let_go_and_others_are_not(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, idle_timeout_s=0.5)
    async with RouterLab(servers, options=options).running() as lab:
        idle, busy, waiting, listening = [await RawClient.connect(lab.port) for _ in range(4)]
        assert await idle.ask("PING") == b"+PONG\r\n"
        assert await listening.ask("HELLO", "3") == b"%7\r\n"
        listening.send("SUBSCRIBE", "news")
        waiting.send("BLPOP", "nothing", "0")

        async def keep_busy() -> None:
            while True:
                assert await busy.ask("PING") == b"+PONG\r\n"
                await asyncio.sleep(0.05)

        keeping = asyncio.create_task(keep_busy())
        with suppress(ConnectionResetError):
            assert await idle.closed() == b""
        keeping.cancel()
        assert lab.router.clients.limits.ended == {"idle": 1}
        assert len(lab.router.clients) == 3
        listening.close()
        waiting.close()
        busy.close()


async def test_who_does_not_go_on_with_a_command_is_told_and_let_go(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, command_timeout_s=0.3)
    async with RouterLab(servers, options=options).running() as lab:
        silent, halfway, resting = [await RawClient.connect(lab.port) for _ in range(3)]
        assert await resting.ask("PING") == b"+PONG\r\n"
        assert await halfway.ask("PING") == b"+PONG\r\n"
        halfway.writer.write(b"*2\r\n$3\r\nGET\r\n$100\r\nhal")
        told = b"-ERR nothing more of a command has come for 0.3 s\r\n"
        assert await silent.closed() == told
        assert await halfway.closed() == told
        assert lab.router.clients.limits.ended == {"command_timeout": 2}
        assert await resting.ask("PING") == b"+PONG\r\n"
        resting.close()


async def test_the_system_asks_whether_silent_clients_are_there(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    assert await raw.ask("PING") == b"+PONG\r\n"
    (connection,) = lab.router.clients.values()
    assert connection.transport is not None
    found = connection.transport.get_extra_info("socket")
    assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300
    raw.close()


# --- memory -----------------------------------------------------------------------------------------------------


async def test_where_memory_is_short_those_with_the_most_are_let_go(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=100_000_000, clients_bytes=5_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        small, big, spared = [await RawClient.connect(lab.port) for _ in range(3)]
        assert await spared.ask("CLIENT", "NO-EVICT", "ON") == b"+OK\r\n"
        spared.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 3_000_000)
        small.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 100_000)
        await until(lambda: lab.router.clients.limits.held_bytes > 3_000_000, "what they have sent is counted")
        assert not lab.router.clients.limits.ended
        big.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 2_500_000)
        with suppress(ConnectionResetError):
            assert await big.closed() == b""
        assert lab.router.clients.limits.ended == {"clients_memory": 1}
        assert len(lab.router.clients) == 2
        small.close()
        spared.close()


async def test_a_client_that_is_being_let_go_is_not_let_go_again(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=100_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        limits = lab.router.clients.limits
        raw = await RawClient.connect(lab.port)
        raw.writer.write(b"*2\r\n$3\r\nGET\r\n$10000000\r\n" + b"x" * 3_000_000)
        await until(lambda: limits.held_bytes > 2_000_000, "what it has sent is counted")
        limits.options = replace(options, client_bytes=1_000_000)
        limits.look()
        limits.look()
        assert limits.ended == {"client_memory": 1}
        with suppress(ConnectionResetError):
            assert await raw.closed() == b""


async def test_what_is_queued_in_a_transaction_counts(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=3_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("MULTI") == b"+OK\r\n"
        with suppress(ConnectionError):
            for _ in range(4):
                raw.send("SET", lab.key_of("shard-1"), b"v" * 1_000_000)
            assert await raw.closed() in (b"", b"+QUEUED\r\n" * 2, b"+QUEUED\r\n" * 3, b"+QUEUED\r\n" * 4)
        assert lab.router.clients.limits.ended == {"client_memory": 1}


async def test_subscriptions_count(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=3_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        raw = await RawClient.connect(lab.port)
        for number in range(4):
            raw.send("SUBSCRIBE", f"{number}" + "x" * 1_000_000)
        with suppress(ConnectionError):
            await raw.closed()
        assert lab.router.clients.limits.ended == {"client_memory": 1}
        await until(lambda: not lab.router.hub.topics, "nothing is subscribed for it any more")


async def test_one_client_that_does_not_read_is_let_go_at_its_own_limit(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_bytes=3_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        key = lab.key_of("shard-1")
        assert await lab.router.execute([b"SET", key.encode(), b"v" * 1_000_000]) == b"+OK\r\n"
        raw = await RawClient.connect(lab.port)
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        raw.writer.write(encode_command([b"GET", key.encode()]) * 30)
        await until(lambda: not lab.router.clients, "the client is gone")
        assert lab.router.clients.limits.ended == {"client_memory": 1}
        raw.writer.transport.abort()


@pytest.mark.parametrize(("count", "size"), [(3000, 10_000), (250_000, 100)])
async def test_a_whole_pipeline_may_be_written_before_a_reply_is_read(lab: RouterLab, count: int, size: int) -> None:
    command, reply = encode_command([b"ECHO", b"e" * size]), b"$%d\r\n" % size + b"e" * size + b"\r\n"
    key = lab.key_of("shard-1", "nothing").encode()
    raw, other = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
    raw.writer.write(command * count + encode_command([b"GET", key]) * 1000)
    async with asyncio.timeout(240):
        await raw.writer.drain()
        writing = raw.writer.transport
        await until(lambda: not writing.get_write_buffer_size(), "the router has read all of it")
        fields = dict(field.split("=") for field in (await _client_line(other, str(min(lab.router.clients)))).split())
        assert 1_000_000 < int(fields["omem"]) <= count * len(reply) + 5000
        raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            assert await raw.reader.readexactly(len(reply)) == reply
        await raw.exactly(b"$-1\r\n" * 1000)
    await until(lambda: not next(iter(lab.router.clients.values())).unread_bytes, "it is owed nothing")
    assert not lab.router.clients.limits.ended
    raw.close()
    other.close()


async def _client_line(raw: RawClient, client_id: str) -> str:
    """What CLIENT LIST says of one connection."""
    size = int((await raw.ask("CLIENT", "LIST", "ID", client_id))[1:])
    return (await raw.reader.readexactly(size + 2)).decode()


async def test_the_memory_of_a_client_that_was_owed_much_goes_back_to_the_system(servers: dict[str, Server]) -> None:
    owed = 300 << 20
    async with RouterLab(servers, options=replace(OPTIONS, client_bytes=owed)).running() as lab:
        before = resident_bytes()
        reader, writer = await asyncio.open_connection("127.0.0.1", lab.port, limit=1024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # it reads nothing of what it asks for
        others = []
        with suppress(ConnectionError):
            while True:
                # What others need meanwhile lies between what is freed and the end of the heap.
                others.append(await RawClient.connect(lab.port))
                assert await others[-1].ask("PING") == b"+PONG\r\n"
                for _ in range(20):
                    writer.write(encode_command([b"ECHO", b"x" * 100_000]))
                    await writer.drain()
        writer.close()
        await until(lambda: resident_bytes() < before + owed / 3, "what it was owed is given back")
        assert lab.router.clients.limits.ended == {"client_memory": 1}
        for other in others:
            other.close()


def resident_bytes() -> int:
    """The memory that this process has from the system."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


# --- torture ----------------------------------------------------------------------------------------------------


async def test_a_million_tiny_commands_in_one_pipeline(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    count = 1_000_000

    async def send() -> None:
        for _ in range(count // 10_000):
            raw.writer.write(b"PING\r\n" * 10_000)
            await raw.writer.drain()

    sending = asyncio.create_task(send())
    left = count * len(b"+PONG\r\n")
    async with asyncio.timeout(240):
        while left:
            left -= len(await raw.reader.read(1 << 20))
    await sending
    assert lab.router.totals.commands >= count
    raw.close()


async def test_random_bytes_and_cut_frames_harm_nobody(lab: RouterLab, client: Client) -> None:
    source = random.Random(7)
    whole = encode_command([b"SET", b"torture", b"v" * 300]) + encode_command([b"MGET", b"a", b"b", b"c"])
    for number in range(150):
        raw = await RawClient.connect(lab.port)
        if number % 3 == 0:
            data = source.randbytes(source.randrange(1, 2000))
        elif number % 3 == 1:
            data = whole[: source.randrange(len(whole))]
        else:
            at = source.randrange(len(whole))
            data = whole[:at] + source.randbytes(3) + whole[at + 3 :]
        raw.writer.write(data)
        raw.writer.write_eof()
        if number % 2:
            raw.writer.transport.abort()
        else:
            with suppress(ConnectionResetError):
                await raw.closed()
    await until(lambda: len(lab.router.clients) <= 1, "all of them are gone")
    assert await client.set("torture", "whole")
    assert await client.get("torture") == b"whole"


async def test_announced_lengths_cost_nothing_before_the_bytes_come(lab: RouterLab) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clients = [await RawClient.connect(lab.port) for _ in range(20)]
    for raw in clients:
        raw.writer.write(b"*1048576\r\n$536870912\r\nabc")
    await until(lambda: lab.router.totals.bytes_in >= 20 * 20, "all of it has come")
    lab.router.clients.limits.look()
    assert 20 * 3 <= lab.router.clients.limits.held_bytes < 20 * 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    for raw in clients:
        raw.close()


async def test_clients_that_vanish_amid_a_reply_leave_nothing(lab: RouterLab) -> None:
    key = lab.key_of("shard-2").encode()
    assert await lab.router.execute([b"SET", key, b"v" * 2_000_000]) == b"+OK\r\n"
    for _ in range(10):
        raw = await RawClient.connect(lab.port)
        raw.writer.write(encode_command([b"GET", key]) * 5)
        assert await raw.reader.read(1000)
        raw.writer.transport.abort()
    await until(lambda: not lab.router.clients, "all connections are gone")
    link = lab.router.pool.links[2]["shard-2"]
    await until(lambda: link.issued == link.answered, "all commands are answered")
    lab.router.clients.limits.look()
    assert lab.router.clients.limits.held_bytes == 0


async def test_thousands_of_idle_connections_hold(servers: dict[str, Server]) -> None:
    """Both ends of each are in this process, which bounds their number to what it may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, (soft - 500) // 2)
    assert count >= 200
    async with RouterLab(servers, options=replace(OPTIONS, clients=count)).running() as lab:
        sockets = []
        try:
            for number in range(count):
                one = socket.socket()
                one.setblocking(False)
                one.bind(("127.0.0.1", 0))
                one.connect_ex(("127.0.0.1", lab.port))
                sockets.append(one)
                if number % 500 == 499:
                    await until(lambda number=number: len(lab.router.clients) > number, "they are connected")  # type: ignore[misc]
            await until(lambda: len(lab.router.clients) == count, "all are connected")
            lab.router.clients.limits.look()
            for one in sockets[:: max(1, count // 50)]:
                one.send(b"PING\r\n")
            for one in sockets[:: max(1, count // 50)]:
                assert await asyncio.get_running_loop().sock_recv(one, 100) == b"+PONG\r\n"
            refused = await RawClient.connect(lab.port)
            assert await refused.closed() == b"-ERR max number of clients reached\r\n"
            assert lab.router.clients.limits.refused == {"max_clients": 1}
            assert await lab.router.execute([b"PING"]) == b"+PONG\r\n"
        finally:
            for one in sockets:
                one.close()
        await until(lambda: not lab.router.clients, "all are gone")


async def test_patterns_have_a_length_that_can_be_matched(lab: RouterLab) -> None:
    longest, longer = "a" * LONGEST_PATTERN, "a" * (LONGEST_PATTERN + 1)
    client = await RawClient.connect(lab.port)
    for words in (["CONFIG", "GET"], ["COMMAND", "LIST", "FILTERBY", "PATTERN"], ["PSUBSCRIBE"]):
        assert await client.ask(*words, longer) == b"-ERR a pattern may have at most 65536 bytes\r\n"
    assert await client.ask("CONFIG", "GET", longest) == b"*0\r\n"
    assert await client.ask("COMMAND", "LIST", "FILTERBY", "PATTERN", longest) == b"*0\r\n"
    client.send("COMMAND", "LIST", "FILTERBY", "PATTERN", "[hx]get")
    await client.exactly(b"*1\r\n$4\r\nhget\r\n")
    client.close()


# --- big values ---------------------------------------------------------------------------------------------------


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


# --- log-ins ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def guarded(servers: dict[str, Server]) -> AsyncIterator[RouterLab]:
    """A router with users and few places."""
    options = replace(OPTIONS, clients=5, reserved_clients=2, login_timeout_s=30)
    async with RouterLab(servers, options=options).running() as lab:
        hashes = {name: hashed(name.encode(), b"salt" * 4) for name in ("boss", "reader")}
        lab.router.authenticator.apply(
            [User("boss", Role.ADMIN, hashes["boss"]), User("reader", Role.READ_ONLY, hashes["reader"])]
        )
        yield lab


async def test_a_connection_that_does_not_log_in_is_ended(guarded: RouterLab) -> None:
    idle, busy = await RawClient.connect(guarded.port), await RawClient.connect(guarded.port)
    assert await busy.ask("AUTH", "reader", "reader") == b"+OK\r\n"
    guarded.router.configure(replace(guarded.router.options, login_timeout_s=0.5))
    assert await idle.closed() == b"-ERR no login within 0.5 s\r\n"
    assert guarded.router.clients.limits.ended == {"login_timeout": 1}
    assert await busy.ask("PING") == b"+PONG\r\n"
    busy.close()


async def test_a_login_that_is_being_checked_is_not_cut_off(
    guarded: RouterLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, go_on = asyncio.Event(), asyncio.Event()
    login = guarded.router.authenticator.login

    async def slowly(name: str, password: bytes, source: str, *, first: bool = False) -> Identity:
        checked.set()
        await go_on.wait()
        return await login(name, password, source, first=first)

    monkeypatch.setattr(guarded.router.authenticator, "login", slowly)
    raw, endless = await RawClient.connect(guarded.port), await RawClient.connect(guarded.port)
    raw.send("AUTH", "reader", "reader")
    await checked.wait()
    (connection, other) = guarded.router.clients.values()
    for _ in range(3):
        connection.connected_ns -= 20 * 10**9  # of the 30 s that it has
        guarded.router.clients.limits.look()
    go_on.set()
    assert await raw.line() == b"+OK\r\n"
    assert await raw.ask("PING") == b"+PONG\r\n"
    other.connected_ns -= 31 * 10**9
    guarded.router.clients.limits.look()
    assert await endless.closed() == b"-ERR no login within 30 s\r\n"
    raw.close()


async def test_connections_without_a_login_keep_nobody_out(guarded: RouterLab) -> None:
    silent = [await RawClient.connect(guarded.port) for _ in range(7)]
    await until(lambda: len(guarded.router.clients) == 7, "all places are taken")
    late = [await RawClient.connect(guarded.port) for _ in range(3)]
    for raw in late:
        assert await raw.ask("AUTH", "reader", "reader") == b"+OK\r\n"
    assert guarded.router.clients.limits.ended == {"max_clients": 3}
    for raw in silent[:3]:
        with suppress(ConnectionResetError):
            assert await raw.closed() == b""
    for raw in silent + late:
        raw.close()


async def test_the_last_places_are_for_administrators(guarded: RouterLab) -> None:
    readers = [await RawClient.connect(guarded.port) for _ in range(5)]
    for raw in readers:
        assert await raw.ask("AUTH", "reader", "reader") == b"+OK\r\n"
    one_more = await RawClient.connect(guarded.port)
    one_more.send("AUTH", "reader", "reader")
    told = b"-ERR max number of clients reached: the places that are left are for administrators\r\n"
    assert await one_more.closed() == told
    bosses = [await RawClient.connect(guarded.port) for _ in range(2)]
    for raw in bosses:
        assert await raw.ask("AUTH", "boss", "boss") == b"+OK\r\n"
    refused = await RawClient.connect(guarded.port)
    assert await refused.closed() == b"-ERR max number of clients reached\r\n"
    for raw in readers + bosses:
        raw.close()


async def logged_in(lab: RouterLab, name: str) -> tuple[RawClient, bytes]:
    """A connection that has tried to log in, and what it was told."""
    raw = await RawClient.connect(lab.port)
    return raw, await raw.ask("AUTH", name, name)


async def test_one_users_connections_leave_places_for_others(guarded: RouterLab) -> None:
    guarded.router.configure(replace(guarded.router.options, clients=50, clients_of_user=3))
    readers = [await logged_in(guarded, "reader") for _ in range(3)]
    assert {told for _, told in readers} == {b"+OK\r\n"}
    one_more, told = await logged_in(guarded, "reader")
    assert told == (
        b"-ERR max number of clients reached: the user has the 3 that router.max_clients_per_user allows\r\n"
    )
    assert await one_more.closed() == b""
    bosses = [await logged_in(guarded, "boss") for _ in range(5)]
    assert {told for _, told in bosses} == {b"+OK\r\n"}
    (first, _), (second, _), (third, _) = readers
    assert await first.ask("AUTH", "reader", "reader") == b"+OK\r\n", "it has its place already"
    assert await first.ask("RESET") == b"+RESET\r\n"
    assert await second.ask("AUTH", "boss", "boss") == b"+OK\r\n"
    third.close()
    await until(lambda: len(guarded.router.clients) == 7, "the one that has ended is gone")
    again = [await logged_in(guarded, "reader") for _ in range(3)]
    assert {told for _, told in again} == {b"+OK\r\n"}
    for raw, _ in readers + bosses + again:
        raw.close()
    await until(lambda: not guarded.router.clients, "all are gone")
    assert not guarded.router.clients._of_user
    assert not guarded.router.clients._of_host


async def test_one_address_leaves_places_for_others(guarded: RouterLab) -> None:
    guarded.router.configure(replace(guarded.router.options, clients=50, clients_of_host=3, reserved_clients=1))
    readers = [await logged_in(guarded, "reader") for _ in range(3)]
    assert {told for _, told in readers} == {b"+OK\r\n"}
    late, told = await logged_in(guarded, "reader")
    assert told == b"-ERR max number of clients reached: the places that are left are for administrators\r\n"
    assert await late.closed() == b""
    boss, told = await logged_in(guarded, "boss")
    assert told == b"+OK\r\n"
    refused = await RawClient.connect(guarded.port)
    assert await refused.closed() == b"-ERR max number of clients reached\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.port, local_addr=("127.0.0.2", 0))
    elsewhere = RawClient(reader, writer)
    assert await elsewhere.ask("AUTH", "reader", "reader") == b"+OK\r\n"
    for raw in (boss, elsewhere, *(raw for raw, _ in readers)):
        raw.close()


async def test_a_right_first_login_passes_those_who_guess(guarded: RouterLab) -> None:
    guarded.router.configure(replace(guarded.router.options, clients=100))
    guesses = 0

    async def guess() -> None:
        nonlocal guesses
        raw = await RawClient.connect(guarded.port)
        try:
            while True:
                raw.send("AUTH", "reader", "wrong")
                answer = await raw.reader.readline()
                if not answer.startswith((b"-WRONGPASS", b"-UNAVAILABLE")):
                    break  # it has guessed for longer than a connection may take to log in
                guesses += 1
        finally:
            raw.close()

    guessers = [asyncio.create_task(guess()) for _ in range(24)]
    await until(lambda: guesses > 20, "they guess")
    for name in ("reader", "boss"):
        right = await RawClient.connect(guarded.port)
        assert await right.ask("AUTH", name, name) == b"+OK\r\n"
        right.close()
    for guesser in guessers:
        guesser.cancel()
    await asyncio.wait(guessers)
