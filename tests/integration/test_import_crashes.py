"""A coordinator that dies while it takes the keys of a joining server over: its successor goes on where it stood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.shards import Latch, Shards, running_shards
from tests.waiting import until

from helios.admin.views import ChangeView
from helios.coordinator import imports, performer
from helios.coordinator.sweep import REGISTER
from helios.model.migration import Change
from helios.ports.failpoints import Point
from helios.ports.records import CANCELS, CHANGES, IMPORTS, list_records
from helios.ports.store import Put

OWN = {f"old:{n}".encode(): b"%d" % n for n in range(1000)}


async def legacy(shards: Shards) -> str:
    """The address of a server with keys that is to join."""
    node = await shards.server("legacy", supervised=False)
    await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
    return str(node.address)


@asynccontextmanager
async def importing(
    folder: Path, point: Point = Point.IMPORT_COPIED
) -> AsyncIterator[tuple[Shards, ChangeView, Latch]]:
    """Two shards that take the keys of a server over, stopped at a point of that by a latch."""
    latch = Latch()
    async with running_shards(folder, 2, latch, fsync="always") as shards:
        address = await legacy(shards)
        latch.arm(point)
        added = await shards.admin.add_node("legacy", address, import_keys=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        yield shards, added, latch


async def end_coordinator(shards: Shards) -> None:
    """The coordinator dies where it stands."""
    [coordinator] = shards.coordinators
    coordinator.cancel()
    with suppress(asyncio.CancelledError):
        await coordinator


async def joined(shards: Shards) -> None:
    """Return when the server is a node and nothing moves any more."""

    async def there() -> bool:
        return (await shards.topology()).node("legacy") is not None

    await until(there, "the node joins", limit_s=20)
    await shards.settled()


@pytest.mark.parametrize("point", [Point.IMPORT_COPIED, Point.IMPORTING])
async def test_what_clients_have_deleted_meanwhile_does_not_come_back(tmp_path: Path, point: Point) -> None:
    async with importing(tmp_path, point) as (shards, _, _):
        await end_coordinator(shards)

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
        await joined(shards)
        migrations = [m for m in await shards.admin.migrations() if m.source_node == "legacy"]
        assert sorted(m.target_node for m in migrations) == ["shard-1", "shard-2"]
        await shards.assert_whole({key: value for key, value in (OWN | changed).items() if key not in deleted})


async def test_a_batch_that_was_begun_is_ended_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The successor finds the keys in another order, and none of those that were copied is a conflict."""
    async with importing(tmp_path) as (shards, _, _):
        await end_coordinator(shards)
        monkeypatch.setattr(imports, "_BATCH_KEYS", 1)
        monkeypatch.setattr(imports, "SCAN_COUNT", 100)
        shards.coordinate("successor")
        await joined(shards)
        await shards.assert_whole(OWN)


async def test_nothing_is_left_of_an_import_that_was_cancelled(tmp_path: Path) -> None:
    async with importing(tmp_path) as (shards, _, _):
        [change] = [r.value for r in await list_records(shards.store, Change, CHANGES) if r.value.import_keys]
        await shards.store.commit([Put(CANCELS + change.id, b"")])
        await shards.settled()
        assert not any(REGISTER in pairs for pairs in (await shards.contents()).values())


async def test_no_key_comes_back_to_an_owner_that_was_emptied(tmp_path: Path) -> None:
    """With its register gone nobody knows what it has had: those keys stay, and a person is asked."""
    async with importing(tmp_path) as (shards, added, _):
        await end_coordinator(shards)
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
            "shard-1 lost keys, and the coordinator stopped, during the import from "
            f"127.0.0.1:{shards.servers['legacy'].port}; "
            f"{len(owned) - 1} keys may be in the cluster, too, or have been deleted there by clients, and were left at"
        )
        assert (await shards.topology()).node("legacy") is None
        contents = await shards.contents()
        assert contents["legacy"] == {key: OWN[key] for key in owned[1:]}
        assert contents["shard-1"] == {owned[0]: b"newer"}
        assert contents["shard-2"] == {
            key: value for key, value in before["shard-2"].items() if key not in (REGISTER, deleted)
        }
        assert not (await shards.store.list(IMPORTS)).entries


async def test_a_register_that_another_import_has_left_keeps_no_key_back(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2, fsync="always") as shards:
        address = await legacy(shards)
        for shard in ("shard-1", "shard-2"):
            await shards.execute(shard, "SADD", REGISTER, *OWN)
        await shards.admin.add_node("legacy", address, import_keys=True)
        await joined(shards)
        await shards.assert_whole(OWN)


async def test_a_register_goes_that_could_not_be_deleted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import fails as its owners are down; their servers are unclean until they answer."""
    monkeypatch.setattr(performer, "_CLEAN_AGAIN_S", 0.1)
    monkeypatch.setattr(performer, "IMPORT_ATTEMPTS_MAX", 1)
    async with importing(tmp_path) as (shards, added, latch):
        for shard in ("shard-1", "shard-2"):
            assert await shards.execute(shard, "EXISTS", REGISTER) == 1
            shards.servers[shard].kill()
        latch.open()

        async def failed() -> bool:
            return (await shards.admin.change(added.change)).status == "failed"

        await until(failed, "the import fails", limit_s=60)
        assert (await shards.topology()).unclean >= {"shard-1", "shard-2"}
        for shard in ("shard-1", "shard-2"):
            shards.servers[shard].start()

        async def clean() -> bool:
            return not (await shards.topology()).unclean

        await until(clean, "the servers are swept", limit_s=20)
        assert not any(REGISTER in pairs for pairs in (await shards.contents()).values())
