"""A shard leaves the cluster while somebody looks for another leader of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.waiting import until

from helios.control.mutations import Finish
from helios.coordinator.failover import Failover
from helios.coordinator.following import Following
from helios.coordinator.publisher import Publisher
from helios.coordinator.replicas import Replicas
from helios.coordinator.term_context import TermContext
from helios.engines.memory import MemoryConnector
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.settings import ClusterSettings
from helios.model.topology import Member, Node, NodeKind, NodeState, Placement, Shard, Term, Topology, Transition
from helios.ports.engine import Replication
from helios.ports.records import CHANGES, TERM, read_record
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

MEMBERS = (Member("s.0", "s", Address("s", 1)), Member("s@t", "t", Address("t", 3)))
LEFT = Shard("s", "s.0", MEMBERS, lineage=(Term("history", 0),))
STAYS = Shard("t", "t.0", (Member("t.0", "t", Address("t", 1)),))


async def publisher_without_the_shard() -> Publisher:
    store = MemoryStore()
    publisher = await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")]))
    await publisher.publish(
        lambda topology: replace(
            topology, nodes=(Node("t", Address("t", 2)),), shards=(STAYS,), placement=Placement(8, (("t", 1.0),))
        )
    )
    return publisher


def context_of(publisher: Publisher) -> TermContext:
    return TermContext(publisher, MemoryConnector({}), SystemClock(), ClusterSettings(), lambda: "name")


async def test_a_shard_that_has_left_gets_no_leader() -> None:
    publisher = await publisher_without_the_shard()
    context, before = context_of(publisher), publisher.topology
    failover = Failover(
        publisher,
        Following(context.access, context.clock),
        LEFT,
        quorum=True,
        fencing=context.fencing,
    )
    await failover.run()
    assert publisher.topology == before


async def test_who_accepts_the_loss_of_a_shard_that_has_left_is_told() -> None:
    publisher = await publisher_without_the_shard()
    replicas = Replicas(context_of(publisher))
    replicas.take([])
    looking = asyncio.create_task(replicas.run())
    asked = Change("promotion", ChangeKind.PROMOTE, ChangeStatus.QUEUED, shard="s", node="t", accept_loss=True)
    replicas.accept_loss(asked)

    async def answered() -> bool:
        return await publisher.store.get(CHANGES + asked.id) is not None

    try:
        await until(answered)
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
    record = await read_record(publisher.store, Change, CHANGES + asked.id)
    assert record is not None
    assert record.value.status is ChangeStatus.FAILED
    assert record.value.error == "s has left the cluster meanwhile"


async def test_the_server_of_an_external_node_that_leaves_during_a_look_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    publisher = await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")]))
    nodes = (Node("s", Address("s", 2), kind=NodeKind.EXTERNAL), Node("t", Address("t", 2)))
    led_elsewhere = replace(LEFT, leader="s@t")
    await publisher.publish(lambda _: Topology(1, nodes=nodes, shards=(led_elsewhere, STAYS)))
    told: list[str] = []
    left = asyncio.Event()

    async def look(following: Following, member: Member) -> Replication:
        if not left.is_set():
            await publisher.publish(lambda topology: replace(topology, nodes=nodes[1:], shards=(STAYS,)))
            left.set()
        return Replication(True, "history" if member.id == "s@t" else "its own", 1)

    async def tell(following: Following, member: Member, *_: object) -> None:
        told.append(member.id)

    monkeypatch.setattr(Following, "look", look)
    for change in ("follow", "detach", "lead"):
        monkeypatch.setattr(Following, change, tell)
    # By their records they would be told, too.
    monkeypatch.setattr(Replicas, "_absent", lambda replicas, shard: set())
    replicas = Replicas(context_of(publisher))
    replicas.take([])
    looking = asyncio.create_task(replicas.run())
    await left.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    assert told == []


@pytest.mark.parametrize(("fenced", "still"), [({"s"}, set()), ({"s", "t"}, {"t"}), ({"t"}, {"t"})])
def test_nobody_waits_for_a_leader_of_a_shard_that_leaves(fenced: set[str], still: set[str]) -> None:
    nodes = (Node("s", Address("s", 2), state=NodeState.DRAINING), Node("t", Address("t", 2)))
    leaves = Topology(
        1,
        nodes=nodes,
        shards=(LEFT, STAYS),
        placement=Placement(8, (("s", 1.0), ("t", 1.0))),
        transition=Transition("change", Placement(8, (("t", 1.0),)), (), leaving="s"),
        fenced_shards=frozenset(fenced),
    )
    finished = Finish(frozenset()).apply(leaves)
    assert finished.shards == (STAYS,)
    assert finished.fenced_shards == still
