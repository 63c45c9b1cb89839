"""A coordinator that dies while it takes the keys of a joining server over: its successor goes on where it stood."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from tests.shards import Latch, eventually, running_shards

from helios.coordinator import imports, performer
from helios.coordinator.sweep import REGISTER
from helios.model.migration import Change
from helios.ports.failpoints import Point
from helios.ports.records import CANCELS, CHANGES, IMPORTS, list_records
from helios.ports.store import Put

OWN = {f"old:{n}".encode(): b"%d" % n for n in range(1000)}


@pytest.mark.parametrize("point", [Point.IMPORT_COPIED, Point.IMPORTING])
async def test_what_clients_have_deleted_meanwhile_does_not_come_back(tmp_path: Path, point: Point) -> None:
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        latch.arm(point)
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        [coordinator] = shards.coordinators
        coordinator.cancel()
        with suppress(asyncio.CancelledError):
            await coordinator

        # The keys are their owners' already, and clients use them.
        contents = await shards.contents()
        for shard in ("shard-1", "shard-2"):
            contents[shard].pop(REGISTER, None)
        assert contents["legacy"] == contents["shard-1"] | contents["shard-2"] == OWN
        deleted = sorted(OWN)[:100]
        changed = dict.fromkeys(sorted(OWN)[100:200], b"newer")
        for shard in ("shard-1", "shard-2"):
            await shards.execute(shard, "DEL", *deleted)
        await shards.fill(changed)

        shards.coordinate("successor")

        async def joined() -> bool:
            return (await shards.topology()).node("legacy") is not None

        await eventually(joined, "the successor takes the node in")
        await shards.settled()
        migrations = [m for m in await shards.admin.migrations() if m.source_node == "legacy"]
        assert sorted(m.target_node for m in migrations) == ["shard-1", "shard-2"]
        await shards.assert_whole({key: value for key, value in (OWN | changed).items() if key not in deleted})


async def test_a_batch_that_was_begun_is_ended_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The successor finds the keys in another order, and none of those that were copied is a conflict."""
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        latch.arm(Point.IMPORT_COPIED)
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        [coordinator] = shards.coordinators
        coordinator.cancel()
        with suppress(asyncio.CancelledError):
            await coordinator
        monkeypatch.setattr(imports, "_BATCH_KEYS", 1)
        monkeypatch.setattr(imports, "SCAN_COUNT", 100)
        shards.coordinate("successor")

        async def joined() -> bool:
            return (await shards.topology()).node("legacy") is not None

        await eventually(joined, "the successor takes the node in", timeout_s=20)
        await shards.settled()
        await shards.assert_whole(OWN)


async def test_nothing_is_left_of_an_import_that_was_cancelled(tmp_path: Path) -> None:
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        latch.arm(Point.IMPORT_COPIED)
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        [change] = [r.value for r in await list_records(shards.store, Change, CHANGES) if r.value.import_keys]
        await shards.store.commit([Put(CANCELS + change.id, b"")])
        await shards.settled()
        assert not any(REGISTER in pairs for pairs in (await shards.contents()).values())


async def test_no_key_comes_back_to_an_owner_that_was_emptied(tmp_path: Path) -> None:
    """With its register gone nobody knows what it has had: those keys stay, and a person is asked."""
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        latch.arm(Point.IMPORT_COPIED)
        added = await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        [coordinator] = shards.coordinators
        coordinator.cancel()
        with suppress(asyncio.CancelledError):
            await coordinator
        before = await shards.contents()
        owned = sorted(before["shard-1"].keys() - {REGISTER})
        await shards.execute("shard-1", "FLUSHALL")
        # This one a client has written since, so nothing is in doubt about it.
        await shards.execute("shard-1", "SET", owned[0], "newer")
        deleted = sorted(before["shard-2"].keys() - {REGISTER})[0]
        await shards.execute("shard-2", "DEL", deleted)

        shards.coordinate("successor")
        await shards.settled()
        change = await shards.admin.change(added.change)
        assert change.status == "failed"
        assert (change.message or "").startswith(
            f"shard-1 lost keys, and the coordinator stopped, during the import from {node.address}: "
            f"{len(owned) - 1} keys may have been deleted in the cluster, and were left where they are"
        )
        assert (await shards.topology()).node("legacy") is None
        contents = await shards.contents()
        assert contents["legacy"] == OWN
        assert contents["shard-1"] == {owned[0]: b"newer"}
        assert contents["shard-2"] == {
            key: value for key, value in before["shard-2"].items() if key not in (REGISTER, deleted)
        }
        assert not (await shards.store.list(IMPORTS)).entries


async def test_a_register_that_another_import_has_left_keeps_no_key_back(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        for shard in ("shard-1", "shard-2"):
            await shards.execute(shard, "SADD", REGISTER, *OWN)
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)

        async def joined() -> bool:
            return (await shards.topology()).node("legacy") is not None

        await eventually(joined, "the node joins", timeout_s=20)
        await shards.settled()
        await shards.assert_whole(OWN)


async def test_a_register_goes_that_could_not_be_deleted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import fails as its owners are down; their servers are unclean until they answer."""
    monkeypatch.setattr(performer, "_CLEAN_AGAIN_S", 0.1)
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        latch.arm(Point.IMPORT_COPIED)
        added = await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        for shard in ("shard-1", "shard-2"):
            assert await shards.execute(shard, "EXISTS", REGISTER) == 1
            shards.servers[shard].kill()
        latch.open()

        async def failed() -> bool:
            return (await shards.admin.change(added.change)).status == "failed"

        await eventually(failed, "the import fails", timeout_s=60)
        assert (await shards.topology()).unclean >= {"shard-1", "shard-2"}
        for shard in ("shard-1", "shard-2"):
            shards.servers[shard].start()

        async def clean() -> bool:
            return not (await shards.topology()).unclean

        await eventually(clean, "the servers are swept", timeout_s=20)
        assert not any(REGISTER in pairs for pairs in (await shards.contents()).values())
