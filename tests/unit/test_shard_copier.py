"""What a copy makes of servers that fail on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from tests.memory_shards import BY_HAND, MemoryShards, memory_shards
from tests.shards import Latch
from tests.waiting import until

from helios.coordinator import changes, copy_target, transition_work
from helios.coordinator.copying import CopyLimits
from helios.coordinator.sweep import REGISTER
from helios.engines.memory import MemoryEngine, MemoryServer
from helios.engines.memory.keyspace import GROUPED
from helios.errors import EngineUnreachable
from helios.model.router_settings import RouterSettings
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


async def clean(cluster: MemoryShards) -> None:
    """Return when no server may hold keys of others any more."""

    async def none_unclean() -> bool:
        return not (await cluster.topology()).unclean

    await until(none_unclean, "every shard is clean")


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


async def test_a_move_of_nothing_waits_for_the_disk_of_its_source_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[MemoryServer] = []
    sync = MemoryServer.sync

    def noted(server: MemoryServer) -> bool:

        synced.append(server)
        return sync(server)

    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        monkeypatch.setattr(MemoryServer, "sync", noted)
        migration = await cluster.admin.migrate("a", "b", "none:*")
        assert await cluster.ended(migration.id) is None
        await clean(cluster)
        assert synced == [cluster.servers["a"]]
        migration = await cluster.admin.migrate("a", "b", "*")
        assert await cluster.ended(migration.id) is None
        assert {*synced} == {*cluster.servers.values()}


async def test_a_move_of_nothing_from_a_server_without_acl_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = BY_HAND.altered(router=RouterSettings(session_ttl=1.0))  # to be waited out by the fence
    monkeypatch.setattr("tests.memory_shards.BY_HAND", soon)
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        cluster.servers["a"].acl = False
        migration = await cluster.admin.migrate("a", "b", "none:*")
        assert (await cluster.admin.change(migration.change, wait_s=20.0)).status == "done"


async def test_who_leaves_without_a_key_of_its_own_keeps_nothing_of_others() -> None:
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        a, routes = cluster.servers["a"], Routes(await cluster.topology())
        a.delete(a.keys())
        a.set(next(key for key in (b"made up:%d" % n for n in range(100)) if routes.owner(key) == "b"), b"by a script")
        removal = await cluster.admin.remove_node("a")
        assert (await cluster.admin.change(removal.change, wait_s=20.0)).status == "done"
        assert a.keys() == []


async def early_key_deleted_on(cluster: MemoryShards, name: str) -> bytes:
    """A key that has gone from a server whose disk does not know that yet."""
    server, routes = cluster.servers[name], Routes(await cluster.topology())
    key = next(key for key in (b"early:%d" % n for n in range(100)) if routes.owner(key) == name)
    server.set(key, b"value")
    server.sync()
    server.delete([key])
    return key


async def test_a_key_deleted_just_before_a_move_of_nothing_does_not_come_back_with_the_power() -> None:
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        a, key = cluster.servers["a"], await early_key_deleted_on(cluster, "a")
        migration = await cluster.admin.migrate("a", "b", "early:*")
        assert await cluster.ended(migration.id) is None
        await clean(cluster)
        a.crash(lose_unsynced=True)
        a.restart()
        assert a.get(key) is None


@pytest.mark.parametrize("replaced", [False, True], ids=["same-coordinator", "another-coordinator"])
async def test_a_move_of_nothing_ends_before_its_sources_disk_knows(
    monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """What comes back with the power until then lies on a shard that is known as unclean, and goes."""
    synced = asyncio.Event()
    persist = MemoryEngine.persist

    async def waited_for(engine: MemoryEngine, timeout_s: float) -> bool:
        await synced.wait()
        return await persist(engine, timeout_s)

    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        a, key = cluster.servers["a"], await early_key_deleted_on(cluster, "a")
        monkeypatch.setattr(MemoryEngine, "persist", waited_for)
        migration = await cluster.admin.migrate("a", "b", "early:*")
        assert await cluster.ended(migration.id) is None
        assert (await cluster.topology()).unclean == {"a"}
        a.crash(lose_unsynced=True)
        a.restart()
        assert a.get(key) is not None
        if replaced:
            await cluster.stop_coordinator()
            cluster.coordinate()
        synced.set()
        await clean(cluster)
        assert a.get(key) is None


async def test_a_move_to_a_shard_whose_disk_did_not_answer_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is clean when the move has ended, whichever keys came."""
    asked_again = asyncio.Event()
    persist = MemoryEngine.persist

    async def refused(engine: MemoryEngine, timeout_s: float) -> bool:
        await asked_again.wait()
        monkeypatch.setattr(MemoryEngine, "persist", persist)
        raise EngineUnreachable("the disk does not answer")

    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        a, key = cluster.servers["a"], await early_key_deleted_on(cluster, "a")
        monkeypatch.setattr(MemoryEngine, "persist", refused)
        migration = await cluster.admin.migrate("a", "b", "early:*")
        assert await cluster.ended(migration.id) is None
        back = await cluster.admin.migrate("b", "a", "early:none:*")
        asked_again.set()
        assert await cluster.ended(back.id) is None
        a.crash(lose_unsynced=True)
        a.restart()
        assert a.get(key) is None


async def test_a_key_deleted_while_nothing_else_moves_does_not_come_back_with_the_power() -> None:
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9) as cluster:
        a = cluster.servers["a"]
        routes = Routes(await cluster.topology())
        key = next(key for key in (b"late:%d" % n for n in range(100)) if routes.owner(key) == "a")
        latch.arm(Point.CATCHING_UP)
        migration = await cluster.admin.migrate("a", "b", "late:*")
        await latch.reached.wait()
        a.set(key, b"value")
        a.sync()
        a.delete([key])
        latch.open()
        assert await cluster.ended(migration.id) is None
        a.crash(lose_unsynced=True)
        a.restart()
        assert a.get(key) is None


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
