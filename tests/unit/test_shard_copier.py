"""What a copy makes of servers that fail on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from tests.memory_shards import MemoryShards, memory_shards
from tests.shards import Latch
from tests.waiting import until

from helios.coordinator import changes, copy_target
from helios.coordinator.sweep import REGISTER
from helios.engines.memory import MemoryEngine, MemoryServer
from helios.engines.memory.keyspace import GROUPED
from helios.placement.routing import Routes
from helios.ports.engine import Dumped
from helios.ports.failpoints import Point


async def test_a_target_that_lost_the_last_copies_with_its_power_is_not_switched_to() -> None:
    """The first pass is on its disk by then; what was copied since is not, and nothing more is to be copied."""
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        keys = {*a.keys(), *b.keys()}
        routes = Routes(await cluster.topology())
        late = next(key for key in (b"late %d" % n for n in range(100)) if routes.owner(key) == "a")
        latch.arm(Point.CATCHING_UP)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        a.set(late, b"value")
        latch.open()
        latch.arm(Point.ACKNOWLEDGED)
        await latch.reached.wait()

        async def copied() -> bool:
            return b.get(late) is not None

        await until(copied, "it is copied")
        b.crash(lose_unsynced=True)
        assert b.get(late) is None
        b.restart()
        latch.open()
        assert await cluster.ended(migration.id) is None
        assert {*b.keys()} == keys | {late}
        assert a.keys() == []


@pytest.fixture
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are taken from change streams all the time."""
    monkeypatch.setattr(changes, "LOOK_EVERY_S", 0.01)


async def moving(cluster: MemoryShards) -> dict[bytes, bytes]:
    """What node a owns, as its server has it."""
    routes = Routes(await cluster.topology())
    a = cluster.servers["a"]
    return {key: value for key in set(a.keys()) if routes.owner(key) == "a" and (value := a.get(key)) is not None}


def all_vanish(target: MemoryServer, keys: list[bytes]) -> None:
    target.flush()


def some_vanish(target: MemoryServer, keys: list[bytes]) -> None:
    target.delete(keys[::3])


def others_appear(target: MemoryServer, keys: list[bytes]) -> None:
    for key in keys[::3]:
        target.set(key, b"of nobody")


@pytest.mark.parametrize("point", [Point.COPYING, Point.CATCHING_UP, Point.FENCED])
@pytest.mark.parametrize("happens", [all_vanish, some_vanish, others_appear])
async def test_copies_that_the_target_loses_are_made_again(
    happens: Callable[[MemoryServer, list[bytes]], None], point: Point
) -> None:
    """It is flushed, a script of a client deletes them or writes over them, or it evicts them."""
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        expected = await moving(cluster)
        assert len(expected) > 10
        latch.arm(point)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()

        async def copied() -> bool:
            return all(b.get(key) == value for key, value in expected.items())

        await until(copied, "the keys are copied")
        happens(b, sorted(expected))
        latch.open()
        latch.arm(Point.AFTER_SWITCH)
        await latch.reached.wait()
        b.crash(lose_unsynced=True)
        assert {key: b.get(key) for key in expected} == expected
        b.restart()
        latch.open()
        assert await cluster.ended(migration.id) is None
        assert a.keys() == []
        assert {key: b.get(key) for key in expected} == expected


async def test_what_somebody_makes_of_copies_that_are_not_there_goes_before_the_switch() -> None:
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        b = cluster.servers["b"]
        routes = Routes(await cluster.topology())
        stray = next(key for key in (b"stray %d" % n for n in range(100)) if routes.owner(key) == "a")
        latch.arm(Point.CATCHING_UP)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        b.set(stray, b"of nobody")
        latch.open()
        assert await cluster.ended(migration.id) is None
        assert b.get(stray) is None


class Forgetful(MemoryServer):
    """A server that keeps only so many keys, the last ones."""

    most = 1_000_000

    def restore(self, items: Sequence[tuple[bytes, Dumped]], replace: bool) -> list[bool]:
        written = super().restore(items, replace)
        served, self._served = self._served, None
        self.delete(self.keys()[: max(0, len(self.keys()) - self.most)])
        self._served = served
        return written


