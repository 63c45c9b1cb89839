"""Digests of values and trials of payloads; the same over servers in memory and real ones."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest
from tests.engine_lab import Two, configure, run
from tests.values import MAKERS, carry_out, look

from helios.engines.valkey.digests import digest_of
from helios.engines.valkey.engine import ValkeyEngine
from helios.engines.valkey.stepwise.members import Rows, Set
from helios.ports.engine import Dumped

# Small values lie in one piece, in the order of their arrival, unless they are told not to.
IN_TABLES = {
    "hash-max-listpack-entries": 1,
    "set-max-listpack-entries": 1,  # Redis 7.0 does not know it yet
    "set-max-intset-entries": 1,
    "zset-max-listpack-entries": 1,
    "list-max-listpack-size": 2,
}


@pytest.fixture
async def real_two(real_two: Two) -> Two:
    """Of the two server processes the second keeps small values otherwise."""
    await configure(await real_two[1].open(), IN_TABLES)
    return real_two


async def test_equal_values_have_equal_digests_and_others_do_not(two: Two) -> None:
    one, other = await two[0].open(), await two[1].open()
    far_ms = int(time.time() * 1000) + 3_600_123
    for lab, engine in zip(two, (one, other), strict=True):
        await lab.set(engine, b"empty", b"")
        await lab.set(engine, b"plain", b"\x00value")
        await lab.set(engine, b"ending", b"\x00value", far_ms)
        await lab.set(engine, b"big", b"x" * 1_000_000)
    await two[1].set(other, b"later", b"\x00value", far_ms + 1)
    await two[1].set(other, b"like", b"\x00valuf")
    keys = [b"gone", b"empty", b"plain", b"ending", b"big"]
    mine = await one.digests(keys)
    assert mine == await other.digests(keys)
    assert mine[0] is None
    assert all(mine[1:])
    assert len({*mine, *await other.digests([b"later", b"like"])}) == 7
    assert await one.digests([]) == []
    assert await one.digests([b"plain", b"plain"]) == [mine[2], mine[2]]


async def test_a_server_accepts_what_it_writes_and_nothing_stays(two: Two) -> None:
    engine = await two[0].open()
    await two[0].set(engine, b"k", b"v")
    before = await engine.dump([b"k"])
    payload = await engine.sample_payload()
    assert await engine.accepts(payload)
    assert await (await two[1].open()).accepts(payload)
    assert not await engine.accepts(b"")
    assert not await engine.accepts(_of_the_future(two[0].kind, payload))
    assert await engine.count() == 1
    assert await engine.dump([b"k"]) == before


def _of_the_future(kind: str, payload: bytes) -> bytes:
    """The payload as if a much newer server had written it; servers look at the version before the checksum."""
    return b"999\n" if kind == "memory" else payload[:-10] + b"\xff\x7f" + payload[-8:]


@pytest.mark.processes
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("seed", range(3))
async def test_digests_tell_what_a_value_is_and_not_how_it_lies(real_two: Two, kind: str, seed: int) -> None:
    one, other = await real_two[0].open(), await real_two[1].open()
    chance = random.Random(f"{kind} {seed}")
    for turn in range(8):
        key = b"%d" % turn
        await carry_out(one, MAKERS[kind](chance, key, True))
        await carry_out(one, [command for _ in range(5) for command in MAKERS[kind](chance, key, False)])
        (dumped,) = await one.dump([key])
        if dumped is None:
            continue
        if turn % 2:
            await one.copy_in_steps(key, other, patch=False, step_bytes=200)
        else:
            await other.restore([(key, dumped)])
        assert await one.digests([key]) == await other.digests([key])
        for _ in range(6):
            before, digest = await look(other, key), await other.digests([key])
            await carry_out(other, MAKERS[kind](chance, key, False))
            assert (await look(other, key) == before) == (await other.digests([key]) == digest)
        await run(one, "PEXPIREAT", key, int(time.time() * 1000) + 1_000_000)
        assert await one.digests([key]) != await other.digests([key])


@pytest.mark.processes
async def test_digests_do_not_depend_on_the_order_of_arrival(real_two: Two) -> None:
    one, other = await real_two[0].open(), await real_two[1].open()
    names = [b"%d" % i for i in range(3000)]
    for engine, order in ((one, names), (other, names[::-1])):
        await run(engine, "SADD", "set", *order)
        await run(engine, "HSET", "hash", *(part for name in order for part in (name, name)))
        await run(engine, "ZADD", "zset", *(part for name in order for part in (len(name), name)))
        await run(engine, "RPUSH", "list", *order)
    keys = [b"set", b"hash", b"zset", b"list"]
    mine, theirs = await one.digests(keys), await other.digests(keys)
    assert mine[:3] == theirs[:3]
    assert mine[3] != theirs[3]
    assert len(set(mine)) == 4


@pytest.mark.processes
async def test_elements_cannot_run_into_each_other(real_two: Two) -> None:
    engine = await real_two[0].open()
    await run(engine, "RPUSH", "a", "ab", "c")
    await run(engine, "RPUSH", "b", "a", "bc")
    await run(engine, "HSET", "c", "ab", "c")
    await run(engine, "HSET", "d", "a", "bc")
    await run(engine, "SADD", "e", "ab", "c")
    await run(engine, "SADD", "f", "a", "bc")
    assert len({*await engine.digests([b"a", b"b", b"c", b"d", b"e", b"f"])}) == 6


@pytest.mark.processes
async def test_a_member_that_a_scan_gives_twice_counts_once(real_two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await real_two[0].open()
    await run(engine, "SADD", "set", *range(1000))
    (expected,) = await engine.digests([b"set"])
    steps = Set.steps

    async def repeated(self: Set, way: Any, count: int) -> AsyncGenerator[Rows, None]:
        async for rows in steps(self, way, count):
            yield rows
            yield Rows(rows.names[:1], rows.values[:1])

    monkeypatch.setattr(Set, "steps", repeated)
    assert await engine.digests([b"set"]) == [expected]


@pytest.mark.processes
async def test_a_value_that_becomes_another_thing_while_it_is_read_has_an_empty_digest(real_two: Two) -> None:
    engine = await real_two[0].open()
    await run(engine, "RPUSH", "k", 1)
    connection = cast(ValkeyEngine, engine).connection
    assert await digest_of(connection, b"k", b"hash", -1, 10.0) == b""


@pytest.mark.processes
async def test_a_payload_that_cannot_be_tried_is_an_error_and_not_a_no(real_two: Two) -> None:
    engine = await real_two[0].open()
    payload = await engine.sample_payload()
    await run(engine, "CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(Exception, match="OOM"):
            await engine.accepts(payload)
    finally:
        await run(engine, "CONFIG", "SET", "maxmemory", 0)
    assert await engine.restore([(b"k", Dumped(payload, None))]) == [True]
