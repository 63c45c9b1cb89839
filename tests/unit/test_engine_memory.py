"""The faults that a server in memory can be given."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.waiting import until

from helios.engines.memory import MemoryConnector, MemoryEngine, MemoryServer
from helios.errors import ChangesLost, EngineError, EngineUnreachable, PayloadRefused
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import UserRole

MEMBER = Member("shard-1.0", "shard-1", Address("memory", 1))
ADMIN = ("admin", "secret")
TRAVEL_S = 0.3  # more than a busy machine keeps a test from its next step


class Wall:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def server_and_connectors(
    version: int = 1, aof_fsync: str = "everysec"
) -> tuple[MemoryServer, MemoryConnector, MemoryConnector, Wall]:
    """A server, the connectors of two machines, and the clock."""
    wall = Wall()
    server = MemoryServer("shard-1.0", wall=wall, admin=ADMIN, version=version, aof_fsync=aof_fsync)
    servers = {MEMBER.address: server}
    return server, MemoryConnector(servers, origin="here"), MemoryConnector(servers, origin="there"), wall


async def send_slowly(server: MemoryServer, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Put a request on its way that arrives TRAVEL_S later than what is sent next."""
    server.delay_s = lambda: TRAVEL_S
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    server.delay_s = lambda: 0.0
    return task


async def test_a_late_request_of_a_user_forced_off_is_dropped() -> None:
    server, here, there, _ = server_and_connectors()
    admin = await here.open(MEMBER)
    await admin.allow("router", "pw", UserRole.ROUTER)
    router = await there.open(MEMBER, user="router", password="pw")
    late = await send_slowly(server, router.set(b"k", b"late"))
    await admin.force_off("router")
    with pytest.raises(EngineUnreachable):
        await late
    await asyncio.sleep(2 * TRAVEL_S)
    assert server.get(b"k") is None


async def test_a_late_request_of_a_closed_engine_runs_unless_another_is_opened() -> None:
    server, here, _, _ = server_and_connectors()
    for reopened in (False, True):
        server.flush()
        engine = await here.open(MEMBER)
        late = await send_slowly(server, engine.set(b"k", b"late"))
        await engine.close()
        with pytest.raises(EngineUnreachable):
            await late
        if reopened:
            await here.open(MEMBER)
        await asyncio.sleep(2 * TRAVEL_S)
        assert server.get(b"k") == (None if reopened else b"late")


async def test_a_cut_loses_answers_but_not_what_is_under_way() -> None:
    server, here, there, _ = server_and_connectors()
    cut_off, other = await here.open(MEMBER), await there.open(MEMBER)
    stream = await cut_off.changes()
    late = await send_slowly(server, cut_off.incr(b"n"))
    server.cut("here")
    with pytest.raises(EngineUnreachable):
        await late
    with pytest.raises(ChangesLost):
        await stream.barrier()
    assert await other.get(b"n") is None
    await asyncio.sleep(2 * TRAVEL_S)
    assert await other.get(b"n") == b"1"
    impatient = MemoryConnector({MEMBER.address: server}, origin="here", connect_timeout_s=TRAVEL_S)
    with pytest.raises(EngineUnreachable):
        await impatient.open(MEMBER)
    server.heal("here")
    assert await (await impatient.open(MEMBER)).incr(b"n") == 2


@pytest.mark.parametrize(("aof_fsync", "kept"), [("everysec", b"synced"), ("always", b"newest"), ("no", None)])
async def test_a_crash_may_lose_what_was_not_synced(aof_fsync: str, kept: bytes | None) -> None:
    server, here, _, _ = server_and_connectors(aof_fsync=aof_fsync)
    engine = await here.open(MEMBER)
    await engine.set(b"k", b"synced")
    assert await engine.persist(1.0) is (aof_fsync != "no")
    await engine.set(b"k", b"newer")
    await engine.set(b"k", b"newest")
    await engine.set(b"other", b"x")
    server.crash(lose_unsynced=True)
    server.restart()
    engine = await here.open(MEMBER)
    assert await engine.get(b"k") == kept
    assert await engine.exists([b"other"]) == [aof_fsync == "always"]


