"""What is copied behind a fence: streams that have changed, and big values, whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.memory_shards import memory_shards
from tests.shards import Latch

from helios.coordinator import transition_work
from helios.coordinator.copying import CopyLimits
from helios.engines.memory.keyspace import GROUPED
from helios.placement.routing import Routes
from helios.ports.engine import Dumped
from helios.ports.failpoints import Point


async def test_behind_the_fence_only_streams_that_have_changed_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has consumer groups, in which everything may change without being named."""
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        routes = Routes(await cluster.topology())
        streams = [key for key in (b"stream %d" % n for n in range(200)) if routes.owner(key) == "a"]
        for key in streams:
            a.set(key, GROUPED + b"1-1 entries")
        latch.arm(Point.CATCHING_UP)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        early, late = streams[:3], streams[3:5]
        for key in early:
            a.write(key, GROUPED + b"1-1 acknowledged", None, named=False)
        latch.open()
        latch.arm(Point.FENCED)
        await latch.reached.wait()
        copied: list[bytes] = []
        restore = b.restore

        def noted(items: Sequence[tuple[bytes, Dumped]], replace: bool) -> list[bool]:
            copied.extend(key for key, _ in items)
            return restore(items, replace)

        monkeypatch.setattr(b, "restore", noted)
        for key in late:
            a.write(key, GROUPED + b"1-1 acknowledged", None, named=False)
        latch.open()
        assert await cluster.ended(migration.id) is None
        assert sorted(copied) == sorted(early + late)
        for key in streams:
            changed = key in early + late
            assert b.get(key) == GROUPED + (b"1-1 acknowledged" if changed else b"1-1 entries")


async def test_streams_of_a_server_that_did_nothing_to_any_are_not_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        routes = Routes(await cluster.topology())
        streams = [key for key in (b"stream %d" % n for n in range(200)) if routes.owner(key) == "a"]
        for key in streams:
            a.set(key, GROUPED + b"1-1 entries")
        latch.arm(Point.FENCED)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        asked: list[bytes] = []
        stream_mark = a.stream_mark

        def noted(key: bytes) -> bytes | None:
            asked.append(key)
            return stream_mark(key)

        monkeypatch.setattr(a, "stream_mark", noted)
        latch.open()
        assert await cluster.ended(migration.id) is None
        assert asked == []
        assert {b.get(key) for key in streams} == {GROUPED + b"1-1 entries"}


async def test_big_streams_without_a_mark_wait_for_the_fence_however_small_its_budget_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No look can tell whether such a stream has changed; its last copy is made behind the fence."""
    monkeypatch.setattr(
        transition_work, "CopyLimits", lambda batch, budget, verify: CopyLimits(batch, 1, big_bytes=4, verify=verify)
    )
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        monkeypatch.setattr(a, "stream_mark", lambda key: b"" if (a.get(key) or b"").startswith(GROUPED) else None)
        routes = Routes(await cluster.topology())
        streams = [key for key in (b"stream %d" % n for n in range(20)) if routes.owner(key) == "a"]
        for key in streams:
            a.set(key, GROUPED + b"1-1 entries")
        assert len(streams) > 1
        migration = await cluster.admin.migrate("a", "b", "*")
        assert await cluster.ended(migration.id) is None
        assert {b.get(key) for key in streams} == {GROUPED + b"1-1 entries"}


def copy_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take values of ten bytes for big ones, and copy four bytes a step."""
    monkeypatch.setattr(
        transition_work,
        "CopyLimits",
        lambda batch, budget, verify: CopyLimits(batch, budget, big_bytes=10, step_bytes=4, verify=verify),
    )


async def test_a_big_value_copied_behind_the_fence_is_whole_after_a_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's disk has half of it, as a sync came on the way: nobody has ever written that value."""
    copy_in_small_steps(monkeypatch)
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        routes = Routes(await cluster.topology())
        key = next(key for key in (b"big %d" % n for n in range(100)) if routes.owner(key) == "a")
        a.set(key, b"of long ago, " * 3)
        latch.arm(Point.FENCED)
        await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        put_piece = b.put_piece

        def synced_on_the_way(key: bytes, start: int, piece: bytes) -> None:
            put_piece(key, start, piece)
            b.sync()

        monkeypatch.setattr(b, "put_piece", synced_on_the_way)
        a.set(key, b"of just now; " * 2)
        latch.open()
        latch.arm(Point.AFTER_SWITCH)
        await latch.reached.wait()
        b.crash(lose_unsynced=True)
        assert b.get(key) == b"of just now; " * 2
        b.restart()
        latch.open()


async def test_a_big_value_that_its_target_loses_half_copied_behind_the_fence_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy_in_small_steps(monkeypatch)
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        routes = Routes(await cluster.topology())
        key = next(key for key in (b"big %d" % n for n in range(100)) if routes.owner(key) == "a")
        a.set(key, b"of long ago, " * 3)
        latch.arm(Point.FENCED)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        put_piece = b.put_piece
        lost: list[bytes] = []

        def put_and_lose(key: bytes, start: int, piece: bytes) -> None:
            put_piece(key, start, piece)
            if start == 4 and not lost:
                lost.append(key)
                asyncio.get_running_loop().call_soon(b.write, key, None, None)

        monkeypatch.setattr(b, "put_piece", put_and_lose)
        a.set(key, b"of just now; " * 2)
        latch.open()
        assert await cluster.ended(migration.id) is None
        assert lost == [key]
        assert b.get(key) == b"of just now; " * 2
