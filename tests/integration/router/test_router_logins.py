"""Clients that log in to a router, or do not: nobody keeps anybody else out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.routers import RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.access.authenticator import Identity
from helios.model.passwords import hashed
from helios.model.users import Role, User
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", worker=3, member_timeout_s=30)


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
