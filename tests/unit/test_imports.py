"""What an import makes of servers that lose their power, and what it leaves when it is not carried to its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.memory_shards import MemoryShards, memory_shards
from tests.shards import Latch, rests
from tests.waiting import until

from helios.admin.views import ChangeView
from helios.coordinator import imports, performer
from helios.coordinator.import_doubts import Doubts
from helios.coordinator.publisher import Publisher
from helios.coordinator.sweep import REGISTER
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.failpoints import Point
from helios.ports.records import CANCELS, DOUBTS, TERM
from helios.ports.store import Put
from helios.runtime.clock import SystemClock

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

        await until(ended, "the import ends")
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

        await until(ended, "the import ends")
        assert (await cluster.topology()).node("c") is not None
        assert {key for key in OWN if a.get(key) or c.get(key)} == OWN - {b"one"}


async def _ended(cluster: MemoryShards, added: ChangeView) -> ChangeView:
    async def over() -> bool:
        return (await cluster.admin.change(added.change)).status in ("failed", "cancelled")

    await until(over, "the import ends")
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

        await until(joined, "the node joins")
        assert {key for key in own if a.get(key) or b.get(key) or c.get(key)} == own - deleted
        imported = [migration for migration in await cluster.admin.migrations() if migration.source_node == "c"]
        assert sum(migration.keys_moved for migration in imported) == len(own)


async def test_an_import_that_an_owner_fails_leaves_no_key_on_both_sides_without_naming_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever asks again brings back nothing that clients have deleted, though only some of it was named."""
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
        for server in (b, c):
            server.restart()
        with_b = own & set(b.keys())
        assert with_b == own - with_a
        deleted = set(sorted(with_b)[1:])
        b.delete(sorted(deleted))
        c.set(b"new", b"old")  # what is in no doubt goes its way
        again = await _ended(cluster, await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True))
        assert f"; {len(with_b)} keys may be in the cluster, too" in (again.message or "")
        assert "No import takes them: set in the cluster what is to come" in (again.message or "")
        assert set(c.keys()) == with_b
        assert own & set(b.keys()) == with_b - deleted
        assert a.get(b"new") or b.get(b"new")
        c.delete(sorted(with_b))

        async def joined() -> bool:
            return (await cluster.topology()).node("c") is not None and await rests(cluster.store)

        await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await until(joined, "the node joins")
        assert not (await cluster.store.list(DOUBTS)).entries
        assert {key for key in own if a.get(key) or b.get(key) or c.get(key)} == own - deleted


@pytest.mark.parametrize("decided", ["deleted", "flushed"])
async def test_what_an_import_has_left_is_in_doubt_until_it_is_gone(decided: str) -> None:
    async with memory_shards(["a"], a=9, c=9) as cluster:
        a, c = cluster.servers["a"], cluster.servers["c"]
        member = Member("c-1", "c", cluster.addresses["c"])
        term = await cluster.store.get(TERM)
        assert term is not None
        publisher = await Publisher.open(cluster.store, SystemClock(), int(term.value), term.version)
        for same in (member, replace(member, node="other"), replace(member, address=Address("elsewhere", 1))):
            doubts = Doubts(publisher, same)
            await doubts.note({b"one"} | await doubts.read())
            await doubts.note({b"two"} | await doubts.read())
        assert await Doubts(publisher, member).read() == {b"one", b"two"}
        assert not await Doubts(publisher, Member("d-1", "d", Address("d", 1))).read()
        for key in OWN:
            c.set(key, b"old")
        if decided == "deleted":
            c.delete([b"one"])
            change = await _ended(
                cluster, await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
            )
            assert "1 keys may be in the cluster, too" in (change.message or "")
            assert c.keys() == [b"two"]
            assert a.get(b"three") == b"old"
            assert await Doubts(publisher, member).read() == {b"two"}
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), flush=True)

        async def joined() -> bool:
            return (await cluster.topology()).node("c") is not None

        await until(joined, "the node joins")
        assert not await Doubts(publisher, member).read()


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
