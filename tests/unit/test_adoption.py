"""A store that is lost or old, made good by what the nodes have kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.topologies import cluster, in_transition

from helios.errors import StartError
from helios.model.codec import encode
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationStatus
from helios.model.topology import PairPhase, Topology
from helios.node.files import DataFolder, write_json, write_private
from helios.node.topology_copy import newest_copy
from helios.placement.change import moved
from helios.ports.records import CHANGES, MIGRATIONS, TOPOLOGY, list_records, put_record
from helios.ports.topologies import read_topology
from helios.runtime.adoption import adopt, check_store
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore
from helios.stores.sqlite_location import SqliteLocation


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    folder = DataFolder(tmp_path)
    for node_id in ("a", "b"):
        folder.node(node_id).root.mkdir(parents=True)
        write_json(folder.node(node_id).agent, {"node": node_id})
    return folder


def keep(data: DataFolder, node_id: str, topology: Topology) -> None:
    write_private(data.node(node_id).topology, encode(topology).decode())


def test_the_latest_copy_counts(data: DataFolder) -> None:
    assert newest_copy(data) == Topology(0)
    keep(data, "a", cluster("a", "b", epoch=7))
    keep(data, "b", cluster("a", "b", epoch=9))
    assert newest_copy(data).epoch == 9


def test_a_store_that_knows_as_much_is_left_alone(data: DataFolder) -> None:
    check_store(data, SqliteLocation(data.store), Topology(0), Topology(0))
    check_store(data, SqliteLocation(data.store), cluster("a", epoch=7), cluster("a", epoch=7))
    with pytest.raises(StartError, match=r"knows of no cluster, but there is the cluster of a, b .*--adopt nodes"):
        check_store(data, SqliteLocation(data.store), cluster("a", "b", epoch=7), Topology(3))
    with pytest.raises(StartError, match=r"is older \(epoch 6\) than the cluster of a"):
        check_store(data, SqliteLocation(data.store), cluster("a", epoch=7), cluster("a", epoch=6))


def test_a_copy_that_cannot_be_read_is_named(data: DataFolder) -> None:
    write_private(data.node("a").topology, "{")
    with pytest.raises(StartError, match=r"topology\.json cannot be read"):
        newest_copy(data)


async def test_nodes_that_have_kept_nothing_make_no_cluster(data: DataFolder) -> None:
    store = MemoryStore()
    assert await adopt(store, SystemClock(), newest_copy(data)) is None
    assert await store.get(TOPOLOGY) is None


async def test_what_was_under_way_goes_on_and_what_an_old_store_had_begun_does_not() -> None:
    store, clock = MemoryStore(), SystemClock()
    current = cluster("a", "b", "c", "d").placement
    moving = in_transition(current, moved(current, "a", "b", "user:*"), {("a", "b"): PairPhase.COPYING})
    assert moving.transition is not None
    await store.commit(
        [
            put_record(TOPOLOGY, cluster("a", "b", epoch=3)),
            put_record(CHANGES + "old", Change("old", ChangeKind.REMOVE_NODE, ChangeStatus.QUEUED, node="a")),
            put_record(MIGRATIONS + "m", Migration("m", "old", "a", "b")),
        ]
    )
    adopted = await adopt(store, clock, moving)
    assert adopted == moving
    assert await read_topology(store) == adopted
    changes = {one.value.id: one.value for one in await list_records(store, Change, CHANGES)}
    assert (changes["old"].status, changes["change"].status) == (ChangeStatus.FAILED, ChangeStatus.RUNNING)
    migrations = {one.value.id: one.value for one in await list_records(store, Migration, MIGRATIONS)}
    assert (migrations["m"].status, migrations["m-a-b"].status) == (
        MigrationStatus.FAILED,
        MigrationStatus.IN_PROGRESS,
    )
    assert await adopt(store, clock, moving) is None
