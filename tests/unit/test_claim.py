"""The claim on a node: one process of all hosts runs it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from helios.errors import StartError
from helios.model.ids import Address
from helios.node.claim import NodeClaim, this_process
from helios.node.files import DataFolder
from helios.ports.records import RUNNING, RunningRecord, put_record, read_record
from helios.stores.memory import MemoryStore

ADDRESS = Address("10.0.0.1", 6379)
LEASE_S = 1.0


def me(folder: Path) -> RunningRecord:
    node = DataFolder(folder).node("shard-1")
    node.root.mkdir(parents=True, exist_ok=True)
    return this_process("shard-1", ADDRESS, node)


async def holder(store: MemoryStore) -> RunningRecord | None:
    record = await read_record(store, RunningRecord, RUNNING + "shard-1")
    return None if record is None else record.value


async def died(store: MemoryStore, who: RunningRecord, lease_s: float = LEASE_S) -> None:
    """A process claims the node and is gone before it could give it up."""
    lease = await store.grant(lease_s)
    await store.commit([put_record(RUNNING + "shard-1", who, lease)])


async def test_a_node_that_runs_elsewhere_is_not_started(tmp_path: Path) -> None:
    store, told = MemoryStore(), list[str]()
    first, second = me(tmp_path / "a"), me(tmp_path / "b")
    claim = NodeClaim(store, first, LEASE_S)
    await claim.take(told.append)
    assert told == []
    with pytest.raises(StartError, match=r"the node shard-1 runs on \S+ at 10.0.0.1:6379 \(process \d+, .*\) already"):
        await NodeClaim(store, second, LEASE_S).take(told.append)
    assert len(told) == 1 and "waiting for the end of its lease" in told[0]
    assert await holder(store) == first
    await claim.release()
    other = NodeClaim(store, second, LEASE_S)
    await other.take(told.append)
    assert await holder(store) == second
    await other.release()


async def test_one_whose_host_has_died_is_waited_for(tmp_path: Path) -> None:
    store, told = MemoryStore(), list[str]()
    await died(store, replace(me(tmp_path / "a"), boot="another"))
    last = NodeClaim(store, me(tmp_path / "a"), LEASE_S)
    await last.take(told.append)
    assert len(told) == 1
    assert await holder(store) == me(tmp_path / "a")
    await last.release()


async def test_the_next_process_on_the_same_folder_need_not_wait(tmp_path: Path) -> None:
    store, told = MemoryStore(), list[str]()
    await died(store, me(tmp_path / "a"), 60.0)
    claim = NodeClaim(store, replace(me(tmp_path / "a"), pid=1), 60.0)
    await claim.take(told.append)
    found = await holder(store)
    assert told == [] and found is not None and found.pid == 1
    await claim.release()


async def test_a_host_that_was_cut_off_goes_on_unless_the_node_was_started_elsewhere(tmp_path: Path) -> None:
    store, told = MemoryStore(), list[str]()
    claim = NodeClaim(store, me(tmp_path / "a"), LEASE_S)
    await claim.take(told.append)
    await store.revoke(claim._lease)
    async with asyncio.timeout(10):
        await anext(store.watch(RUNNING, (await store.list("")).revision))
    # Now somebody is quicker.
    await store.revoke(claim._lease)
    await died(store, me(tmp_path / "b"), 60.0)
    with pytest.raises(StartError, match="while this host was cut off, the node was started elsewhere"):
        await asyncio.wait_for(claim.lost(), 10)