async def test_keys_end_by_the_given_clock() -> None:
    server, here, _, wall = server_and_connectors()
    engine = await here.open(MEMBER)
    ends_ms = int(wall.now_s * 1000) + 500
    await engine.set(b"k", b"1", ends_ms)
    assert await engine.incr(b"k") == 2
    (dumped,) = await engine.dump([b"k"])
    assert dumped is not None
    assert dumped.expire_at_ms == ends_ms
    stream = await engine.changes()
    wall.now_s += 0.499
    assert await stream.barrier() == set()
    wall.now_s += 0.001
    assert await stream.barrier() == {b"k"}
    assert await engine.dump([b"k"]) == [None]
    assert server.keys() == []


async def test_a_newer_payload_is_refused_by_an_older_server() -> None:
    _, newer, _, _ = server_and_connectors(version=2)
    _, older, _, _ = server_and_connectors(version=1)
    source, target = await newer.open(MEMBER), await older.open(MEMBER)
    await source.set(b"k", b"v")
    await target.set(b"k", b"w")
    (new,), (old,) = await source.dump([b"k"]), await target.dump([b"k"])
    assert new is not None
    assert old is not None
    with pytest.raises(PayloadRefused):
        await target.restore([(b"k", new)])
    assert await source.restore([(b"k", old)]) == [True]
    assert await source.get(b"k") == b"w"


async def test_counting_what_is_no_number_is_refused_as_servers_do() -> None:
    _, here, _, _ = server_and_connectors()
    engine = await here.open(MEMBER)
    await engine.set(b"k", b"word")
    with pytest.raises(EngineError, match="not a number"):
        await engine.incr(b"k")
    assert await engine.get(b"k") == b"word"


async def test_requests_of_one_connection_keep_their_order() -> None:
    server, here, _, _ = server_and_connectors()
    engine: MemoryEngine = await here.open(MEMBER)
    delays = iter([0.05, 0.0, 0.01, 0.0, 0.03, 0.02, 0.0, 0.01])
    server.delay_s = lambda: next(delays, 0.0)
    await asyncio.gather(*(engine.set(b"k", b"%d" % i) for i in range(4)))
    assert server.get(b"k") == b"3"


async def test_without_an_administrator_everybody_may_enter() -> None:
    server = MemoryServer("legacy.0", wall=Wall())
    engine = await MemoryConnector({MEMBER.address: server}).open(MEMBER)
    assert await engine.users() == ["default"]
    with pytest.raises(EngineUnreachable, match="nothing listens"):
        await MemoryConnector({}).open(MEMBER)


async def test_a_follower_comes_again_to_a_leader_that_has_ended_before_it_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("helios.engines.memory.replication.RECONNECT_S", 0.01)
    leader, follower = (MemoryServer(name, wall=Wall()) for name in ("shard-1.0", "shard-1@shard-2"))
    servers = {MEMBER.address: leader, Address("memory", 2): follower}
    leader.freeze()
    follower.replication.follow(MEMBER.address, servers)
    await asyncio.sleep(0)  # it has sent its request
    leader.crash()
    leader.restart()
    await until(lambda: follower.replication.in_sync, "the follower has come again")


@pytest.mark.parametrize("whole", [True, False])
async def test_a_follower_does_a_transaction_at_once_or_not_at_all(whole: bool) -> None:
    leader, follower = (MemoryServer(name, wall=Wall()) for name in ("shard-1.0", "shard-1@shard-2"))
    follower.replication.follow(MEMBER.address, {MEMBER.address: leader, Address("memory", 2): follower})
    await until(lambda: follower.replication.in_sync, "it follows")
    lags_s = iter((0.0, 0.0 if whole else TRAVEL_S))
    follower.replication.lag_s = lambda: next(lags_s)
    with leader.replication.together():
        leader.set(b"one", b"1")
        leader.set(b"other", b"1")
    await asyncio.sleep(TRAVEL_S / 10)  # so that what has no further to travel has come
    leader.crash()
    await asyncio.sleep(TRAVEL_S)
    assert follower.keys() == ([b"one", b"other"] if whole else [])
