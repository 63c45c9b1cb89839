"""A coordinator that dies while it takes the keys of a joining server over: its successor goes on where it stood."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from tests.shards import Latch, eventually, running_shards

from helios.coordinator import imports
from helios.coordinator.imports import REGISTER
from helios.model.migration import Change
from helios.ports.failpoints import Point
from helios.ports.records import CANCELS, CHANGES, list_records
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
