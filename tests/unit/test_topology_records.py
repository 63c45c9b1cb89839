"""The topology in the store: assembled as it was published, small at every step, readable from before, and tidied."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from tests.published import HandPublisher
from tests.store_homes import JumpingClock
from tests.topologies import SHARDS, cluster, random_topology, rebalancing

from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Unfence, begin
from helios.coordinator.publisher import Publisher
from helios.errors import StoreError
from helios.model.codec import decode
from helios.model.topology import Pair, PairPhase, Placement, Shard, Term, Topology
from helios.placement.change import moved
from helios.ports.records import OBJECTS, PAIRS, TERM, TOPOLOGY, put_record
from helios.ports.store import Delete, Entry, Put, Snapshot
from helios.ports.topologies import TopologyReader, read_topology
from helios.ports.topology_records import packed, stored
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore


def next_mutation(random: Random, topology: Topology) -> Mutation:
    assert topology.transition is not None
    pairs = topology.transition.pairs
    if all(pair.phase is PairPhase.SWITCHED for pair in pairs):
        return Finish(frozenset(random.sample(SHARDS, 1)))
    if random.random() < 0.1:
        return Reverse({(pair.source, pair.target): f"back-{number}" for number, pair in enumerate(pairs)})
    pair = random.choice([pair for pair in pairs if pair.phase is not PairPhase.SWITCHED])
    if pair.phase is PairPhase.FENCED:
        return Unfence(pair.source, pair.target) if random.random() < 0.3 else Switch(pair.source, pair.target)
    slow = random.random() < 0.5
    return Slow(pair.source, pair.target, random.randrange(50)) if slow else Fence(pair.source, pair.target)


@pytest.mark.parametrize("seed", range(30))
async def test_every_reader_sees_each_topology_as_it_was_published(seed: int) -> None:
    random, store = Random(seed), MemoryStore()
    publisher = await opened(store)
    topology = await publisher.publish(lambda _: replace(random_topology(random), generation=5))
    following = TopologyReader(store).followed()
    assert await anext(following) == topology
    again = TopologyReader(store)
    for _ in range(40):
        if topology.transition is None:
            break
        topology = await publisher.publish(next_mutation(random, topology).apply)
        assert await anext(following) == topology
        if random.random() < 0.3:
            again = TopologyReader(store)
        record = await again.read()
        assert record is not None
        assert record.value == topology
        if random.random() < 0.2:  # Another coordinator goes on from what the store says.
            publisher = await opened(store, 1)
            assert publisher.topology == topology
    await following.aclose()


async def opened(store: MemoryStore, term: int = 0, clock: JumpingClock | None = None) -> Publisher:
    version = await store.commit([Put(TERM, str(term).encode())])
    return await Publisher.open(store, clock or SystemClock(), 1, version)


@pytest.mark.parametrize("nodes", [3, 1000])
def test_a_phase_of_a_pair_is_small_at_any_size(nodes: int) -> None:
    topology = replace(rebalancing(nodes, nodes), generation=2**40, epoch=2**40)
    assert topology.transition is not None
    now, _ = stored(topology, None)
    for pair in topology.transition.pairs[:3]:
        for mutation in (Slow(pair.source, pair.target, 20), Fence(pair.source, pair.target)):
            topology = mutation.apply(topology)
            before, (now, objects) = now, stored(topology, now)
            assert objects == []
            assert sum(len(put.key) + len(put.value) for put in now.records(before)) < 500
        topology = Switch(pair.source, pair.target).apply(topology)
        before, (now, objects) = now, stored(topology, now)
        assert objects == []
        assert sum(len(put.key) + len(put.value) for put in now.records(before)) < 500


async def test_many_pairs_that_change_at_once_are_written_together() -> None:
    store = MemoryStore()
    publisher = HandPublisher(store)
    topology = rebalancing(200, 200)
    await publisher.publish(topology)
    assert topology.transition is not None
    slowed = tuple(replace(pair, slow_ms=5) for pair in topology.transition.pairs)
    topology = replace(topology, epoch=9, transition=replace(topology.transition, pairs=slowed))
    await publisher.publish(topology)
    assert await read_topology(store) == topology
    assert (await store.list(PAIRS)).entries == ()


def test_a_placement_of_any_size_is_in_parts_that_a_store_takes() -> None:
    random = Random(1)
    given = tuple((random.getrandbits(64), f"shard-{random.randrange(1000)}") for _ in range(150_000))
    parts = packed(Placement(reassigned=given)).parts
    assert len(parts) > 1
    assert all(len(part) < 1_000_000 for part in parts)


async def test_a_topology_of_before_is_read_and_stored_anew_by_the_next_coordinator() -> None:
    store, topology = MemoryStore(), rebalancing(3, 2)
    await store.commit([put_record(TOPOLOGY, topology)])
    assert await read_topology(store) == topology
    publisher = await opened(store)
    published = await publisher.publish(lambda topology: topology)
    assert await read_topology(store) == published == replace(topology, epoch=topology.epoch + 1)
    assert len((await store.list(OBJECTS)).entries) == 3  # the base, and two placements


async def test_what_no_topology_names_is_removed_after_a_while() -> None:
    store, clock = MemoryStore(), JumpingClock()
    publisher = await opened(store, clock=clock)
    first = cluster("a", "b").placement
    second = moved(first, "a", "b", "user:*")
    pair = Pair("a", "b", "m")
    await publisher.publish(lambda _: begin(cluster("a", "b"), "change", second, (pair,)))
    for mutation in (Fence("a", "b"), Switch("a", "b"), Finish(frozenset())):
        await publisher.publish(mutation.apply)
    await publisher.tidy()
    assert (await store.list(PAIRS)).entries == ()
    before = {entry.key for entry in (await store.list(OBJECTS)).entries}
    clock.advance(60)
    await publisher.tidy()
    named = {put.key for one in (packed(second),) for put in one.puts}
    left = {entry.key for entry in (await store.list(OBJECTS)).entries}
    assert left < before
    assert named < left
    assert len(left) == 2
    assert await read_topology(store) == publisher.topology
    # What was removed is written again when it is needed again.
    published = await publisher.publish(lambda topology: replace(topology, placement=first))
    assert await read_topology(store) == published


async def test_a_new_coordinator_removes_what_the_one_before_left() -> None:
    store, clock = MemoryStore(), JumpingClock()
    await opened(store)
    left = packed(Placement(7)).puts
    await store.commit(left)
    publisher = await opened(store, 1, clock)
    for _ in range(2):
        await publisher.tidy()
        clock.advance(60)
    assert await store.get(left[0].key) is None
    assert await read_topology(store) == publisher.topology


class LateStore(MemoryStore):
    """A store in which the topology is published anew after each time that it was listed."""

    def __init__(self, topologies: list[Topology]) -> None:
        super().__init__()
        self.topologies = topologies

    async def list(self, prefix: str) -> Snapshot:
        found = await super().list(prefix)
        if prefix == TOPOLOGY and self.topologies:
            for entry in (await super().list(OBJECTS)).entries:
                await self.commit([self.deletion(entry)])
            await HandPublisher(self).publish(self.topologies.pop(0))
        return found

    @staticmethod
    def deletion(entry: Entry) -> Put:
        return Put(entry.key, b"")


async def test_a_reader_that_is_too_slow_reads_the_topology_after_it() -> None:
    first, second, third = (cluster("a", "b", epoch=epoch) for epoch in (1, 2, 3))
    store = LateStore([replace(second, placement=Placement(9)), replace(third, placement=Placement(10))])
    await HandPublisher(store).publish(first)
    assert (await read_topology(store)).epoch == 3


async def test_a_topology_whose_objects_are_lost_is_no_empty_one() -> None:
    store = MemoryStore()
    made, _ = stored(cluster("a"), None)
    await store.commit(made.records(None))
    with pytest.raises(StoreError, match="does not have the objects"):
        await read_topology(store)


async def test_a_commit_that_publishes_nothing_is_no_topology() -> None:
    store = MemoryStore()
    publisher = HandPublisher(store)
    await publisher.publish(cluster("a"))
    following = TopologyReader(store).followed()
    assert await anext(following) == cluster("a")
    await store.commit([Delete(PAIRS + "base/1"), Put(PAIRS + "other/1", b"")])
    await publisher.publish(cluster("a", "b", epoch=8))
    assert await anext(following) == cluster("a", "b", epoch=8)
    await following.aclose()


async def test_a_shard_is_stored_with_its_learners_its_outgoing_members_and_its_terms() -> None:
    store, topology = MemoryStore(), cluster("a", "b", "c")
    first, second, third = (shard.leading for shard in topology.shards)
    shard = replace(
        topology.shards[0],
        members=(first, second),
        learners=(third,),
        outgoing=(first,),
        lineage=(Term("newer", 70), Term("older", 0)),
    )
    await HandPublisher(store).publish(replace(topology, shards=(shard, *topology.shards[1:])))
    read = await read_topology(store)
    assert read.shard("a") == shard
    assert shard.memberships == (frozenset({"a.0", "b.0"}), frozenset({"a.0"}))
    assert shard.servers == (first, second, third)


def test_a_shard_of_before_there_were_replicas_has_one_membership_and_no_terms() -> None:
    older = b'{"id":"a","leader":"a.0","members":[{"id":"a.0","node":"a","address":{"host":"a","port":7379}}]}'
    shard = decode(Shard, older)
    assert (shard.learners, shard.outgoing, shard.lineage) == ((), (), ())
    assert shard.memberships == (frozenset({"a.0"}),)
    assert shard.servers == shard.members
