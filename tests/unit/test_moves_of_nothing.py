"""Moves that have nothing to copy: they end, and nothing comes back with the power."""

from __future__ import annotations

import asyncio

import pytest
from tests.memory_shards import BY_HAND, MemoryShards, memory_shards
from tests.shards import Latch
from tests.waiting import until

from helios.engines.memory import MemoryEngine, MemoryServer
from helios.errors import EngineUnreachable
from helios.model.router_settings import RouterSettings
from helios.placement.routing import Routes
from helios.ports.failpoints import Point


async def clean(cluster: MemoryShards) -> None:
    """Return when no server may hold keys of others any more."""

    async def none_unclean() -> bool:
        return not (await cluster.topology()).unclean

    await until(none_unclean, "every shard is clean")


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
