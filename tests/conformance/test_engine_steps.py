"""Big values, copied in steps between two servers: steps are tiny here, so that small values take many."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest
from tests.engine_lab import Two, configure, run
from tests.values import MAKERS, carry_out, delivered_ms, look

from helios.engines.memory import MemoryConnector, MemoryServer
from helios.errors import EngineError
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import Notes, StepCopy

STEP_BYTES = 300
# Small values lie in one piece, which a scan gives at once, unless they are told not to.
IN_TABLES = {"hash-max-listpack-entries": 1, "set-max-listpack-entries": 1, "set-max-intset-entries": 1}


async def test_sizes_tell_big_from_small_and_from_nothing(two: Two) -> None:
    engine = await two[0].open()
    await two[0].set(engine, b"small", b"v")
    await two[0].set(engine, b"big", b"v" * 100_000)
    nothing, small, big = await engine.sizes([b"nothing", b"small", b"big"])
    assert nothing == 0
    assert 0 < small < 1000
    assert 100_000 <= big < 200_000
    assert await engine.sizes([]) == []


@pytest.mark.parametrize("patch", [False, True])
async def test_a_copy_makes_value_and_end_the_same(two: Two, patch: bool) -> None:
    source, target = await two[0].open(), await two[1].open()
    chance = random.Random(1)
    far_ms = int(time.time() * 1000) + 3_600_123
    before: list[tuple[bytes | None, int | None]] = [(None, None), (b"", None), (b"x" * 2000, far_ms), (b"short", None)]
    for old, old_end_ms in before:
        for value, end_ms in ((b"", None), (chance.randbytes(2999), None), (chance.randbytes(3000), far_ms)):
            await two[0].set(source, b"k", value, end_ms)
            await target.delete([b"k"])
            if old is not None:
                await two[1].set(target, b"k", old, old_end_ms)
            assert await source.copy_in_steps(b"k", target, patch=patch, step_bytes=STEP_BYTES) is StepCopy.COPIED
            assert await target.dump([b"k"]) == await source.dump([b"k"])


async def test_what_is_absent_is_removed(two: Two) -> None:
    source, target = await two[0].open(), await two[1].open()
    for patch in (False, True):
        await two[1].set(target, b"k", b"old")
        assert await source.copy_in_steps(b"k", target, patch=patch) is StepCopy.ABSENT
        assert await target.exists([b"k"]) == [False]


async def test_a_patch_writes_only_differences_and_paces_itself(two: Two) -> None:
    source, target = await two[0].open(), await two[1].open()
    paced: list[int] = []

    async def pace(size: int) -> None:
        paced.append(size)

    await two[0].set(source, b"k", b"v" * 3000)
    await source.copy_in_steps(b"k", target, patch=False, pace=pace, step_bytes=STEP_BYTES)
    assert len(paced) >= 10
    assert sum(paced) >= 3000
    assert max(paced) < 3 * STEP_BYTES
    assert await two[1].get(target, b"k") == b"v" * 3000


async def test_engines_of_different_kinds_copy_nothing(two: Two) -> None:
    source = await two[0].open()
    await two[0].set(source, b"k", b"v")
    address = Address("memory", 9)
    server = MemoryServer("other", wall=time.time)
    other = await MemoryConnector({address: server}).open(Member("other.0", "other", address))
    if two[0].kind != "memory":
        with pytest.raises(EngineError, match="another kind"):
            await source.copy_in_steps(b"k", other, patch=False)
        with pytest.raises(EngineError, match="another kind"):
            await other.copy_in_steps(b"k", source, patch=False)
        assert server.keys() == []


@pytest.mark.processes
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(3))
async def test_values_of_every_type_arrive_exactly_and_are_patched_exactly(real_two: Two, kind: str, seed: int) -> None:
    source, target = await real_two[0].open(), await real_two[1].open()
    chance = random.Random(f"{kind} {seed}")
    for engine in (source, target) if seed else ():
        await configure(engine, IN_TABLES)
    for turn in range(6):
        key = b"%d" % turn
        notes: Notes | None = {} if turn % 3 else None
        await carry_out(source, MAKERS[kind](chance, key, True))
        await carry_out(source, [command for _ in range(5) for command in MAKERS[kind](chance, key, False)])
        for change in range(6):
            if chance.random() < 0.3:
                far_ms = int(time.time() * 1000) + chance.randrange(1_000_000, 9_000_000)
                await run(source, *chance.choice([("PEXPIREAT", key, far_ms), ("PERSIST", key)]))
            step_bytes = chance.choice([50, STEP_BYTES, 5000])
            outcome = await source.copy_in_steps(key, target, patch=change > 0, notes=notes, step_bytes=step_bytes)
            seen = await look(source, key)
            assert outcome is (StepCopy.ABSENT if seen[0] == b"none" else StepCopy.COPIED)
            assert await look(target, key) == seen, (turn, change)
            await carry_out(source, MAKERS[kind](chance, key, False))


@pytest.mark.processes
async def test_a_patch_meets_a_value_of_another_type(real_two: Two) -> None:
    source, target = await real_two[0].open(), await real_two[1].open()
    chance = random.Random(7)
    for mine in MAKERS:
        for theirs in MAKERS:
            for engine, kind in ((source, mine), (target, theirs)):
                await engine.delete([b"k"])
                await carry_out(engine, MAKERS[kind](chance, b"k", True))
            assert await source.copy_in_steps(b"k", target, patch=True, step_bytes=STEP_BYTES) is StepCopy.COPIED
            assert await look(target, b"k") == await look(source, b"k"), (mine, theirs)


@pytest.mark.processes
async def test_a_stream_that_grows_and_is_trimmed_is_not_read_again(real_two: Two) -> None:
    source, target = await real_two[0].open(), await real_two[1].open()
    read: list[int] = []

    async def pace(size: int) -> None:
        read.append(size)

    async def add(numbers: Iterable[int], value: str = "value") -> None:
        await carry_out(source, [("XADD", b"k", f"{number}-0", b"f", f"{value} {number}") for number in numbers])

    async def copied() -> int:
        """Bytes that were dealt with."""
        read.clear()
        await source.copy_in_steps(b"k", target, patch=True, notes=notes, pace=pace, step_bytes=STEP_BYTES)
        assert await look(target, b"k") == await look(source, b"k")
        return sum(read)

    notes: Notes = {}
    await add(range(1, 1001))
    everything = await copied()
    await add(range(1001, 1011))
    assert await copied() < everything / 10
    await run(source, "XTRIM", b"k", "MAXLEN", 777)
    assert await copied() == 0
    await add(range(1011, 1021))
    await run(source, "XTRIM", b"k", "MINID", "300-0")
    assert await copied() < everything / 10
    growing = iter(range(1021, 1100))

    async def grow(_size: int) -> None:
        await add([next(growing)])

    # A copy from the start, which entries overtake at its end: the next goes on from there.
    notes.clear()
    await source.copy_in_steps(b"k", target, patch=False, notes=notes, pace=grow, step_bytes=STEP_BYTES * 20)
    await add([2000])
    assert await copied() < everything / 2
    await add([2001])
    await run(source, "XDEL", b"k", "500-0", "2001-0")  # in the middle, and what nobody has seen
    assert await copied() > everything / 2
    await add([2002])
    assert await copied() < everything / 10
    for gone in (["300-0"], ["2002-0"], ["301-0", "700-0"]):
        await run(source, "XDEL", b"k", *gone)
        await copied()
    # The same ids with other values, as often added: another stream under the same name.
    ids = range(3000, 4000)
    await source.delete([b"k"])
    await add(ids)
    await copied()
    await source.delete([b"k"])
    await add(ids, "other")
    assert await copied() > everything / 2


@pytest.mark.processes
async def test_deliveries_keep_their_times(real_two: Two) -> None:
    source, target = await real_two[0].open(), await real_two[1].open()
    for i in range(1, 100):
        await run(source, "XADD", b"k", f"{i}-0", b"f", b"v")
    await run(source, "XGROUP", "CREATE", b"k", b"g", 0)
    await run(source, "XREADGROUP", "GROUP", b"g", b"c", "COUNT", 50, "STREAMS", b"k", ">")
    claim = ("XCLAIM", b"k", b"g", b"other", 0, "7-0", "TIME", 1_700_000_000_123, "RETRYCOUNT", 5)
    await run(source, *claim)
    for patch in (False, True):
        await source.copy_in_steps(b"k", target, patch=patch, step_bytes=STEP_BYTES)
        mine, theirs = await delivered_ms(source, b"k"), await delivered_ms(target, b"k")
        assert len(mine) == len(theirs) == 50
        # As old as a server says, which is asked on the way: a second is far more than that takes.
        assert max(abs(a - b) for a, b in zip(mine, theirs, strict=True)) < 1000
    assert await look(target, b"k") == await look(source, b"k")


@pytest.mark.processes
async def test_empty_streams_and_pending_entries_that_were_deleted(real_two: Two) -> None:
    source, target = await real_two[0].open(), await real_two[1].open()
    await run(source, "XADD", b"k", "5-0", b"f", b"v")
    await run(source, "XGROUP", "CREATE", b"k", b"g", 0)
    await run(source, "XDEL", b"k", "5-0")
    for patch in (False, True):
        assert await source.copy_in_steps(b"k", target, patch=patch) is StepCopy.COPIED
        assert await look(target, b"k") == await look(source, b"k")
    await run(source, "XADD", b"k", "6-0", b"f", b"v")
    await run(source, "XREADGROUP", "GROUP", b"g", b"c", "STREAMS", b"k", ">")
    await run(source, "XDEL", b"k", "6-0")
    for patch in (True, False, True):
        assert await source.copy_in_steps(b"k", target, patch=patch) is StepCopy.COPIED
        assert await look(target, b"k") == await look(source, b"k")


@pytest.mark.processes
async def test_an_end_of_before_does_not_come_in_the_middle_of_a_patch(real_two: Two) -> None:
    source, target = await real_two[0].open(), await real_two[1].open()
    await run(source, "RPUSH", b"k", *range(1000))
    await source.copy_in_steps(b"k", target, patch=False)
    soon_ms = int(time.time() * 1000) + 150
    await run(target, "PEXPIREAT", b"k", soon_ms)

    async def until_it_would_have_ended(_size: int) -> None:
        while time.time() * 1000 < soon_ms + 50:
            await run(target, "PING")

    pace = until_it_would_have_ended
    assert await source.copy_in_steps(b"k", target, patch=True, pace=pace, step_bytes=STEP_BYTES) is StepCopy.COPIED
    assert await look(target, b"k") == await look(source, b"k")


@pytest.mark.processes
@pytest.mark.parametrize("kind", MAKERS)
async def test_a_key_that_goes_or_becomes_another_thing_meanwhile(real_two: Two, kind: str) -> None:
    source, target, writer = await real_two[0].open(), await real_two[1].open(), await real_two[0].open()
    chance = random.Random(3)
    await configure(source, IN_TABLES)
    other = "set" if kind == "list" else "list"
    for patch in (False, True):
        for replaced in (False, True):
            await writer.delete([b"k"])
            for _ in range(4):  # one time at least it is more than a step
                await carry_out(writer, MAKERS[kind](chance, b"k", True))
            if patch:
                await source.copy_in_steps(b"k", target, patch=False)
            steps = 0

            async def pace(_size: int, *, replaced: bool = replaced) -> None:
                nonlocal steps
                steps += 1
                if steps == 2:
                    await writer.delete([b"k"])
                    if replaced:
                        await carry_out(writer, MAKERS[other](random.Random(4), b"k", True))

            outcome = await source.copy_in_steps(b"k", target, patch=patch, pace=pace, step_bytes=50)
            assert steps >= 2
            if not replaced:
                assert outcome is not StepCopy.COPIED
                assert await target.exists([b"k"]) == [False]
            await source.copy_in_steps(b"k", target, patch=True, step_bytes=50)
            assert await look(target, b"k") == await look(source, b"k")


BIG: dict[str, list[list[str]]] = {
    "string": [["SET", "k", "x" * 5000]],
    "list": [["RPUSH", "k", *(f"element {n}" for n in range(200))]],
    "hash": [["HSET", "k", *(word for n in range(200) for word in (f"field {n}", "v" * 20))]],
    "set": [["SADD", "k", *(f"member {n}" for n in range(200))]],
    "zset": [["ZADD", "k", *(word for n in range(200) for word in (str(n), f"member {n}"))]],
    "stream": [["XADD", "k", f"{n + 1}-0", "f", "v" * 20] for n in range(200)],
}


@pytest.mark.processes
@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu"])
@pytest.mark.parametrize("kind", BIG)
async def test_a_copy_in_steps_counts_as_used_as_its_source(real_two: Two, kind: str, policy: str) -> None:
    word, value, near = ("IDLETIME", 5000, 60) if policy == "allkeys-lru" else ("FREQ", 200, 10)
    for lab in real_two:
        await configure(await lab.open(), IN_TABLES)
        await run(await lab.open(), "CONFIG", "SET", "maxmemory-policy", policy)
    source, target = [await lab.open() for lab in real_two]
    for command in BIG[kind]:
        await run(source, *command)
    (dumped,) = await source.dump([b"k"])
    assert dumped is not None
    await run(source, "RESTORE", "k", 0, dumped.payload, "REPLACE", word, value)
    steps = 0

    async def pace(size: int) -> None:
        nonlocal steps
        steps += 1

    assert await source.copy_in_steps(b"k", target, patch=False, pace=pace, step_bytes=STEP_BYTES) is StepCopy.COPIED
    assert steps > 3
    assert await source.digests([b"k"]) == await target.digests([b"k"])
    assert abs(await run(source, "OBJECT", word, "k") - value) <= near
    try:
        await run(target, "CLIENT", "NO-TOUCH", "ON")
    except EngineError:
        return  # Redis before 7.2 takes whatever Helios writes for a use
    assert abs(await run(target, "OBJECT", word, "k") - value) <= near
    # What is compared and mended is used no more than what is copied.
    assert await source.copy_in_steps(b"k", target, patch=True, step_bytes=STEP_BYTES) is StepCopy.COPIED
    assert abs(await run(target, "OBJECT", word, "k") - value) <= near
    assert abs(await run(source, "OBJECT", word, "k") - value) <= near
