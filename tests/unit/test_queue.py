"""Requests that are taken back before their answer: nothing of them may happen."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from helios.control.admission import Policy
from helios.control.rebalance import Rebalancing
from helios.coordinator.access import Access
from helios.coordinator.publisher import Publisher
from helios.coordinator.queue import Queue
from helios.engines.memory import MemoryConnector, MemoryServer
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Node, NodeKind, NodeState
from helios.ports.records import CHANGES, TERM, TOPOLOGY, Record, put_record, read_record
from helios.ports.store import Delete, Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

KEY = CHANGES + "request"
ADDRESS = Address("server", 7001)


async def nothing_to_do(_change: Change) -> tuple[Rebalancing | None, str]:
    """The plan of a cluster that is balanced."""
    return None, "nothing to do"


async def publisher_over(store: MemoryStore) -> Publisher:
    """A publisher in its first term."""
    return await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")]))


async def queue_over(store: MemoryStore, server: MemoryServer | None = None) -> Queue:
    """A queue in its first term."""
    publisher = await publisher_over(store)
    access = Access(MemoryConnector({ADDRESS: server or MemoryServer("server", wall=time.time)}), publisher)
    return Queue(publisher, access, SystemClock(), lambda: Policy(2), lambda: "id", nothing_to_do)


async def submitted(store: MemoryStore) -> Record[Change]:
    """The request to found a cluster, as the coordinator reads it."""
    node = Node("shard-1", ADDRESS, NodeKind.EXTERNAL)
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


async def test_no_cluster_is_founded_over_keys() -> None:
    store, server = MemoryStore(), MemoryServer("server", wall=time.time)
    queue = await queue_over(store, server)
    server.set(b"key", b"value")
    assert not await queue.take(await submitted(store))
    record = await read_record(store, Change, KEY)
    assert record is not None
    assert record.value.status is ChangeStatus.REFUSED
    assert "shard-1 holds 1 keys, and the store knows of no cluster" in (record.value.error or "")
    assert server.get(b"key") == b"value"


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


async def test_a_request_is_refused_if_it_makes_no_sense_any_more_when_it_is_published() -> None:
    """Between a look at the topology and its change a transition may begin: here the drain of the other node."""
    store = MemoryStore()
    publisher = await publisher_over(store)
    nodes = tuple(Node(name, Address(name, 7001), NodeKind.EXTERNAL) for name in ("a", "b"))
    await publisher.publish(lambda topology: replace(topology, nodes=nodes))

    def policy() -> Policy:
        drained = replace(nodes[0], state=NodeState.DRAINED)
        publisher.topology = replace(publisher.topology, nodes=(drained, nodes[1]))
        return Policy(2)

    access = Access(MemoryConnector({}), publisher)
    queue = Queue(publisher, access, SystemClock(), policy, lambda: "id", nothing_to_do)
    await store.commit([put_record(KEY, Change("request", ChangeKind.REMOVE_NODE, node="b"))])
    record = await read_record(store, Change, KEY)
    assert record is not None
    assert not await queue.take(record)
    answered = await read_record(store, Change, KEY)
    assert answered is not None
    assert answered.value.status is ChangeStatus.REFUSED
    assert answered.value.error == (
        "REFUSED b is the last node: its keys would have nowhere to go; add another node first"
    )
    assert queue.next() is None


@pytest.mark.parametrize("state", [NodeState.ACTIVE, NodeState.DRAINED])
async def test_a_removal_that_is_cancelled_in_the_queue_leaves_the_node_as_it_was(state: NodeState) -> None:
    store = MemoryStore()
    publisher = await publisher_over(store)
    nodes = (
        Node("a", Address("a", 7001), NodeKind.EXTERNAL),
        Node("b", Address("b", 7001), NodeKind.EXTERNAL, state),
    )
    await publisher.publish(lambda topology: replace(topology, nodes=nodes))
    access = Access(MemoryConnector({}), publisher)
    queue = Queue(publisher, access, SystemClock(), lambda: Policy(2), lambda: "id", nothing_to_do)
    await store.commit([put_record(KEY, Change("request", ChangeKind.REMOVE_NODE, node="b"))])
    record = await read_record(store, Change, KEY)
    assert record is not None
    assert await queue.take(record)
    assert publisher.topology.nodes[1].state is NodeState.DRAINING
    assert await queue.cancel("request")
    assert publisher.topology.nodes == nodes
