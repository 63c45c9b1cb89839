"""What a coordinator forgets, so that the store of a cluster that runs for years stays small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from tests.etcd_servers import etcd_servers, has_etcd

from helios.coordinator.maintenance import KEPT, KEPT_S, Maintenance
from helios.coordinator.publisher import Publisher
from helios.errors import StoreError
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationStatus
from helios.ports.records import CANCELS, CHANGES, IMPORTS, MIGRATIONS, PAUSES, TERM, put_record
from helios.ports.store import Put, Store
from helios.runtime.clock import SystemClock
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access
from helios.stores.memory import MemoryStore

CLOCK = SystemClock()
QUOTA_BYTES = 16 << 20


async def publisher_of(store: Store) -> Publisher:
    return await Publisher.open(store, CLOCK, 1, await store.commit([Put(TERM, b"1")]))


def change(name: str, status: ChangeStatus, at: float) -> Put:
    return put_record(CHANGES + name, Change(name, ChangeKind.REBALANCE, status, requested_at=at))


def migration(name: str, of: str, status: MigrationStatus, at: float) -> Put:
    return put_record(MIGRATIONS + name, Migration(name, of, "a", "b", status=status, end_time=at))


async def names(store: Store, prefix: str) -> list[str]:
    return [entry.key.removeprefix(prefix) for entry in (await store.list(prefix)).entries]


async def test_the_newest_of_what_has_ended_stays_and_so_does_all_that_runs() -> None:
    store = MemoryStore()
    publisher = await publisher_of(store)
    now, long_ago = CLOCK.wall(), CLOCK.wall() - 2 * KEPT_S
    await publisher.write_apart(
        [
            change("0-old", ChangeStatus.DONE, long_ago),
            change("1-runs", ChangeStatus.RUNNING, long_ago),
            migration("0-old", "0-old", MigrationStatus.COMPLETED, long_ago),
            migration("0-recent", "2-recent", MigrationStatus.COMPLETED, now),
            migration("1-of-what-runs", "1-runs", MigrationStatus.COMPLETED, long_ago),
            change("2-recent", ChangeStatus.DONE, now),
            *(change(f"3-{n:04}", ChangeStatus.REFUSED, long_ago) for n in range(KEPT)),
            *(migration(f"3-{n:04}", f"3-{n:04}", MigrationStatus.FAILED, long_ago) for n in range(KEPT)),
            *(Put(prefix + name, b"1") for prefix in (CANCELS, PAUSES, IMPORTS) for name in ("0-old", "1-runs")),
            Put(IMPORTS + "1-runs/1/000", b"part"),
            Put(IMPORTS + "gone/1/000", b"part"),
        ]
    )
    maintenance = Maintenance(publisher, CLOCK)
    await maintenance.forget_ended()
    newest = [f"3-{n:04}" for n in range(KEPT)]
    assert await names(store, CHANGES) == ["1-runs", "2-recent", *newest]
    assert await names(store, MIGRATIONS) == ["0-recent", "1-of-what-runs", *newest]
    assert [await names(store, prefix) for prefix in (CANCELS, PAUSES)] == [["1-runs"], ["1-runs"]]
    assert await names(store, IMPORTS) == ["1-runs", "1-runs/1/000"]
    before = (await store.list("")).revision
    await maintenance.forget_ended()
    assert (await store.list("")).revision == before


async def space_is_free(endpoints: Sequence[str]) -> None:
    """Wait until etcd has freed what was compacted, which it does in the background, as slowly as it likes."""
    async with httpx.AsyncClient() as client:
        for endpoint in endpoints:
            in_use = QUOTA_BYTES
            while in_use > QUOTA_BYTES // 2:
                status = await client.post(f"{endpoint}/v3/maintenance/status", json={})
                in_use = int(status.json()["dbSizeInUse"])


@pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")
async def test_etcd_does_not_fill_up_however_much_is_written(tmp_path: Path) -> None:
    with etcd_servers(tmp_path, options=("--quota-backend-bytes", str(QUOTA_BYTES))) as servers:
        store = await EtcdStore.open(Access(tuple(servers.addresses)), "x")
        maintenance = Maintenance(await publisher_of(store), CLOCK)
        # Much larger ones would need gaps of that size in its file, which grows where there are none.
        record, written = bytes(50_000), 0
        while written < 4 * QUOTA_BYTES:
            for n in range(40):
                await store.commit([Put(f"/{n}", record)])
                written += len(record)
            await maintenance.compact()
            await space_is_free(servers.addresses)
        with pytest.raises(StoreError, match=r"its quota is used up: see helios doctor --store"):
            for _ in range(2 * QUOTA_BYTES // len(record)):
                await store.commit([Put("/0", record)])
        await store.close()
