"""Users and their rights: what every engine grants, and the judgement of live servers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.engine_lab import Commands, Lab, run, scan_all
from tests.servers import ADMIN_PASSWORD, start_valkey
from tests.waiting import until

from helios.engines.valkey import ValkeyConnector
from helios.engines.valkey.rights import setuser
from helios.errors import EngineDenied, EngineError, EngineUnreachable
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import Engine, UserRole


async def test_users_come_and_go(lab: Lab) -> None:
    admin = await lab.open()
    before = set(await admin.users())
    await admin.allow("helios-s-1", "secret", UserRole.ROUTER)
    assert set(await admin.users()) == before | {"helios-s-1"}
    await admin.force_off("helios-s-1")
    await admin.force_off("helios-s-1")
    await admin.force_off("never-seen")
    assert set(await admin.users()) == before


async def test_a_router_serves_clients_and_rules_nobody(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("router", "secret", UserRole.ROUTER)
    router = await lab.open("router", "secret")
    await lab.set(router, b"a", b"1")
    assert await lab.get(router, b"a") == b"1"
    assert await lab.incr(router, b"n") == 1
    assert await router.count() == 2
    (await router.info())
    with pytest.raises(EngineDenied, match="router"):
        await router.users()
    with pytest.raises(EngineDenied, match="router"):
        await router.allow("mine", "x", UserRole.MOVER)
    with pytest.raises(EngineDenied, match="router"):
        await router.force_off("anybody")
    with pytest.raises(EngineDenied, match="router"):
        await router.flush()
    assert await admin.count() == 2


async def test_a_mover_may_do_all_that_the_port_names(lab: Lab) -> None:
    await (await lab.open()).allow("mover", "secret", UserRole.MOVER)
    mover = await lab.open("mover", "secret")
    await lab.set(mover, b"a", b"1")
    stream = await mover.changes()
    (dumped,) = await mover.dump([b"a"])
    assert dumped is not None
    assert await mover.stream_states([b"a", b"none"]) == [None, None]
    assert await mover.stream_marks([b"a", b"none"]) == [None, None]
    assert await mover.stream_writes() == await mover.stream_writes() != b""
    await mover.restore([(b"b", dumped)])
    assert await stream.barrier() == {b"b"}
    await stream.close()
    assert sorted(await scan_all(mover)) == [b"a", b"b"]
    assert await mover.delete([b"a"]) == 1
    await lab.set_fsync("always")
    assert await mover.persist(10.0)
    await mover.allow("router", "other", UserRole.ROUTER)
    assert "router" in await mover.users()
    await mover.force_off("router")
    assert "router" not in await mover.users()
    assert (await mover.info()).keys == await mover.count() == 1
    await mover.flush()


async def test_nobody_forces_himself_off(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("mover", "secret", UserRole.MOVER)
    mover = await lab.open("mover", "secret")
    with pytest.raises(EngineError, match="itself"):
        await mover.force_off("mover")
    assert await mover.count() == 0


async def test_forcing_off_ends_connections_and_logins(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("router", "secret", UserRole.ROUTER)
    engines = [await lab.open("router", "secret") for _ in range(3)]
    await admin.force_off("router")
    for engine in engines:
        with pytest.raises(EngineUnreachable):
            await lab.incr(engine, b"n")
    with pytest.raises(EngineDenied, match=r"shard-1\.0 at .*router"):
        await lab.open("router", "secret")
    assert await admin.exists([b"n"]) == [False]
    await admin.allow("router", "another", UserRole.ROUTER)
    with pytest.raises(EngineDenied):
        await lab.open("router", "secret")
    with pytest.raises(EngineUnreachable):
        await lab.incr(engines[0], b"n")
    assert await lab.incr(await lab.open("router", "another"), b"n") == 1


async def _count_until_off(lab: Lab, engine: Engine) -> int:
    """Send counts ahead of their answers until the connection ends; the number that was answered."""
    answered = 0
    try:
        while True:
            done = await asyncio.gather(*(lab.incr(engine, b"n") for _ in range(50)))
            answered += len(done)
    except EngineUnreachable:
        return answered


@pytest.mark.parametrize("frozen", [False, True])
async def test_nothing_buffered_runs_after_forcing_off(lab: Lab, frozen: bool) -> None:
    admin = await lab.open()
    for turn in range(5):
        await admin.delete([b"n"])
        await admin.allow("router", "secret", UserRole.ROUTER)
        engines = [await lab.open("router", "secret") for _ in range(4)]
        counting = [asyncio.create_task(_count_until_off(lab, engine)) for engine in engines]

        async def counted() -> bool:
            return await admin.exists([b"n"]) == [True]

        await until(counted)
        if frozen:
            lab.freeze()
            off = asyncio.create_task(admin.force_off("router"))
            await asyncio.sleep(0)  # let everybody send
            lab.thaw()
            await off
        else:
            await admin.force_off("router")
        after = int(await lab.get(admin, b"n") or 0)
        answered = sum(await asyncio.gather(*counting))
        assert answered <= after, turn
        for _ in range(20):
            assert int(await lab.get(admin, b"n") or 0) == after


async def test_a_wrong_password_is_denied(lab: Lab) -> None:
    await (await lab.open()).allow("router", "secret", UserRole.ROUTER)
    for user, password in (("router", "wrong"), ("router", ""), ("nobody", "secret"), ("default", "")):
        with pytest.raises(EngineDenied, match=r"shard-1\.0 at"):
            await lab.open(user, password)


async def test_users_made_at_run_time_end_with_the_server(lab: Lab) -> None:
    await (await lab.open()).allow("router", "secret", UserRole.ROUTER)
    lab.crash()
    lab.restart()
    with pytest.raises(EngineDenied):
        await lab.open("router", "secret")


# What clients may do through Helios, and what would break a shard or let a router out of its session.
ALLOWED: Commands = [
    *(("GET", "k"), ("SET", "k", "v"), ("DEL", "k"), ("KEYS", "*"), ("SCAN", "0"), ("DBSIZE",), ("RANDOMKEY",)),
    *(("INFO",), ("CONFIG", "GET", "maxmemory"), ("SORT", "k"), ("SORT_RO", "k")),
    *(("ROLE",), ("WAIT", "0", "1")),
    *(("SCRIPT", "LOAD", "return 1"), ("SCRIPT", "FLUSH"), ("EVAL", "return 1", "0"), ("FUNCTION", "LIST")),
    *(("FUNCTION", "FLUSH"), ("FUNCTION", "LOAD", "x"), ("FCALL", "f", "0"), ("MULTI",), ("WATCH", "k")),
    *(("SUBSCRIBE", "c"), ("PSUBSCRIBE", "c*"), ("SSUBSCRIBE", "c"), ("PUBLISH", "c", "m"), ("PUBSUB", "CHANNELS")),
    *(("CLIENT", "ID"), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", "1"), ("CLIENT", "UNBLOCK", "1")),
    *(("CLIENT", "SETNAME", "n"), ("CLIENT", "TRACKING", "on"), ("CLIENT", "INFO"), ("CLIENT", "REPLY", "ON")),
    *(("HELLO", "3"), ("AUTH", "u", "p"), ("PING",), ("ECHO", "x"), ("COMMAND",), ("MEMORY", "USAGE", "k")),
    *(("OBJECT", "ENCODING", "k"), ("BLPOP", "k", "0"), ("XREAD", "STREAMS", "k", "0"), ("DUMP", "k")),
    *(("RESTORE", "k", "0", "x"), ("COPY", "a", "b"), ("RENAME", "a", "b"), ("TIME",), ("LOLWUT",), ("RESET",)),
    *(("GEOADD", "g", "1", "1", "m"), ("PFADD", "h", "e"), ("SETBIT", "b", "1", "1"), ("EXPIRE", "k", "1")),
]
FLUSH: Commands = [("FLUSHDB",), ("FLUSHDB", "ASYNC")]
FORBIDDEN: Commands = [
    ("FLUSHALL",),
    *(("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "REWRITE"), ("CONFIG", "RESETSTAT"), ("SHUTDOWN",)),
    *(("REPLICAOF", "NO", "ONE"), ("SLAVEOF", "NO", "ONE"), ("FAILOVER",), ("DEBUG", "SLEEP", "0"), ("SAVE",)),
    *(("BGSAVE",), ("BGREWRITEAOF",), ("MIGRATE", "h", "1", "k", "0", "1"), ("MONITOR",), ("SYNC",)),
    *(("PSYNC", "?", "-1"), ("REPLCONF", "ACK", "1"), ("MODULE", "LIST"), ("MODULE", "LOAD", "/x")),
    *(("SWAPDB", "0", "1"), ("SELECT", "1"), ("MOVE", "k", "1"), ("CLIENT", "PAUSE", "1"), ("LASTSAVE",)),
    *(("CLIENT", "NO-EVICT", "on"), ("CLUSTER", "RESET"), ("CLUSTER", "MEET", "h", "1"), ("PFSELFTEST",)),
    *(("RESTORE-ASKING", "k", "0", "x"), ("PFDEBUG", "ENCODING", "k")),
    *(("SLOWLOG", "GET"), ("SLOWLOG", "RESET"), ("LATENCY", "LATEST"), ("MEMORY", "DOCTOR"), ("MEMORY", "PURGE")),
    *(("MEMORY", "STATS"), ("MEMORY", "MALLOC-STATS"), ("CLUSTER", "INFO"), ("CLUSTER", "NODES")),
]
ACL: Commands = [("ACL", "SETUSER", "x"), ("ACL", "DELUSER", "x"), ("ACL", "USERS"), ("ACL", "LIST"), ("ACL", "SAVE")]


@pytest.mark.processes
async def test_rights_by_the_judgement_of_the_live_server(real_lab: Lab) -> None:
    admin = await real_lab.open()
    await admin.allow("router", "secret", UserRole.ROUTER)
    await admin.allow("mover", "secret", UserRole.MOVER)
    await admin.allow("flusher", "secret", UserRole.FLUSHER)
    await admin.allow("replicator", "secret", UserRole.REPLICATOR)
    await admin.allow("follower", "secret", UserRole.FOLLOWER)
    following: Commands = [("REPLCONF", "ACK", "1"), ("PSYNC", "?", "-1")]
    telling: Commands = [("REPLICAOF", "NO", "ONE"), ("CONFIG", "SET", "masterauth", "x"), *ACL]
    may: dict[str, Commands] = {
        "router": ALLOWED,
        "mover": [*ALLOWED, *ACL, *FLUSH],
        "flusher": [("HELLO", "3"), *FLUSH],
        "replicator": [*telling, *following],
        "follower": [("PING",), *following],
    }
    others = [command for command in ALLOWED if command[0] not in ("HELLO", "AUTH", "RESET", "INFO", "CLIENT")]
    may_not: dict[str, Commands] = {
        "router": [*FORBIDDEN, *ACL, *FLUSH],
        "mover": FORBIDDEN,
        "flusher": [*FORBIDDEN, *ACL, *others],
        "replicator": FLUSH,
        "follower": [("GET", "k"), ("SCAN", "0"), ("KEYS", "*"), *telling, *FLUSH],
    }
    for user in may:
        for command in may[user]:
            assert await run(admin, "ACL", "DRYRUN", user, *command) == b"OK", (user, command)
        for command in may_not[user]:
            said = await run(admin, "ACL", "DRYRUN", user, *command)
            assert b"no permissions to run" in said, (user, command, said)


@pytest.mark.processes
async def test_forbidden_commands_are_denied_in_fact_and_in_scripts(real_lab: Lab) -> None:
    admin = await real_lab.open()
    await admin.allow("router", "secret", UserRole.ROUTER)
    router = await real_lab.open("router", "secret")
    for command in [*FORBIDDEN, *ACL, *FLUSH]:
        # Some are closed for everybody before rights are looked at.
        with pytest.raises(EngineError, match=r"NOPERM|(DEBUG|MODULE) command not allowed"):
            await run(router, *command)
    for inside in (
        "'flushall'",
        "'flushdb', 'async'",
        "'select', '1'",
        "'config', 'set', 'maxmemory', '1'",
        "'acl', 'users'",
        "'debug', 'jmap'",
        "'slowlog', 'get'",
        "'memory', 'doctor'",
        "'memory', 'purge'",
        "'cluster', 'info'",
    ):
        with pytest.raises(EngineError):
            await run(router, "EVAL", f"return redis.call({inside})", 0)
    assert await run(admin, "CONFIG", "GET", "maxmemory") == {b"maxmemory": b"0"}
    assert "router" in await admin.users()


@pytest.mark.processes
async def test_passwords_are_not_sent_in_the_clear(real_lab: Lab) -> None:
    assert not [part for part in setuser("router", "very-secret", UserRole.ROUTER) if "very-secret" in part]
    await (await real_lab.open()).allow("router", "very-secret", UserRole.ROUTER)
    assert await (await real_lab.open("router", "very-secret")).count() == 0


@pytest.mark.processes
async def test_a_server_started_by_hand_is_entered_as_its_default_user(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "plain") as server:
        member = Member("legacy.0", "legacy", Address("127.0.0.1", server.port))
        engine = await ValkeyConnector().open(member)
        await engine.allow("mover", "secret", UserRole.MOVER)
        await engine.force_off("mover")
        assert await engine.users() == ["default"]
        await run(engine, "SELECT", 0)
        await engine.close()
    with start_valkey(tmp_path / "locked", config={"requirepass": ADMIN_PASSWORD}) as server:
        member = Member("legacy.0", "legacy", Address("127.0.0.1", server.port))
        with pytest.raises(EngineDenied, match=r"legacy\.0 at .*NOAUTH"):
            await ValkeyConnector().open(member)
        engine = await ValkeyConnector().open(member, user="default", password=ADMIN_PASSWORD)
        assert await engine.count() == 0
        await engine.close()
