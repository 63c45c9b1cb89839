"""Cancelling at every point of a move, and undoing: the keys are where they were, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.shards import Latch, Shards, running_shards
from tests.waiting import until

from helios.admin.views import MigrationView
from helios.errors import Refused
from helios.model.topology import NodeState
from helios.ports.failpoints import Point
from helios.ports.records import CANCELS

PAIRS = {f"user:{n}".encode(): f"value {n}".encode() for n in range(1500)} | {
    f"order:{n}".encode(): f"order {n}".encode() for n in range(500)
}
BEFORE = (Point.COPYING, Point.CATCHING_UP, Point.FENCED, Point.ACKNOWLEDGED)


@asynccontextmanager
async def filled(folder: Path, nodes: int) -> AsyncIterator[tuple[Shards, Latch]]:
    latch = Latch()
    async with running_shards(folder, nodes, latch, fsync="always") as shards:
        await shards.fill(PAIRS)
        yield shards, latch


async def begun(shards: Shards, latch: Latch, point: Point) -> MigrationView:
    """A move of a pattern that stands at the point."""
    latch.arm(point)
    view = await shards.admin.migrate("shard-1", "shard-2", "user:*")
    await asyncio.wait_for(latch.reached.wait(), 20)
    return view


@pytest.mark.parametrize("point", BEFORE)
async def test_a_move_is_cancelled_before_its_switch(tmp_path: Path, point: Point) -> None:
    async with filled(tmp_path, 2) as (shards, latch):
        before = await shards.contents()
        view = await begun(shards, latch, point)
        # The latch stays closed: whoever waits there is ended, not waited for.
        cancelled = await shards.admin.cancel_migration(view.id)
        assert (cancelled.status, cancelled.error) == ("cancelled", "cancelled by request")
        await shards.settled()
        assert await shards.contents() == before
        topology = await shards.topology()
        assert topology.placement.rules == ()
        assert topology.transition is None
        with pytest.raises(Refused, match="is cancelled already"):
            await shards.admin.cancel_migration(view.id)

        # Nothing stands in the way of trying again.
        await shards.admin.migrate("shard-1", "shard-2", "user:*")
        await shards.settled()
        await shards.assert_whole(PAIRS)
        assert not any(key.startswith(b"user:") for key in (await shards.contents())["shard-1"])


@pytest.mark.parametrize("point", [Point.BEFORE_SWITCH, Point.AFTER_SWITCH, Point.SWEEPING])
async def test_a_cancellation_that_comes_too_late_changes_nothing(tmp_path: Path, point: Point) -> None:
    async with filled(tmp_path, 2) as (shards, latch):
        view = await begun(shards, latch, point)
        cancelling = asyncio.create_task(shards.admin.cancel_migration(view.id))
        await until(lambda: _noted(shards), "the wish is in the store")
        latch.open()
        assert (await cancelling).status == "completed"
        await shards.settled()
        await shards.assert_whole(PAIRS)
        assert not any(key.startswith(b"user:") for key in (await shards.contents())["shard-1"])

        # What brings the keys back then is the opposite move, and it leaves nothing of the first.
        await shards.admin.migrate("shard-2", "shard-1", "user:*")
        await shards.settled()
        await shards.assert_whole(PAIRS)
        assert (await shards.topology()).placement.rules == ()


@pytest.mark.parametrize("point", [Point.FENCED, Point.AFTER_SWITCH])
async def test_cancelling_when_some_pairs_have_switched_brings_their_keys_back(tmp_path: Path, point: Point) -> None:
    async with filled(tmp_path, 3) as (shards, latch):
        before = await shards.contents()
        node = await shards.server("shard-4")
        latch.arm(Point.AFTER_SWITCH)
        view = await shards.admin.add_node("shard-4", str(node.address))
        assert len(view.migrations) == 3
        await asyncio.wait_for(latch.reached.wait(), 20)
        if point is Point.FENCED:
            latch.open()
            latch.arm(point)
            await asyncio.wait_for(latch.reached.wait(), 20)
        cancelling = asyncio.create_task(shards.admin.cancel_migration(view.migrations[0]))
        await until(lambda: _noted(shards), "the wish is in the store")
        latch.open()
        await cancelling
        await shards.settled()
        assert await shards.contents() == before | {"shard-4": {}}
        migrations = {m.id: m for m in await shards.admin.migrations() if m.id in view.migrations}
        assert {m.status for m in migrations.values()} == {"cancelled"}
        ways_back = [m for m in await shards.admin.migrations() if m.source_node == "shard-4"]
        assert [m.status for m in ways_back] == ["completed"] * len(ways_back) != []


async def test_a_paused_drain_that_is_cancelled_half_way_goes_back_by_itself(tmp_path: Path) -> None:
    async with filled(tmp_path, 3) as (shards, latch):
        before = await shards.contents()
        latch.arm(Point.AFTER_SWITCH)
        view = await shards.admin.remove_node("shard-3")
        await asyncio.wait_for(latch.reached.wait(), 20)
        await shards.admin.pause_migration(view.migrations[0])

        async def paused() -> bool:
            return (await shards.admin.migration(view.migrations[0])).paused

        await until(paused, "the drain is paused")
        cancelling = asyncio.create_task(shards.admin.cancel_migration(view.migrations[0]))
        await until(lambda: _noted(shards), "the wish is in the store")
        latch.open()
        await cancelling
        await shards.settled()
        assert await shards.contents() == before
        topology = await shards.topology()
        assert [node.state for node in topology.nodes] == [NodeState.ACTIVE] * 3
        assert not any(migration.paused for migration in await shards.admin.migrations())


async def _noted(shards: Shards) -> bool:
    return bool((await shards.store.list(CANCELS)).entries)
