"""Clients that let replicas answer what they read: who answers, how old it may be, and what stays the leader's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.replicated import Replicated, replicated
from tests.routers import RawClient
from tests.waiting import until

from helios.model.passwords import hashed
from helios.model.users import ReadFrom, Role, User
from helios.router.upstream.replicas import ReplicaConnection

PATIENT_S = 60.0  # what replicas may be behind, where a slow machine must not make the leader answer


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Replicated]:
    """A shard of three members."""
    async with replicated(tmp_path, max_staleness_s=PATIENT_S) as made:
        yield made


@asynccontextmanager
async def client_of(made: Replicated) -> AsyncIterator[RawClient]:
    client = await RawClient.connect(made.lab.port)
    yield client
    client.close()


@pytest.fixture
async def raw(three: Replicated) -> AsyncIterator[RawClient]:
    async with client_of(three) as client:
        yield client


async def calls(made: Replicated, number: int, command: str = "get") -> int:
    """How often a server has been given a command."""
    async with made.direct(number) as direct:
        stats = await direct.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.fixture
async def cut_off(tmp_path: Path) -> AsyncIterator[Replicated]:
    """A shard of two, whose replica is known to be fresh, gets nothing any more, and answers all the same."""
    async with replicated(tmp_path, followers=1, max_staleness_s=PATIENT_S, quorum=False) as two:
        key = two.lab.key_of("shard-1")
        async with client_of(two) as raw, two.direct(1) as follower:
            assert await raw.ask("SET", key, "old") == b"+OK\r\n"
            assert await raw.ask("READONLY") == b"+OK\r\n"
            await read_from_replica(two, raw, key)
            await follower.config_set("replica-serve-stale-data", "yes")
            await follower.replicaof("127.0.0.1", 1)  # where nobody listens
            yield two


def served(made: Replicated) -> int:
    return made.lab.router.pool.replicas.counts.served


def by_leader(made: Replicated) -> int:
    return made.lab.router.pool.replicas.counts.by_leader


async def bulk(raw: RawClient, *words: str) -> bytes:
    """The value that a command answers."""
    raw.send(*words)
    size = await raw.line()
    assert size.startswith(b"$"), size
    return (await raw.line())[:-2] if size != b"$-1\r\n" else b""


async def info(raw: RawClient) -> bytes:
    """What CLIENT INFO says."""
    raw.send("CLIENT", "INFO")
    await raw.line()
    said = await raw.line()
    assert await raw.line() == b"\r\n"
    return said


async def read_from_replica(made: Replicated, raw: RawClient, key: str) -> bytes:
    """What a replica answers, once one is known to be fresh."""
    while True:
        before = served(made)
        said = await bulk(raw, "GET", key)
        if served(made) > before:
            return said
        await asyncio.sleep(0.01)


async def test_replicas_answer_who_lets_them_and_take_turns(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    assert await bulk(raw, "GET", key) == b"one"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    assert await read_from_replica(three, raw, key) == b"one"
    async with client_of(three) as other:
        assert await other.ask("READONLY") == b"+OK\r\n"
        assert await read_from_replica(three, other, key) == b"one"
        # Each is known to be fresh, and so has its turn.
        gets = [await calls(three, number) for number in range(3)]
        while not all([await calls(three, number) > gets[number] for number in (1, 2)]):
            for client in (raw, other):
                await read_from_replica(three, client, key)
        gets = [await calls(three, number) for number in range(3)]
        for client in (raw, other):
            for _ in range(5):
                assert await bulk(client, "GET", key) == b"one"
        assert [await calls(three, number) for number in range(3)] == [gets[0], gets[1] + 5, gets[2] + 5]


async def test_it_lasts_until_readwrite_or_reset(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    for end in ("READWRITE", "RESET"):
        assert await raw.ask("READONLY") == b"+OK\r\n"
        assert b" flags=r " in await info(raw)
        await read_from_replica(three, raw, key)
        assert (await raw.ask(end)).startswith(b"+")
        assert b" flags=N " in await info(raw)
        before = await calls(three, 0)
        await bulk(raw, "GET", key)
        assert await calls(three, 0) == before + 1


async def test_a_client_sees_what_it_has_written(cut_off: Replicated) -> None:
    key = cut_off.lab.key_of("shard-1")
    async with client_of(cut_off) as raw:
        assert await raw.ask("READONLY") == b"+OK\r\n"
        for number in range(20):
            raw.send("SET", key, str(number))
            raw.send("GET", key)
            await raw.exactly(b"+OK\r\n$%d\r\n%d\r\n" % (len(str(number)), number))
            assert await bulk(raw, "GET", key) == str(number).encode()


async def test_what_a_lost_connection_has_proved_is_not_believed_of_the_next(cut_off: Replicated) -> None:
    key = cut_off.lab.key_of("shard-1")
    async with client_of(cut_off) as raw, cut_off.direct(1) as follower:
        assert await raw.ask("READONLY") == b"+OK\r\n"
        assert await read_from_replica(cut_off, raw, key) == b"old"
        (link,) = cut_off.lab.router.pool.replicas.of("shard-1")
        killed = link.client_id
        assert await follower.client_kill_filter(_id=killed) == 1
        await until(lambda: link.ready and link.client_id != killed, "the router is connected again")
        before = await calls(cut_off, 1)
        for _ in range(20):
            assert await bulk(raw, "GET", key) == b"old"
        assert await calls(cut_off, 1) == before


async def test_a_write_does_not_overtake_a_read_that_a_replica_has(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "before") == b"+OK\r\n"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    assert await read_from_replica(three, raw, key) == b"before"
    for server in three.servers[1:]:
        server.stop()
    three.configure(quorum=False)
    raw.send("GET", key)
    raw.send("SET", key, "after")
    await raw.exactly(b"$6\r\nbefore\r\n+OK\r\n")  # it was asked again, of the leader
    for server in three.servers[1:]:
        server.cont()


async def test_only_single_reads_go_to_replicas(three: Replicated, raw: RawClient) -> None:
    key, second = (three.lab.key_of("shard-1", number=number) for number in range(2))
    assert await raw.ask("MSET", key, "1", second, "2") == b"+OK\r\n"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    await read_from_replica(three, raw, key)
    before = served(three)
    raw.send("MGET", key, second)
    await raw.exactly(b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n")
    assert served(three) == before + 1
    for words, said in (
        (["EVAL_RO", "return redis.call('GET', KEYS[1])", "1", key], b"$1\r\n1\r\n"),
        (["TOUCH", key], b":1\r\n"),
        (["MULTI"], b"+OK\r\n"),
        (["GET", key], b"+QUEUED\r\n"),
        (["EXEC"], b"*1\r\n$1\r\n1\r\n"),
    ):
        raw.send(*words)
        await raw.exactly(said)
    assert served(three) == before + 1


async def test_errors_are_the_leaders_to_tell(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "word") == b"+OK\r\n"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    await read_from_replica(three, raw, key)
    before = by_leader(three)
    assert (await raw.ask("LLEN", key)).startswith(b"-WRONGTYPE")
    assert by_leader(three) == before + 1


async def test_a_learner_and_a_stranger_are_not_asked(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    await three.publish((0, 1), learners=(2,))
    async with client_of(three) as other:
        for client in (raw, other):
            assert await client.ask("READONLY") == b"+OK\r\n"
            await read_from_replica(three, client, key)
            await bulk(client, "GET", key)
    assert await calls(three, 2) == 0


async def test_one_that_stands_still_is_not_asked_and_nobody_gets_an_error(tmp_path: Path) -> None:
    # That the server is silent is noticed long before the router gives its connection up.
    options = {"max_staleness_s": 0.4, "quorum": False, "member_timeout_s": PATIENT_S}
    async with replicated(tmp_path, followers=1, **options) as two, client_of(two) as raw:
        key = two.lab.key_of("shard-1")
        assert await raw.ask("READONLY") == b"+OK\r\n"
        async with client_of(two) as writer:
            assert await writer.ask("SET", key, "old") == b"+OK\r\n"
            assert await read_from_replica(two, raw, key) == b"old"
            two.servers[1].stop()
            # Until the router has noticed, reads are asked again; none is older than the bound.
            assert await bulk(raw, "GET", key) == b"old"
            assert await writer.ask("SET", key, "new") == b"+OK\r\n"
            await asyncio.sleep(0.4)
            before = served(two)
            for _ in range(100):
                assert await bulk(raw, "GET", key) == b"new"
            assert served(two) == before
            two.servers[1].cont()
            assert await read_from_replica(two, raw, key) == b"new"


async def test_one_that_is_cut_off_from_its_leader_answers_nothing_that_is_too_old(tmp_path: Path) -> None:
    async with replicated(tmp_path, followers=1, max_staleness_s=0.4, quorum=False) as two, client_of(two) as raw:
        key = two.lab.key_of("shard-1")
        assert await raw.ask("READONLY") == b"+OK\r\n"
        async with client_of(two) as writer, two.direct(1) as follower:
            assert await writer.ask("SET", key, "old") == b"+OK\r\n"
            assert await read_from_replica(two, raw, key) == b"old"
            await follower.config_set("replica-serve-stale-data", "yes")
            await follower.replicaof("127.0.0.1", 1)  # where nobody listens
            assert await writer.ask("SET", key, "new") == b"+OK\r\n"
            await asyncio.sleep(0.4)
            for _ in range(20):
                assert await bulk(raw, "GET", key) == b"new"


async def test_after_a_failover_those_who_follow_the_new_leader_answer(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "old") == b"+OK\r\n"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    await read_from_replica(three, raw, key)
    three.servers[2].stop()
    raw.send("GET", key)  # which may wait for the one that stands still
    async with three.direct(1) as promoted:
        await promoted.replicaof("NO", "ONE")
        assert await promoted.set(key, "new")
    await three.publish((0, 1, 2), leader=1)
    await raw.exactly(b"$3\r\n")
    assert await raw.line() in (b"old\r\n", b"new\r\n")
    assert await bulk(raw, "GET", key) == b"new"
    three.servers[2].cont()
    await three.follow(2, 1)
    before = await calls(three, 0)
    assert await read_from_replica(three, raw, key) == b"new"
    assert await calls(three, 0) == before
    assert await calls(three, 2) > 0


async def test_a_new_topology_has_everything_be_proved_anew(cut_off: Replicated) -> None:
    key = cut_off.lab.key_of("shard-1")
    async with client_of(cut_off) as raw:
        assert await raw.ask("READONLY") == b"+OK\r\n"
        assert await read_from_replica(cut_off, raw, key) == b"old"
        before = await calls(cut_off, 1)
        await cut_off.publish((0, 1), generation=1)  # the shard has got keys that its replica does not have
        for _ in range(20):
            assert await bulk(raw, "GET", key) == b"old"
        assert await calls(cut_off, 1) == before


async def test_a_fence_holds_what_a_replica_has_not_answered(
    three: Replicated, raw: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = three.lab.key_of("shard-1")
    # Else the leader is asked instead if the fence comes late.
    monkeypatch.setattr(ReplicaConnection, "watch", lambda connection: None)
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    await read_from_replica(three, raw, key)
    three.servers[1].stop()
    three.servers[2].stop()
    raw.send("GET", key)
    await three.publish((0, 1, 2), fenced_shards=frozenset({"shard-1"}))
    before = await calls(three, 0)
    three.servers[1].cont()
    three.servers[2].cont()
    await until(lambda: len(three.lab.router.holding) == 1, "the read is held")
    assert await calls(three, 0) == before
    await three.publish((0, 1, 2), fenced_shards=frozenset())
    await raw.exactly(b"$3\r\none\r\n")


async def test_a_user_may_have_replicas_answer(three: Replicated) -> None:
    key = three.lab.key_of("shard-1")
    stored = hashed(b"secret", b"salt-of-16-bytes")
    user = User("reports", Role.READ_ONLY, stored, read_from=ReadFrom.REPLICA)
    three.lab.router.authenticator.apply([user])
    async with client_of(three) as raw:
        assert (await raw.ask("AUTH", "reports", "secret")) == b"+OK\r\n"
        await read_from_replica(three, raw, key)
        assert (await raw.ask("SET", key, "x")).startswith(b"-NOPERM")
        assert await raw.ask("READWRITE") == b"+OK\r\n"
        before = await calls(three, 0)
        await bulk(raw, "GET", key)
        assert await calls(three, 0) == before + 1


async def test_a_shard_without_replicas_has_its_leader_answer(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-2")
    assert await raw.ask("READONLY") == b"+OK\r\n"
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    assert await bulk(raw, "GET", key) == b"one"
    assert served(three) == 0


async def test_a_router_that_stops_waits_for_what_replicas_have_not_answered(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    assert await raw.ask("READONLY") == b"+OK\r\n"
    await read_from_replica(three, raw, key)
    for server in three.servers[1:]:
        server.stop()
    raw.send("GET", key)
    await until(lambda: bool(three.lab.router.pool.replicas.untold()), "a replica is asked")
    stopping = asyncio.create_task(three.lab.router.stop())
    await until(lambda: three.lab.router.clients.stopping, "the router has begun to stop")
    for server in three.servers[1:]:
        server.cont()
    await raw.exactly(b"$3\r\none\r\n")
    await stopping
