"""What an import makes of servers that lose their power, and what it leaves when it is not carried to its end."""

from __future__ import annotations

import asyncio

import pytest
from tests.memory_shards import MemoryShards, memory_shards
from tests.shards import Latch, eventually, rests

from helios.admin.views import ChangeView
from helios.coordinator import imports, performer
from helios.coordinator.sweep import REGISTER
from helios.ports.failpoints import Point
from helios.ports.records import CANCELS
from helios.ports.store import Put

OWN = {b"one", b"two", b"three"}


async def test_what_a_power_cut_brings_back_to_a_joining_server_is_not_copied_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its keys of earlier batches had left it, and clients have deleted some of them since."""
    monkeypatch.setattr(imports, "_BATCH_KEYS", 1)
    monkeypatch.setattr(imports, "SCAN_COUNT", 1)
    latch = Latch()
    async with memory_shards(["a"], latch, a=9, c=9) as cluster:
        a, c = cluster.servers["a"], cluster.servers["c"]
        for key in OWN:
            c.set(key, b"old")
        c.sync()
        latch.arm(Point.IMPORTING)
        added = await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        latch.open()
        latch.arm(Point.IMPORTING)  # of the second batch
        await latch.reached.wait()
        (left,) = OWN - set(c.keys())
        a.delete([left])
        await cluster.stop_coordinator()
        c.crash(lose_unsynced=True)
        c.restart()
        assert c.get(left) == b"old"
        cluster.coordinate()

        async def ended() -> bool:
            return await rests(cluster.store)

        await eventually(ended, "the import ends")
        assert a.get(left) is None
        assert c.get(left) == b"old"
        change = await cluster.admin.change(added.change)
        assert change.status == "failed"
        assert "was started anew, and keys that had left it may be back there" in (change.message or "")


async def test_a_joining_server_may_be_started_anew_before_any_key_has_left_it() -> None:
    latch = Latch()
    async with memory_shards(["a"], latch, a=9, c=9) as cluster:
        a, c = cluster.servers["a"], cluster.servers["c"]
        for key in OWN:
            c.set(key, b"old")
        latch.arm(Point.IMPORT_COPIED)
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        await cluster.stop_coordinator()
        c.crash()
        c.restart()
        a.delete([b"one"])
        cluster.coordinate()

        async def ended() -> bool:
            return await rests(cluster.store)

        await eventually(ended, "the import ends")
        assert (await cluster.topology()).node("c") is not None
        assert {key for key in OWN if a.get(key) or c.get(key)} == OWN - {b"one"}


async def _ended(cluster: MemoryShards, added: ChangeView) -> ChangeView:
    async def over() -> bool:
        return (await cluster.admin.change(added.change)).status in ("failed", "cancelled")

    await eventually(over, "the import ends")
    return await cluster.admin.change(added.change)


async def test_no_power_cut_brings_back_the_register_of_an_import_that_has_failed() -> None:
    """Its batches had their registers deleted before, so that none was left to delete in the end."""
    async with memory_shards(["a"], a=9, c=9) as cluster:
        a, c = cluster.servers["a"], cluster.servers["c"]
        for key in OWN:
            c.set(key, b"old")
        a.set(b"two", b"in conflict")
        added = await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        assert "exist in the cluster too" in ((await _ended(cluster, added)).message or "")
        a.crash(lose_unsynced=True)
        assert a.get(REGISTER) is None


async def test_an_import_waits_for_an_owner_that_comes_back() -> None:
    """It goes on as a successor would: what clients have deleted meanwhile stays deleted."""
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9, c=9) as cluster:
        a, b, c = (cluster.servers[name] for name in "abc")
        own = {b"old:%d" % number for number in range(20)}
        for key in own:
            c.set(key, b"old")
        latch.arm(Point.IMPORT_COPIED)
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        deleted = {min(own & set(server.keys())) for server in (a, b)}
        for server in (a, b):
            server.delete(sorted(deleted))
        b.crash()
        latch.open()
        await asyncio.sleep(0)
        b.restart()

        async def joined() -> bool:
            return (await cluster.topology()).node("c") is not None and await rests(cluster.store)

        await eventually(joined, "the node joins")
        assert {key for key in own if a.get(key) or b.get(key) or c.get(key)} == own - deleted
        imported = [migration for migration in await cluster.admin.migrations() if migration.source_node == "c"]
        assert sum(migration.keys_moved for migration in imported) == len(own)


async def test_an_import_that_an_owner_fails_leaves_no_key_on_both_sides_without_naming_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks again brings back nothing that clients have deleted, but for what was named."""
    monkeypatch.setattr(performer, "IMPORT_ATTEMPTS_MAX", 1)
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9, c=9) as cluster:
        a, b, c = (cluster.servers[name] for name in "abc")
        own = {b"old:%d" % number for number in range(20)}
        for key in own:
            c.set(key, b"old")
        latch.arm(Point.IMPORT_COPIED)
        added = await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        b.crash()
        latch.open()
        change = await _ended(cluster, added)
        with_a = own & set(a.keys())
        assert with_a
        assert set(c.keys()) == own - with_a
        assert f"{len(own - with_a)} keys may be in the cluster, too" in (change.message or "")
        c.crash(lose_unsynced=True)
        assert set(c.keys()) == own - with_a
        assert a.get(REGISTER) is None


@pytest.mark.parametrize("successor", [False, True])
async def test_an_import_that_is_cancelled_leaves_no_key_on_both_sides(successor: bool) -> None:
    """Also where the coordinator died that had begun it, and the next one finds it cancelled."""
    latch = Latch()
    async with memory_shards(["a"], latch, a=9, c=9) as cluster:
        a, c = cluster.servers["a"], cluster.servers["c"]
        for key in OWN:
            c.set(key, b"old")
        latch.arm(Point.IMPORT_COPIED)
        added = await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        a.delete([b"one"])
        if successor:
            await cluster.stop_coordinator()
        await cluster.store.commit([Put(CANCELS + added.change, b"1")])
        if successor:
            cluster.coordinate()
        change = await _ended(cluster, added)
        assert change.message == "cancelled; what had moved stays in the cluster"
        assert not c.keys()
        assert a.get(REGISTER) is None
        assert {key for key in OWN if a.get(key)} == OWN - {b"one"}
