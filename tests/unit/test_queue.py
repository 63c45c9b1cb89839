"""Requests that are taken back before their answer: nothing of them may happen."""

from __future__ import annotations

import pytest

from helios.control.admission import Policy
from helios.control.rebalance import Rebalancing
from helios.coordinator.access import Access
from helios.coordinator.publisher import Publisher
from helios.coordinator.queue import Queue
from helios.engines.memory import MemoryConnector
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Node, NodeKind
from helios.ports.store import Delete, Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore
from helios.stores.records import CHANGES, TERM, TOPOLOGY, Record, put_record, read_record

KEY = CHANGES + "request"


async def nothing_to_do(_change: Change) -> tuple[Rebalancing | None, str]:
    """The plan of a cluster that is balanced."""
    return None, "nothing to do"


async def queue_over(store: MemoryStore) -> Queue:
    """A queue in its first term."""
    term_version = await store.commit([Put(TERM, b"1")])
    publisher = await Publisher.open(store, 1, term_version)
    access = Access(MemoryConnector({}), publisher)
    return Queue(publisher, access, SystemClock(), lambda: Policy(2), lambda: "id", nothing_to_do)


async def submitted(store: MemoryStore) -> Record[Change]:
    """The request to found a cluster, as the coordinator reads it."""
    node = Node("shard-1", Address("server", 7001), NodeKind.EXTERNAL)
    await store.commit([put_record(KEY, Change("request", ChangeKind.FOUND, nodes=(node,)))])
    record = await read_record(store, Change, KEY)
    assert record is not None
    return record


async def test_a_request_is_admitted() -> None:
    store = MemoryStore()
    queue = await queue_over(store)
    assert await queue.take(await submitted(store))
    record = await read_record(store, Change, KEY)
    assert record is not None
    assert record.value.status is ChangeStatus.DONE


@pytest.mark.parametrize("again", [False, True])
async def test_a_request_that_was_withdrawn_never_happens(again: bool) -> None:
    store = MemoryStore()
    queue = await queue_over(store)
    request = await submitted(store)
    before = await store.get(TOPOLOGY)
    await store.commit([Delete(KEY)])
    if again:  # Somebody wrote there after it: that is another request.
        await submitted(store)
    assert not await queue.take(request)
    assert await store.get(TOPOLOGY) == before
    left = await read_record(store, Change, KEY)
    assert (left is not None) == again
    assert left is None or left.value.status is ChangeStatus.SUBMITTED
