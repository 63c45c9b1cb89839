"""The records of a release before, in the midst of a move, as a store of its had them: today's release goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.published import HandPublisher

from helios.errors import StoreError
from helios.model.codec import decode
from helios.model.migration import Change, Migration, MigrationStatus
from helios.model.settings import ClusterSettings
from helios.placement.routing import Routes
from helios.ports.records import (
    AGENTS,
    CHANGES,
    COORDINATOR,
    HEALTH,
    HISTORY,
    LOAD,
    MEMBERS,
    MIGRATIONS,
    SESSIONS,
    SETTING_CHANGES,
    SETTING_ORIGINS,
    SETTINGS,
    TERM,
    TOPOLOGY,
    AgentRecord,
    CoordinatorRecord,
    HealthRecord,
    HistoryRecord,
    LoadRecord,
    MemberRecord,
    SessionRecord,
    SettingChange,
    SettingOrigins,
    list_records,
)
from helios.ports.store import Put
from helios.ports.topologies import read_topology
from helios.stores.memory import MemoryStore

# Written by the commit in its name: two nodes, a pattern moved, a node reweighted, a setting changed, a move begun.
WRITTEN = Path(__file__).parents[1] / "data" / "records-025915b.json"
KINDS: dict[str, type] = {
    AGENTS: AgentRecord,
    CHANGES: Change,
    COORDINATOR: CoordinatorRecord,
    HEALTH: HealthRecord,
    HISTORY: HistoryRecord,
    LOAD: LoadRecord,
    MEMBERS: MemberRecord,
    MIGRATIONS: Migration,
    SESSIONS: SessionRecord,
    SETTING_CHANGES: SettingChange,
    SETTING_ORIGINS: SettingOrigins,
    SETTINGS: ClusterSettings,
}


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore()
    records = json.loads(WRITTEN.read_text())
    await made.commit([Put(key, json.dumps(value).encode()) for key, value in records.items()])
    return made


async def test_every_record_is_read(store: MemoryStore) -> None:
    read = 0
    for entry in (await store.list("/")).entries:
        kinds = [kind for prefix, kind in KINDS.items() if entry.key.startswith(prefix)]
        if entry.key in (TOPOLOGY, TERM):
            continue
        assert len(kinds) == 1, entry.key
        decode(kinds[0], entry.value)
        read += 1
    assert read > 20


async def test_its_move_goes_on_from_its_topology(store: MemoryStore) -> None:
    topology = await read_topology(store)
    transition = topology.transition
    assert transition is not None
    assert [(pair.source, pair.target) for pair in transition.pairs] == [("shard-2", "shard-1")]
    migrations = {record.value.id: record.value for record in await list_records(store, Migration, MIGRATIONS)}
    assert migrations[transition.pairs[0].migration].status is MigrationStatus.IN_PROGRESS
    # By the rule that an earlier move has left, and by the ring with its weights.
    routes = Routes(topology)
    assert routes.owner(b"k:1") == "shard-2"
    assert {routes.owner(b"k:%d" % number) for number in range(2, 10)} == {"shard-1", "shard-2"}
    assert dict(topology.placement.weights) == {"shard-1": 1.0, "shard-2": 2.0}


async def test_what_is_published_next_replaces_the_older_form(store: MemoryStore) -> None:
    older = await read_topology(store)
    following = replace(older, epoch=older.epoch + 1, transition=None)
    await HandPublisher(store).publish(following)
    assert await read_topology(store) == following


async def test_a_record_of_another_form_is_named_in_one_sentence(store: MemoryStore) -> None:
    await store.commit([Put(TOPOLOGY, b'{"epoch":1,"placement":"somewhere"}')])
    with pytest.raises(StoreError) as caught:
        await read_topology(store)
    assert str(caught.value) == (
        "a stored Topology cannot be read (placement: Expected `object`, got `str`): if another release of Helios "
        "runs on this store, install that one here"
    )
