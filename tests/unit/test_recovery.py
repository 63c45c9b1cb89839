"""A lost store of many hosts: whichever is heard first, the latest topology counts; nothing starts before all are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import pytest
from tests.topologies import cluster, in_transition

from helios.control.mutations import Fence, Slow
from helios.errors import InvalidInput, Refused
from helios.model.migration import Change, ChangeStatus
from helios.model.topology import NodeKind, Topology
from helios.placement.change import moved
from helios.ports.records import ADOPTION, CHANGES, AdoptionRecord, list_records, read_record
from helios.ports.topologies import read_topology
from helios.runtime.adoption import adopt
from helios.runtime.clock import SystemClock
from helios.runtime.recovery import Adoption
from helios.stores.memory import MemoryStore


async def hear(
    store: MemoryStore, kept: Topology, heard: Sequence[str], lost: Sequence[str] = ()
) -> tuple[str, ...] | None:
    """The nodes that are still to be heard; None where there was nothing to adopt."""
    adoption = await Adoption.begin(store, kept, heard, lost)
    return None if adoption is None else await adoption.carry_out(store, SystemClock())


async def marked(store: MemoryStore) -> AdoptionRecord | None:
    record = await read_record(store, AdoptionRecord, ADOPTION)
    return None if record is None else record.value


def remembered() -> dict[str, Topology]:
    """What three hosts remember: two of them phases of a move that follow each other, the third what was before."""
    before = cluster("a", "b", "c", epoch=9)
    following = moved(before.placement, "a", "b", "user:*")
    moving = replace(in_transition(before.placement, following, {}), nodes=before.nodes, shards=before.shards)
    slow = replace(Slow("a", "b", 20).apply(moving), epoch=10)
    return {"a": slow, "b": replace(Fence("a", "b").apply(slow), epoch=11), "c": before}


@pytest.mark.parametrize("order", list(permutations("abc")))
async def test_whichever_host_is_heard_first_the_latest_topology_counts(order: Sequence[str]) -> None:
    store, copies = MemoryStore(), remembered()
    for number, name in enumerate(order):
        assert await hear(store, copies[name], [name]) == tuple(sorted(order[number + 1 :]))
        assert (await marked(store) is None) == (number == len(order) - 1)
    assert await read_topology(store) == copies["b"]
    [change] = [record.value for record in await list_records(store, Change, CHANGES)]
    assert (change.id, change.status) == ("change", ChangeStatus.RUNNING)
    assert await hear(store, copies["a"], ["a"]) is None


async def test_a_node_is_heard_again_whose_host_was_asked_before_the_loss_was_known() -> None:
    store, copies = MemoryStore(), remembered()
    await adopt(store, SystemClock(), copies["a"])  # an old snapshot
    assert await hear(store, copies["c"], ["c"]) is None
    assert await hear(store, copies["b"], ["b"]) == ("a", "c")
    assert await hear(store, copies["c"], ["c"]) == ("a",)
    assert await hear(store, copies["a"], ["a"]) == ()
    assert await read_topology(store) == copies["b"]


async def test_what_is_lost_with_its_host_is_not_waited_for_and_external_nodes_remember_nothing() -> None:
    store, kept = MemoryStore(), cluster("a", "b", "c")
    kept = replace(kept, nodes=(*kept.nodes[:2], replace(kept.nodes[2], kind=NodeKind.EXTERNAL)))
    with pytest.raises(InvalidInput, match="--lost names d, and the cluster has the nodes a, b, c"):
        await hear(store, kept, ["a"], ["d"])
    assert await marked(store) is None
    assert await hear(store, kept, ["a"], ["b"]) == ()


async def test_what_was_broken_off_keeps_everybody_out_until_it_is_run_again() -> None:
    store, kept = MemoryStore(), cluster("a", "b")
    assert await Adoption.begin(store, kept, ["a"], []) is not None
    assert await marked(store) == AdoptionRecord((), ("a", "b"))
    assert await hear(store, kept, ["a"]) == ("b",)


async def test_of_two_hosts_at_once_one_is_asked_to_come_again() -> None:
    store, kept = MemoryStore(), cluster("a", "b")
    first = await Adoption.begin(store, kept, ["a"], [])
    assert first is not None
    assert await hear(store, kept, ["b"]) == ("a",)
    with pytest.raises(Refused, match="run it again"):
        await first.carry_out(store, SystemClock())
    assert await marked(store) == AdoptionRecord(("b",), ("a",))