@pytest.mark.usefixtures("_quick_looks")
async def test_a_target_that_evicts_what_it_is_given_fails_the_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios.control.transition.BACKOFF_FIRST_S", 0.001)
    monkeypatch.setattr("helios.control.transition.BACKOFF_MAX_S", 0.001)
    monkeypatch.setattr("tests.memory_shards.MemoryServer", Forgetful)
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        expected = await moving(cluster)
        await cluster.admin.change_setting("coordinator.fence_budget", "5")
        Forgetful.most = len(expected) // 2
        try:
            migration = await cluster.admin.migrate("a", "b", "*")
            error = await cluster.ended(migration.id)
        finally:
            Forgetful.most = 1_000_000
        assert error is not None
        assert "evict" in error
        assert await moving(cluster) == expected


@pytest.mark.usefixtures("_quick_looks")
async def test_names_of_changes_do_not_pile_up_while_a_move_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        expected = await moving(cluster)
        await cluster.admin.change_setting("coordinator.copy_batch", "5")
        latch.arm(Point.COPYING)
        migration = await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        await cluster.admin.pause_migration(migration.id)

        async def paused() -> bool:
            return (await cluster.admin.migration(migration.id)).paused

        await until(paused, "the move is paused")
        latch.open()
        for key in expected:
            a.set(key, b"newer")

        async def taken() -> bool:
            return all(not listener.pending for listener in a._listeners)

        await until(taken, "the names are taken", limit_s=5)
        # More of them than anybody can remember: the copy begins anew when the pause is over, and not before.
        monkeypatch.setattr(changes, "MAX_CHANGED_BYTES", 100)
        for key in expected:
            a.set(key, b"newest")

        async def given_up() -> bool:
            return not a._listeners

        await until(given_up, "the stream is followed no longer", limit_s=5)
        monkeypatch.undo()
        await cluster.admin.resume_migration(migration.id)
        assert await cluster.ended(migration.id) is None
        assert {key: b.get(key) for key in expected} == dict.fromkeys(expected, b"newest")


@pytest.mark.parametrize("point", [Point.COPYING, Point.CATCHING_UP, Point.FENCED])
@pytest.mark.parametrize("named", [True, False])
async def test_what_was_changed_long_before_it_was_copied_is_synced_before_the_switch(
    monkeypatch: pytest.MonkeyPatch, named: bool, point: Point
) -> None:
    monkeypatch.setattr(copy_target, "_OLD_S", 0.0)
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        routes = Routes(await cluster.topology())
        key = next(key for key in (b"stream %d" % n for n in range(100)) if routes.owner(key) == "a")
        a.set(key, GROUPED + b"1-1 entries")
        latch.arm(point)
        await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        a.write(key, GROUPED + b"1-1 acknowledged", None, named=named)
        latch.open()
        latch.arm(Point.AFTER_SWITCH)
        await latch.reached.wait()
        b.crash(lose_unsynced=True)
        assert b.get(key) == GROUPED + b"1-1 acknowledged"
        b.restart()
        latch.open()


async def test_changes_that_stay_old_hold_up_no_fence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at what changes unnamed takes so long that whatever it finds is old: that is synced behind the fence."""
    monkeypatch.setattr(copy_target, "_OLD_S", 0.0)
    monkeypatch.setattr(copy_target, "_LOOK_EVERY_S", 0.0)
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        routes = Routes(await cluster.topology())
        key = next(key for key in (b"stream %d" % n for n in range(100)) if routes.owner(key) == "a")
        a.set(key, GROUPED + b"1-1 entries")
        marks = iter(range(1_000_000))
        writes = iter(range(1_000_000))
        monkeypatch.setattr(MemoryEngine, "stream_writes", lambda _: asyncio.sleep(0, b"%d" % next(writes)))
        monkeypatch.setattr(a, "stream_mark", lambda one: b"%d" % next(marks) if one == key else None)
        latch.arm(Point.AFTER_SWITCH)
        await cluster.admin.migrate("a", "b", "*")
        await latch.reached.wait()
        b.crash(lose_unsynced=True)
        assert b.get(key) == GROUPED + b"1-1 entries"
        b.restart()
        latch.open()


@pytest.mark.parametrize("verify", [False, True])
async def test_the_register_that_an_import_has_left_moves_to_nobody(verify: bool) -> None:
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        source, target = (a, b) if Routes(await cluster.topology()).owner(REGISTER) == "a" else (b, a)
        source.set(REGISTER, b"of an import")
        migration = await cluster.admin.migrate(source.name, target.name, "*", verify=verify)
        assert await cluster.ended(migration.id) is None
        assert a.get(REGISTER) is b.get(REGISTER) is None
