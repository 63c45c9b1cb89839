"""Records as JSON: byte for byte what releases before have written, and read as they read it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from helios.admin.router_views import (
    HotKeyView,
    LatencyView,
    RouterShardView,
    RouterView,
    SlowCommandsView,
    SlowCommandView,
)
from helios.coordinator.import_doubts import DoubtsRecord
from helios.coordinator.import_note import NoteRecord
from helios.errors import StoreError
from helios.model.backup import ClusterState
from helios.model.balancing import Measure, Strategy
from helios.model.codec import decode, encode
from helios.model.health import NodeHealth, NodeStatus
from helios.model.ids import Address
from helios.model.migration import (
    Change,
    ChangeKind,
    ChangeStatus,
    Migration,
    MigrationPhase,
    MigrationStatus,
    Origin,
)
from helios.model.router_settings import RouterSettings
from helios.model.sections import AtlasSettings, LoggingSettings, LogLevel, ReplicationSettings, ShardingSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import (
    Member,
    Node,
    NodeKind,
    NodeState,
    Pair,
    PairPhase,
    Placement,
    Rule,
    Shard,
    Term,
    Topology,
    Transition,
)
from helios.model.users import ReadFrom, Role, User
from helios.ports import records
from helios.ports.records import (
    AdoptionRecord,
    AgentRecord,
    AlteredSetting,
    BackupRecord,
    BackupStage,
    BigKeysRecord,
    ClusterRecord,
    CoordinatorRecord,
    FailoverRecord,
    HealthRecord,
    HistoryRecord,
    KeyFigure,
    LoadRecord,
    MemberRecord,
    ReplicasRecord,
    RunningRecord,
    SessionRecord,
    SettingChange,
    SettingOrigins,
    ShardStats,
    StrayScript,
    UsersRecord,
)
from helios.ports.topology_records import PairRecord, TopologyRecord

# Written by the commit in its name, whose records pydantic wrote.
WRITTEN = Path(__file__).parents[1] / "data" / "codec-20a6651.json"

HERE, THERE = Address("10.0.0.1", 6379), Address("::1", 65535, tls=True)
MEMBERS = (Member("shard-1.0", "shard-1", HERE), Member("shard-1@shard-2", "shard-2", THERE))
NODES = (
    Node("shard-1", HERE),
    Node("shard-2", THERE, NodeKind.EXTERNAL, NodeState.DRAINING, 0.1, "zürich", NodeState.DRAINED),
)
PLACEMENT = Placement(
    150,
    (("shard-1", 1.0), ("shard-2", 0.30000000000000004)),
    ((0, "shard-1"), ((1 << 64) - 1, "shard-2")),
    (Rule("*", "shard-1", ("user:*", '"\\\n\x01\x7f\u2028💡')),),
)
TRANSITION = Transition(
    "c-1",
    Placement(),
    (Pair("shard-1", "shard-2", "m-1", PairPhase.FENCED, 5, "no way"), Pair("shard-2", "shard-1", "")),
    "shard-2",
    True,
    NODES[1],
    frozenset({"shard-1"}),
)
TOPOLOGY = Topology(
    7,
    NODES,
    (
        Shard("shard-1", "shard-1.0", MEMBERS, 1, 3, MEMBERS[1:], MEMBERS[:1], (Term("a" * 40, (1 << 63) - 1),)),
        Shard("shard-2", "shard-1.0", ()),
    ),
    PLACEMENT,
    TRANSITION,
    frozenset({"shard-2"}),
    False,
    9,
    frozenset({"shard-1"}),
    "c-1",
)
CHANGE = Change(
    "c-2",
    ChangeKind.ADD_NODE,
    ChangeStatus.RUNNING,
    NODES,
    strategy=Strategy.UNIFORM,
    by=Measure.OPS,
    origin=Origin.AUTOMATIC,
    weight=0.30000000000000004,
    requested_at=1764436297.123456,
    error="it's “over”",
)
USERS = (User("default", Role.ADMIN), User("app", Role.READ_ONLY, "$scrypt$x", ("app:*", "é"), ReadFrom.REPLICA))
LATENCY = LatencyView(3, 0.001, ((0.0005, 2), (1.0, 1)))

SAMPLES: list[Any] = [
    TOPOLOGY,
    Topology(1),
    PLACEMENT,
    TopologyRecord(7, 9, "base", "placement", "following"),
    PairRecord(PairPhase.SWITCHED, 3, 9),
    CHANGE,
    Change("c-3", ChangeKind.FOUND),
    Migration("m-1", "c-1", "shard-1", "shard-2"),
    Migration(
        "m-2",
        "c-1",
        "a",
        "b",
        "u:*",
        MigrationStatus.COMPLETED,
        MigrationPhase.SWEEPING,
        5,
        6,
        1.5,
        2.0,
        3.25,
        0.0,
        7,
        True,
        8,
        "",
    ),
    CoordinatorRecord("shard-1", 3),
    ClusterRecord("id", 1.0, "helios init", "check", 2, "0.1.0"),
    AdoptionRecord(("a",), ("b", "c")),
    RunningRecord("a", HERE, "host", "boot", 12, "/var/lib/helios", "i"),
    SessionRecord("s", "a:0", 3, 1, "127.0.0.1:1", "secret", True, ("shard-1.0",), 10.0),
    BigKeysRecord.of([b"a", b"\x00\xff"]),
    AgentRecord("a", HERE, NodeKind.SUPERVISED, 1e9, False, 1, "0.1.0", ("news",), 4, "trouble"),
    MemberRecord("a.0", "a", HERE, "helios-admin", "p", "s", THERE, "run", True, True),
    MemberRecord("a.0", "a", HERE, "helios-admin"),
    ReplicasRecord("shard-1", ("a", "b"), "why"),
    BackupRecord("b", BackupStage.STILL, 1.25),
    UsersRecord(USERS),
    SettingOrigins({"sharding.migration_rate": "set at run time", "é": ""}),
    SettingChange(3, 1.0, "me", (AlteredSetting("a.b", "1", "2", "x", "y"),)),
    LoadRecord(
        5.0,
        (
            ShardStats("a"),
            ShardStats("b", 1.0, 2, 3, 4.5, 6, (KeyFigure("k", 7),), (KeyFigure("h", 8, 9),), True, "e", 0.5, 1),
        ),
    ),
    StrayScript("sha", "a", "k", "b", 1.0),
    HealthRecord((NodeHealth("a", NodeStatus.READ_ONLY, 1.0, "full", 2.0, None),)),
    HistoryRecord(CHANGE, 2.0, 3, ("a", "b"), 4),
    NoteRecord(1, 2, True, "run"),
    DoubtsRecord("a", THERE, 3),
    ClusterState(TOPOLOGY, {"sharding.migration_rate": "5"}, USERS),
    RouterView("s", "a", 0, False, None),
    RouterView(
        "s",
        "a",
        1,
        True,
        "e",
        refused={"limit": 1},
        latency=LATENCY,
        shards=(RouterShardView("a", "ready", 1, 2, 3, 4, 5, 6, LATENCY),),
        hot_keys=(HotKeyView("k", "a", 1.5),),
    ),
    SlowCommandsView((SlowCommandView(1.0, 0.5, "a", 0, "c", "GET", ("k",)),), ("b",)),
    ClusterSettings(),
    ClusterSettings(
        sharding=ShardingSettings(migration_rate=5, rebalance_interval=90.5, quiet_hours="22:00-06:00"),
        replication=ReplicationSettings(durability_by_key="cache:*=async"),
        atlas=AtlasSettings(maxmemory=1 << 40),
        router=RouterSettings(max_frame=1 << 20, hold_timeout=2.5),
        logging=LoggingSettings(level=LogLevel.DEBUG),
    ),
    FailoverRecord("f-1", "a", "a", "b", "its process has ended", 1.0, 2.0, lossy=True),
]
KINDS = sorted({type(value) for value in SAMPLES} - {ClusterSettings, RouterView}, key=lambda kind: kind.__name__)


def golden() -> list[str]:
    """The JSON of the samples, in their order."""
    read: list[str] = json.loads(WRITTEN.read_text(encoding="utf-8"))
    return read


def test_every_kind_of_record_has_a_sample() -> None:
    kinds = {kind for name, kind in vars(records).items() if inspect.isclass(kind) and name.endswith("Record")}
    assert kinds - {records.Record} <= set(KINDS)


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_a_record_is_written_and_read_as_by_releases_before(number: int) -> None:
    value, written = SAMPLES[number], golden()[number]
    assert decode(type(value), written.encode()) == value
    now = encode(value).decode()
    if now != written:  # fields have been added since
        now = json.dumps(_known(json.loads(now), json.loads(written)), separators=(",", ":"), ensure_ascii=False)
    assert now == written


def _known(now: Any, before: Any) -> Any:
    """What is there now, without fields that were not there before."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {name: _known(value, before[name]) for name, value in now.items() if name in before}
    if isinstance(now, list) and isinstance(before, list):
        return [_known(one, other) for one, other in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_fields_that_a_newer_release_has_added_are_passed_over(number: int) -> None:
    value = SAMPLES[number]
    if not isinstance(value, ClusterSettings | SettingOrigins):
        newer = json.loads(golden()[number], object_hook=_with_more)
        for name in newer.keys() & {"settings", "refused", "disconnected", "errors"}:
            if isinstance(newer[name], dict):  # by names that are not fields
                del newer[name]["added"]
        assert decode(type(value), json.dumps(newer).encode()) == value


def _with_more(fields: dict[str, Any]) -> dict[str, Any]:
    return {"added": [{"by": None}], **fields}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"epoch":1,"placement":"somewhere"}', "placement"),
        (b'{"epoch":1,"nodes":[{"id":"a","address":{"host":"h"}}]}', "port"),
        (b'{"epoch":1,"nodes":[{"id":"a","address":{"host":"h","port":1},"kind":"new"}]}', "kind"),
        (b'{"epoch":null}', "epoch"),
        (b'{"epoch":1.5}', "epoch"),
        (b"{}", "epoch"),
        (b'{"epoch":1,', ""),
        (b'{"epoch":1,"still":"\xff"}', ""),
        (b'{"epoch":1,"still":"\\ud800"}', ""),
        (b"[" * 100_000, ""),
        (b"", ""),
        (b"null", ""),
    ],
)
def test_what_is_no_such_record_is_named_with_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(StoreError, match=r"a stored Topology cannot be read \(.*install that one here") as caught:
        decode(Topology, data)
    assert words in str(caught.value)


ANY_FLOAT = st.floats(allow_nan=False, allow_infinity=False)
ANY_INT = st.integers(-(1 << 63), (1 << 64) - 1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_any_record_is_the_same_to_the_library_that_wrote_it_before(kind: type[Any], data: st.DataObject) -> None:
    st.register_type_strategy(float, ANY_FLOAT)
    st.register_type_strategy(int, ANY_INT)
    before: TypeAdapter[Any] = TypeAdapter(kind)
    value = data.draw(st.from_type(kind))
    assert decode(kind, before.dump_json(value)) == value
    assert before.validate_json(encode(value)) == value
    assert json.loads(encode(value)) == json.loads(before.dump_json(value))
