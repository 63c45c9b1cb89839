"""What every engine must do; each test runs over a server in memory and over real ones."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest
from tests.engine_lab import Lab, until

from helios.errors import ChangesLost, EngineDenied, EngineError, EngineUnreachable, PayloadRefused
from helios.ports.engine import Dumped, Engine, UserRole

KEYS = [b"", b"plain", b"\x00", b"a\r\nb", b" ", b"{tag}x", "schlüssel".encode(), bytes(range(256)), b"k" * 5000]
SHORT_S = 0.2  # a time-out that is meant to pass


FAR_MS = 4_102_444_800_123  # a time to end that no test reaches, with odd milliseconds


async def scan_all(engine: Engine, count: int = 10) -> list[bytes]:
    """Everything that a whole scan gives."""
    cursor, keys = await engine.scan(0, count)
    while cursor:
        cursor, more = await engine.scan(cursor, count)
        keys += more
    return keys


@pytest.mark.parametrize("beginning", [b"user:", b"[a-z]*?", b"\\", b"\x00\xff^"])
async def test_a_scan_and_a_stream_of_keys_that_begin_so_know_no_others(lab: Lab, beginning: bytes) -> None:
    engine, writer = await lab.open(), await lab.open()
    mine = {beginning, beginning + b"1", beginning + b"*"}
    others = {b"x" + beginning, beginning[:-1] or b"y", b"z", b"user;"}
    stream = await engine.changes(beginning=beginning)
    for key in mine | others:
        await lab.set(writer, key, b"v")
    cursor, found = await engine.scan(0, 2, beginning)
    while cursor:
        cursor, more = await engine.scan(cursor, 2, beginning)
        found += more
    assert set(found) == mine
    assert await stream.barrier() == mine
    await writer.delete(sorted(mine | others))
    assert await stream.barrier() == mine
    await stream.close()


async def test_a_server_says_its_time(lab: Lab) -> None:
    engine = await lab.open()
    before = time.time()
    assert before - 0.001 <= await engine.now_s() <= time.time() + 0.001


async def test_info_says_who_answers(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"a", b"1")
    info = await engine.info()
    assert info.product == lab.kind
    assert info.version.split(".")[0].isdigit()
    assert (info.keys, info.aof_enabled, info.aof_fsync, info.helios_node) == (1, True, "everysec", None)
    assert info.used_memory_bytes > 0
    assert (await engine.info()).run_id == info.run_id
    lab.crash()
    lab.restart()
    assert (await (await lab.open()).info()).run_id != info.run_id


async def test_no_keys_at_all(lab: Lab) -> None:
    engine = await lab.open()
    assert await engine.count() == 0
    assert await scan_all(engine) == []
    assert await engine.exists([]) == []
    assert await engine.dump([]) == []
    assert await engine.restore([]) == []
    assert await engine.delete([]) == 0
    await engine.flush()


async def test_missing_keys_are_none(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"there", b"1")
    assert await engine.exists([b"gone", b"there", b"gone"]) == [False, True, False]
    gone, there, again = await engine.dump([b"gone", b"there", b"gone"])
    assert gone is None
    assert again is None
    assert there is not None
    assert await engine.delete([b"gone"]) == 0
    assert await engine.count() == 1


@pytest.mark.parametrize("expire_at_ms", [None, FAR_MS])
async def test_keys_and_values_of_any_bytes_travel(lab: Lab, expire_at_ms: int | None) -> None:
    engine = await lab.open()
    for key in KEYS:
        await lab.set(engine, key, key[::-1], expire_at_ms)
    dumped = await engine.dump(KEYS)
    assert [d.expire_at_ms if d else -1 for d in dumped] == [expire_at_ms] * len(KEYS)
    assert sorted(await scan_all(engine)) == sorted(KEYS)
    assert await engine.delete(KEYS) == len(KEYS)
    assert await engine.exists(KEYS) == [False] * len(KEYS)
    items = [(key, d) for key, d in zip(KEYS, dumped, strict=True) if d]
    assert await engine.restore(items) == [True] * len(KEYS)
    assert [await lab.get(engine, key) for key in KEYS] == [key[::-1] for key in KEYS]
    assert await engine.dump(KEYS) == dumped


async def test_many_keys_in_one_call(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"model", b"v", FAR_MS)
    (model,) = await engine.dump([b"model"])
    assert model is not None
    keys = [b"%d" % i for i in range(5000)]
    assert all(await engine.restore([(key, model) for key in keys]))
    assert await engine.count() == 5001
    assert await engine.dump(keys) == [model] * 5000
    assert sorted(set(await scan_all(engine, 700))) == sorted([*keys, b"model"])
    assert await engine.delete([*keys, b"never"]) == 5000
    assert await scan_all(engine) == [b"model"]


async def test_restore_replaces_value_and_ttl_only_when_asked(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"new", b"2")
    await lab.set(engine, b"old", b"1", FAR_MS)
    new, old = await engine.dump([b"new", b"old"])
    assert new is not None
    assert await engine.restore([(b"old", new), (b"free", new)], replace=False) == [False, True]
    assert await engine.dump([b"old", b"free"]) == [old, new]
    assert await engine.restore([(b"old", new)]) == [True]
    assert await lab.get(engine, b"old") == b"2"
    assert await engine.dump([b"old"]) == [new]


async def test_keys_are_taken_over_and_registered_in_one_step(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"new", b"2", FAR_MS)
    await lab.set(engine, b"old", b"1")
    (new,) = await engine.dump([b"new"])
    assert new is not None
    assert await engine.registered(b"register") == frozenset()
    assert await engine.take_over([(b"old", new), (b"free", new)], b"register") == [False, True]
    assert await lab.get(engine, b"old") == b"1"
    assert await engine.dump([b"free"]) == [new]
    broken = Dumped(b"\xff" + new.payload[1:], None)
    with pytest.raises(PayloadRefused, match="b'bad'"):
        await engine.take_over([(b"bad", broken)], b"register")
    await engine.register(b"register", [b"more", b"old"])
    assert await engine.registered(b"register") == {b"old", b"free", b"more"}
    await engine.delete([b"register"])
    assert await engine.registered(b"register") == frozenset()


async def test_a_key_whose_time_has_passed_is_not_there_after_restore(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"a", b"1")
    (dumped,) = await engine.dump([b"a"])
    assert dumped is not None
    past = Dumped(dumped.payload, int(time.time() * 1000) - 10)
    assert await engine.restore([(b"a", past), (b"b", past)]) == [True, True]
    assert await engine.exists([b"a", b"b"]) == [False, False]
    assert await engine.count() == 0


async def test_a_payload_that_cannot_be_read_is_refused_by_name(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"a", b"1")
    (good,) = await engine.dump([b"a"])
    assert good is not None
    broken = Dumped(b"\xff" + good.payload[1:], None)
    with pytest.raises(PayloadRefused, match=rf"{(await engine.info()).version}.*cannot read.*b'bad'"):
        await engine.restore([(b"before", good), (b"bad", broken), (b"behind", good)])
    assert await engine.exists([b"before", b"bad", b"behind"]) == [True, False, True]


async def test_flush_leaves_nothing(lab: Lab) -> None:
    engine = await lab.open()
    for i in range(100):
        await lab.set(engine, b"%d" % i, b"v")
    await engine.flush()
    assert await engine.count() == 0
    assert await scan_all(engine) == []


@pytest.mark.parametrize("seed", range(3))
async def test_scan_gives_every_key_that_stays(lab: Lab, seed: int) -> None:
    engine = await lab.open()
    chance = random.Random(seed)
    stay = {b"stay:%d" % i for i in range(300)}
    go = [b"go:%d" % i for i in range(2000)]
    await lab.set(engine, b"model", b"v")
    (model,) = await engine.dump([b"model"])
    assert model is not None
    await engine.restore([(key, model) for key in [*stay, *go]])
    chance.shuffle(go)
    given: set[bytes] = set()
    cursor, step = 0, 0
    while True:
        cursor, keys = await engine.scan(cursor, 20)
        given.update(keys)
        if cursor == 0:
            break
        step += 1
        doomed = [go.pop() for _ in range(min(len(go), 60))]
        await engine.delete(doomed)
        await engine.restore([(b"new:%d:%d" % (step, i), model) for i in range(chance.randrange(40))])
    assert stay <= given
    assert step > 5


async def test_changes_names_what_anybody_changed_before_the_barrier(lab: Lab) -> None:
    engine, writer = await lab.open(), await lab.open()
    await lab.set(writer, b"before", b"1")
    await lab.set(writer, b"doomed", b"1")
    (dumped,) = await engine.dump([b"before"])
    assert dumped is not None
    stream = await engine.changes()
    assert await stream.barrier() == set()
    await lab.set(writer, b"written", b"2")
    await writer.delete([b"doomed", b"never"])
    await writer.restore([(b"restored", dumped)])
    await lab.get(writer, b"before")
    assert await stream.barrier() == {b"written", b"doomed", b"restored"}
    assert await stream.barrier() == set()
    for i in range(500):
        await lab.set(writer, b"%d" % i, b"v")
        assert await stream.barrier() == {b"%d" % i}
    await stream.close()


async def test_changes_under_load_miss_nothing(lab: Lab) -> None:
    engine = await lab.open()
    stream = await engine.changes()
    answered: list[bytes] = []

    async def write(number: int) -> None:
        writer = await lab.open()
        for i in range(300):
            key = b"%d:%d" % (number, i)
            await lab.set(writer, key, b"v")
            answered.append(key)

    writers = [asyncio.create_task(write(number)) for number in range(4)]
    named: set[bytes] = set()
    while True:
        over = all(task.done() for task in writers)
        due = set(answered)
        named |= await stream.barrier()
        assert due <= named
        if over:
            break
    await asyncio.gather(*writers)
    assert len(named) == 1200
    await stream.close()


async def test_changes_names_keys_that_expire(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"short", b"1", int(time.time() * 1000) + 50)
    stream = await engine.changes()
    named: set[bytes] = set()

    async def gone() -> bool:
        named.update(await stream.barrier())
        return b"short" in named

    await until(gone)
    assert await engine.exists([b"short"]) == [False]
    await stream.close()


async def test_changes_of_others_are_told_from_ones_own(lab: Lab) -> None:
    writer, other = await lab.open(), await lab.open()
    stream = await writer.changes(own=False)
    await lab.set(writer, b"mine", b"1")
    (dumped,) = await writer.dump([b"mine"])
    assert dumped is not None
    await writer.restore([(b"copy", dumped), (b"short", replace(dumped, expire_at_ms=int(time.time() * 1000) + 50))])
    await writer.delete([b"mine"])
    assert await stream.barrier() == set()
    await lab.set(other, b"theirs", b"1")
    await other.delete([b"copy"])
    named: set[bytes] = set()

    async def all_named() -> bool:
        named.update(await stream.barrier())
        return named == {b"theirs", b"copy", b"short"}  # the last has ended by itself

    await until(all_named)
    await other.flush()
    with pytest.raises(ChangesLost, match="flushed"):
        await stream.barrier()
    await stream.close()


async def test_a_flush_ends_a_change_stream(lab: Lab) -> None:
    engine = await lab.open()
    stream = await engine.changes()
    await lab.set(engine, b"a", b"1")
    await engine.flush()
    await lab.set(engine, b"b", b"1")
    for _ in range(2):
        with pytest.raises(ChangesLost, match="flushed"):
            await stream.barrier()
    await stream.close()


async def test_a_broken_connection_ends_a_change_stream(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("mover", "secret", UserRole.MOVER)
    stream = await (await lab.open("mover", "secret")).changes()
    await lab.set(admin, b"a", b"1")
    await admin.force_off("mover")
    for _ in range(2):
        with pytest.raises(ChangesLost, match="copy everything again"):
            await stream.barrier()
    await stream.close()
    with pytest.raises(ChangesLost):
        await stream.barrier()


async def test_a_crash_ends_a_change_stream(lab: Lab) -> None:
    stream = await (await lab.open()).changes()
    lab.crash()
    with pytest.raises(ChangesLost):
        await stream.barrier()
    lab.restart()
    with pytest.raises(ChangesLost):
        await stream.barrier()


async def test_a_barrier_that_is_given_up_loses_no_name(lab: Lab) -> None:
    connector = lab.with_timeout(SHORT_S)
    engine = await connector.open(lab.member)
    stream = await engine.changes()
    await lab.set(engine, b"a", b"1")
    lab.freeze()
    with pytest.raises(EngineUnreachable):
        await stream.barrier()
    waiting = asyncio.create_task(stream.barrier())
    await asyncio.sleep(0)
    waiting.cancel()
    lab.thaw()
    assert await stream.barrier() == {b"a"}
    await stream.close()
    await engine.close()


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


async def test_a_server_that_is_gone_is_unreachable(lab: Lab) -> None:
    engine = await lab.open()
    waiting = [asyncio.create_task(engine.count()) for _ in range(3)]
    lab.freeze()
    await asyncio.sleep(0)
    lab.crash()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, EngineUnreachable | int) for result in results)
    for _ in range(2):
        with pytest.raises(EngineUnreachable, match=r"shard-1\.0 at"):
            await engine.count()
    with pytest.raises(EngineUnreachable, match=r"shard-1\.0 at"):
        await lab.open()
    lab.restart()
    with pytest.raises(EngineUnreachable):
        await engine.count()
    assert await (await lab.open()).count() == 0


async def test_users_made_at_run_time_end_with_the_server(lab: Lab) -> None:
    await (await lab.open()).allow("router", "secret", UserRole.ROUTER)
    lab.crash()
    lab.restart()
    with pytest.raises(EngineDenied):
        await lab.open("router", "secret")


async def test_a_frozen_server_is_unreachable_in_time_and_usable_again(lab: Lab) -> None:
    connector = lab.with_timeout(SHORT_S)
    engine = await connector.open(lab.member)
    await lab.set(engine, b"n", b"0")
    lab.freeze()
    with pytest.raises(EngineUnreachable, match=r"shard-1\.0 at .*0\.2 s"):
        await engine.delete([b"n"])
    with pytest.raises(EngineUnreachable, match=r"shard-1\.0 at .*0\.2 s"):
        await connector.open(lab.member)
    lab.thaw()
    # What was given up runs before what is sent afterwards.
    assert await lab.incr(engine, b"n") == 1
    await engine.close()


async def test_a_call_that_is_given_up_does_not_shift_the_answers_of_others(lab: Lab) -> None:
    engine = await lab.open()
    for i in range(200):
        await lab.set(engine, b"%d" % i, b"v%d" % i)
    lab.freeze()
    calls = [asyncio.create_task(lab.get(engine, b"%d" % i)) for i in range(200)]
    await asyncio.sleep(0)
    for i in range(0, 200, 3):
        calls[i].cancel()
    lab.thaw()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for i, answer in enumerate(answers):
        if i % 3:
            assert answer == b"v%d" % i
        else:
            assert isinstance(answer, asyncio.CancelledError)


async def test_what_a_closed_engine_left_behind_does_not_run_after_reopening(lab: Lab) -> None:
    admin = await lab.open()
    await admin.allow("mover", "secret", UserRole.MOVER)
    for turn in range(10):
        engine = await lab.open("mover", "secret")
        lab.freeze()
        given_up = [asyncio.create_task(lab.incr(engine, b"n")) for _ in range(20)]
        await asyncio.sleep(0)
        await engine.close()
        assert all(isinstance(e, EngineUnreachable) for e in await asyncio.gather(*given_up, return_exceptions=True))
        opening = asyncio.create_task(lab.open("mover", "secret"))
        await asyncio.sleep(0)
        lab.thaw()
        again = await opening
        seen = await lab.get(again, b"n")
        for _ in range(20):
            assert await lab.get(admin, b"n") == seen, turn
        await again.close()


async def test_several_may_reopen_at_once_what_was_lost(lab: Lab) -> None:
    engine = await lab.open()
    lab.freeze()
    given_up = [asyncio.create_task(lab.incr(engine, b"n")) for _ in range(3)]
    await asyncio.sleep(0)
    await engine.close()
    await asyncio.gather(*given_up, return_exceptions=True)
    opening = [asyncio.create_task(lab.open()) for _ in range(4)]
    await asyncio.sleep(0)
    lab.thaw()
    # What was given up has run before that, or never will.
    assert len({await again.count() for again in await asyncio.gather(*opening)}) == 1


async def test_persist_covers_what_anybody_wrote(lab: Lab) -> None:
    engine, writer = await lab.open(), await lab.open()
    for policy, promised in (("everysec", True), ("always", True), ("no", False)):
        await lab.set_fsync(policy)
        await lab.set(writer, policy.encode(), b"1")
        before = await engine.count()
        assert await engine.persist(10.0) is promised, policy
        assert await engine.count() == before
    lab.crash()
    lab.restart()
    assert await (await lab.open()).exists([b"everysec", b"always"]) == [True, True]


async def test_libraries_become_those_that_are_given(lab: Lab) -> None:
    def library(name: str, function: str) -> bytes:
        return f"#!lua name={name}\nredis.register_function('{function}', function() return 1 end)\n".encode()

    engine = await lab.open()
    assert await engine.libraries() == {}
    first = {b"one": library("one", "f"), b"two": library("two", "g")}
    await engine.replace_libraries(first)
    assert await engine.libraries() == first
    # A function goes from one library to another, and a library goes.
    second = {b"one": library("one", "g"), b"three": library("three", "f")}
    await engine.replace_libraries(second)
    assert await engine.libraries() == second
    await engine.replace_libraries(second)
    await engine.replace_libraries({})
    assert await engine.libraries() == {}
