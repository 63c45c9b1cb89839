"""What every engine must do with keys; each test runs over a server in memory and over real ones."""

from __future__ import annotations

import random
import time

import pytest
from tests.engine_lab import Lab, run, scan_all
from tests.servers import ADMIN_PASSWORD, ADMIN_USER

from helios.errors import PayloadRefused
from helios.ports.engine import Dumped

KEYS = [b"", b"plain", b"\x00", b"a\r\nb", b" ", b"{tag}x", "schlüssel".encode(), bytes(range(256)), b"k" * 5000]
FAR_MS = 4_102_444_800_123  # a time to end that no test reaches, with odd milliseconds


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


@pytest.mark.processes
async def test_keys_of_other_databases_show_in_info(real_lab: Lab) -> None:
    engine = await real_lab.open()
    other = await real_lab.open(ADMIN_USER, ADMIN_PASSWORD)
    await run(other, "SELECT", 3)
    await run(other, "SET", b"hidden", 1)
    await run(engine, "SET", b"a", 1)
    assert (await engine.count(), (await engine.info()).keys) == (1, 2)
    await engine.flush()
    assert (await engine.count(), (await engine.info()).keys) == (0, 1)
