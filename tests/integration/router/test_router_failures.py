"""A router when servers, the store or clients fail it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from tests.routers import RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.errors import StartError
from helios.ports.records import SESSIONS
from helios.ports.store import Delete
from helios.resp.wire import encode_command
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")
CONFIG = {"appendonly": "yes"}
OPTIONS = RouterOptions(node="shard-1", connect_timeout_s=1, member_timeout_s=1, max_backoff_s=0.1)


async def test_a_killed_server_gives_errors_at_once_and_is_back_when_it_is(lab: RouterLab) -> None:
    async with lab.client() as client:
        there, elsewhere = lab.key_of("shard-2"), lab.key_of("shard-1")
        await client.mset({there: "1", elsewhere: "1"})
        server = lab.servers["shard-2"]
        server.kill()
        try:
            with pytest.raises(redis.ResponseError):
                await client.get(there)
            await until(lambda: lab.router.pool.links[2]["shard-2"].state.value == "down", "the link is down")
            message = f"CLUSTERDOWN shard-2 does not answer at 127.0.0.1:{server.port} .*; nothing was executed"
            reply = (await lab.router.execute([b"GET", there.encode()])).decode()
            assert reply.startswith(f"-CLUSTERDOWN shard-2 does not answer at 127.0.0.1:{server.port} (")
            assert reply.endswith("; nothing was executed\r\n"), message
            assert await client.get(elsewhere) == b"1"
            for command in (("MGET", there, elsewhere), ("DBSIZE",), ("KEYS", "*")):
                with pytest.raises(redis.ResponseError, match="shard-2 does not answer"):
                    await client.execute_command(*command)
            with pytest.raises(
                redis.ResponseError, match=r"shard-2 does not.*; it was carried out on shard-1; it was not"
            ):
                await client.mset({there: "2", elsewhere: "2"})
        finally:
            server.start()

        async def back() -> bool:
            return await lab.router.execute([b"GET", there.encode()]) == b"$1\r\n1\r\n"

        await until(back, "the server is used again, with a user made anew")
        assert await client.get(elsewhere) == b"2"


@pytest.mark.parametrize("command", ["MSET", "DEL", "FLUSHALL", "SCRIPT LOAD", "MGET"])
async def test_what_shards_answer_differently_is_told_shard_by_shard(lab: RouterLab, command: str) -> None:
    keys = [lab.key_of(shard, "parts") for shard in SHARDS]
    words = {"MSET": [word for key in keys for word in (key, "v")], "FLUSHALL": [], "SCRIPT LOAD": ["return 1"]}
    argv = [*command.encode().split(), *(word.encode() for word in words.get(command, keys))]
    assert (await lab.router.execute([b"MGET", *(key.encode() for key in keys)]))[:1] == b"*"
    assert (await lab.router.execute(argv))[:1] != b"-"  # so that its connections are there
    down, stalled = lab.servers["shard-1"], lab.servers["shard-2"]
    down.kill()
    try:
        links = lab.router.pool.of("shard-1")
        await until(lambda: all(link.state.value == "down" for link in links), "the connections are down")
        stalled.stop()
        try:
            reply = (await lab.router.execute(argv)).decode()
        finally:
            stalled.cont()
    finally:
        down.start()
    if command == "SCRIPT LOAD":
        assert reply.startswith("$40")  # it is kept, and given to the others before its first call there
        return
    assert reply.startswith(f"-UNKNOWN the connection to shard-2 at 127.0.0.1:{stalled.port} was lost")
    assert "nothing was executed" not in reply
    said = "; it was carried out on shard-3; it may have been on shard-2; it was not on shard-1\r\n"
    assert reply.endswith(said), reply


async def test_commands_in_flight_when_a_server_dies_have_an_unknown_outcome(lab: RouterLab) -> None:
    key = lab.key_of("shard-3")
    raw = await RawClient.connect(lab.port)
    raw.send("SET", key, "0")
    assert await raw.line() == b"+OK\r\n"
    server = lab.servers["shard-3"]
    server.stop()
    link = lab.router.pool.links[2]["shard-3"]
    before = link.issued
    for i in range(10):
        raw.send("SET", key, str(i))
    raw.send("PING")
    await until(lambda: link.issued == before + 10, "the commands are under way")
    await asyncio.sleep(0)
    server.kill()
    try:
        for _ in range(10):
            assert (await raw.line()).startswith(b"-UNKNOWN the connection to shard-3 at 127.0.0.1")
        assert await raw.line() == b"+PONG\r\n"
    finally:
        server.start()
        raw.close()


async def test_a_server_that_stalls_costs_bounded_memory(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, member_timeout_s=30.0, member_commands=100, member_bytes=1_000_000)
    async with RouterLab(servers, options=options).running() as lab:
        key, big_key = lab.key_of("shard-1", "small"), lab.key_of("shard-1", "big")
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("SET", key, "v") == b"+OK\r\n"
        servers["shard-1"].stop()
        try:
            link = lab.router.pool.links[2]["shard-1"]
            before = link.issued
            for _ in range(3):
                client = await RawClient.connect(lab.port)
                client.writer.write(encode_command([b"SET", big_key.encode(), b"v" * 300_000]) * 3)
            await until(lambda: link.issued == before + 3, "three big commands are under way")
            for _ in range(200):
                raw.send("GET", key)
            await until(lambda: link.issued == before + 100, "as many commands as may be are under way")
            overloaded = await lab.router.execute([b"GET", key.encode()])
            assert overloaded.startswith(b"-OVERLOADED shard-1 at 127.0.0.1")
            assert overloaded.endswith(b"unanswered; nothing was executed\r\n")
            assert link.issued == before + 100
        finally:
            servers["shard-1"].cont()
        for _ in range(97):
            assert (await raw.line()).startswith(b"$")
            await raw.line()
        assert (await raw.line()).startswith(b"-OVERLOADED")
        raw.close()


async def test_a_stalled_server_is_given_up_and_taken_up_again(lab: RouterLab) -> None:
    key = lab.key_of("shard-1").encode()
    assert await lab.router.execute([b"SET", key, b"v"]) == b"+OK\r\n"
    lab.servers["shard-1"].stop()
    try:
        assert (await lab.router.execute([b"GET", key])).startswith(b"-UNKNOWN")
        await until(lambda: lab.router.pool.links[2]["shard-1"].state.value == "down", "the link is down")
        assert (await lab.router.execute([b"GET", key])).startswith(b"-CLUSTERDOWN")
    finally:
        lab.servers["shard-1"].cont()

    async def back() -> bool:
        return await lab.router.execute([b"GET", key]) == b"$1\r\nv\r\n"

    await until(back, "the server is used again")


async def test_a_router_whose_lease_has_ended_serves_nothing(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, session_ttl_s=1.0)
    async with RouterLab(servers, options=options).running() as lab, lab.client() as client:
        key = lab.key_of("shard-1")
        await client.set(key, "v")
        (session,) = await lab.sessions()
        lab.routers_store.away = True
        assert await client.get(key) == b"v"  # The store is away, but the lease lasts.
        await until(lambda: not lab.router.alive(), "the lease ends")
        with pytest.raises(redis.ResponseError, match=r"(lease|session is over).*; nothing was executed"):
            await client.get(key)
        with pytest.raises(redis.ResponseError, match="this router has no lease"):
            await client.mset({f"k{i}": "v" for i in range(9)})
        assert await client.ping()
        await until(lambda: not lab.router.pool.links[2], "the connections to the servers are closed")
        lab.routers_store.away = False
        await until(lab.router.alive, "there is a new session")
        assert await client.get(key) == b"v"
        assert lab.router.session_id not in ("", session.id)


async def test_a_revoked_session_is_replaced_by_another(lab: RouterLab) -> None:
    async with lab.client() as client:
        key = lab.key_of("shard-1")
        await client.set(key, "v")
        (session,) = await lab.sessions()
        await lab.store.commit([Delete(SESSIONS + session.id)])
        async with lab.direct("shard-1") as direct:
            await direct.acl_deluser(f"helios-s-{session.id}")

        async def replaced() -> bool:
            return [other.id for other in await lab.sessions()] not in ([], [session.id])

        await until(replaced, "there is another session")
        await lab.acknowledged(lab.topology.epoch)
        assert await client.get(key) == b"v"
        async with lab.direct("shard-1") as direct:
            (other,) = await lab.sessions()
            assert f"helios-s-{other.id}" in await direct.acl_users()


async def test_a_user_that_a_server_forgot_is_made_again(lab: RouterLab) -> None:
    key = lab.key_of("shard-2").encode()
    assert await lab.router.execute([b"SET", key, b"v"]) == b"+OK\r\n"
    (session,) = await lab.sessions()
    async with lab.direct("shard-2") as direct:
        await direct.acl_deluser(f"helios-s-{session.id}")

    replies: list[bytes] = []

    async def again() -> bool:
        replies.append(await lab.router.execute([b"GET", key]))
        return replies[-1] == b"$1\r\nv\r\n"

    await until(again, "the session has its user again")
    assert not [reply for reply in replies if b"WRONGPASS" in reply], "clients need not hear of it"
    assert [other.id for other in await lab.sessions()] == [session.id]


async def test_no_more_commands_of_a_client_than_its_limit_are_under_way(servers: dict[str, Server]) -> None:
    options = replace(OPTIONS, client_commands=50, member_timeout_s=30.0)
    async with RouterLab(servers, options=options).running() as lab:
        key = lab.key_of("shard-1")
        assert await lab.router.execute([b"SET", key.encode(), b"v" * 10_000]) == b"+OK\r\n"
        raw = await RawClient.connect(lab.port)
        raw.reader._transport.pause_reading()  # type: ignore[attr-defined]
        count = 5000
        raw.writer.write(encode_command([b"GET", key.encode()]) * count)
        await until(lambda: len(lab.router.clients) == 1, "the client is there")
        (connection,) = lab.router.clients.values()
        most = 0

        def all_answered() -> bool:
            nonlocal most
            most = max(most, len(connection.replies))
            return lab.router.totals.commands >= count and not connection.replies

        await until(all_answered, "all commands are carried out although no reply is read")
        assert most <= 50
        raw.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            await raw.exactly(b"$10000\r\n" + b"v" * 10_000 + b"\r\n")
        raw.close()


async def test_a_client_that_is_owed_too_much_is_let_go(servers: dict[str, Server]) -> None:
    # It is owed too much before the frozen server is given up.
    options = replace(OPTIONS, client_bytes=1_000_000, connect_timeout_s=30, member_timeout_s=30)
    async with RouterLab(servers, options=options).running() as lab:
        key = lab.key_of("shard-1")
        assert await lab.router.execute([b"SET", key.encode(), b"v" * 300_000]) == b"+OK\r\n"
        lab.servers["shard-2"].stop()
        try:
            raw = await RawClient.connect(lab.port)
            raw.send("GET", lab.key_of("shard-2"))
            for _ in range(10):
                raw.send("GET", key)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await raw.exactly(b"x" * 100)
        finally:
            lab.servers["shard-2"].cont()
        assert lab.router.clients.limits.ended["client_memory"] == 1


async def test_clients_that_vanish_mid_command_leave_nothing(lab: RouterLab) -> None:
    for _ in range(20):
        raw = await RawClient.connect(lab.port)
        raw.send("GET", lab.key_of("shard-1"))
        raw.send("MGET", *(f"k{i}" for i in range(30)))
        raw.writer.write(b"*3\r\n$3\r\nSET\r\n$1000000\r\nhalf")
        raw.writer.transport.abort()
    await until(lambda: not lab.router.clients, "all connections are gone")
    for link in lab.router.pool.links[2].values():
        await until(lambda link=link: link.issued == link.answered, "all commands are answered")  # type: ignore[misc]


async def test_a_router_without_a_store_does_not_start(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers, options=replace(OPTIONS, start_timeout_s=0.3))
    lab.routers_store.away = True
    with pytest.raises(StartError, match=r"the router got no session within 0\.3 s: the store is away"):
        await lab.router.start()


async def test_stopping_answers_and_closes(servers: dict[str, Server], tmp_path: Path) -> None:
    lab = RouterLab(servers, options=OPTIONS)
    async with lab.running():
        raw = await RawClient.connect(lab.port)
        assert await raw.ask("PING") == b"+PONG\r\n"
        raw.send("GET", lab.key_of("shard-1", "fresh"))
        await until(lambda: lab.router.totals.commands >= 2, "the command has arrived")
    assert await raw.closed() == b"$-1\r\n"
    assert await lab.sessions() == []
