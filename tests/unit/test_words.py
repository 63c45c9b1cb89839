"""What people are told: what was done and why not, in words that are true of the case."""

from __future__ import annotations

import pytest

import helios
from helios.access.authenticator import Identity
from helios.access.request_context import asked_by, noted
from helios.admin.client import Admin
from helios.admin.history import history
from helios.client.entry import refused
from helios.coordinator.migration_records import MigrationRecords
from helios.engines.memory import MemoryConnector
from helios.errors import InvalidInput, Refused
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationStatus
from helios.model.topology import Node, Pair
from helios.model.users import Role, User
from helios.ports.records import HISTORY, MIGRATIONS, HistoryRecord, put_record
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

ADDED = Change("c", ChangeKind.ADD_NODE, ChangeStatus.DONE, nodes=(Node("n", Address("h", 1)),))


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        (2, "added; it has its share of the keys"),
        (0, "added; it owns nothing until `rebalance` or `migrate` gives it keys"),
    ],
)
async def test_the_history_says_whether_a_new_node_got_its_share(moves: int, message: str) -> None:
    store = MemoryStore()
    await store.commit([put_record(HISTORY + "c", HistoryRecord(ADDED, 1.0, moves=moves))])
    assert [view.message for view in await history(store, 5)] == [message]


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (MigrationStatus.COMPLETED, "to bring its keys back, migrate them the other way"),
        (MigrationStatus.CANCELLED, "its keys are where they were before it"),
        (MigrationStatus.FAILED, "its keys are where they were before it"),
    ],
)
async def test_what_cannot_be_cancelled_any_more_says_where_its_keys_are(status: MigrationStatus, advice: str) -> None:
    store = MemoryStore()
    await store.commit([put_record(MIGRATIONS + "m", Migration("m", "c", "a", "b", status=status))])
    with pytest.raises(Refused) as refusal:
        await Admin(store, MemoryConnector({}), SystemClock()).cancel_migration("m")
    assert str(refusal.value) == f"migration m is {status} already; {advice}"


def test_a_migration_that_a_new_plan_has_no_need_of_is_cancelled_and_says_why() -> None:
    waiting = {name: Migration(name, "c", "a", target) for name, target in (("kept", "b"), ("dropped", "d"))}
    records = MigrationRecords(Change("c", ChangeKind.REBALANCE), waiting, SystemClock())
    records.started((Pair("a", "b", "kept"),))
    kept, dropped = records.migration("kept"), records.migration("dropped")
    assert kept is not None
    assert dropped is not None
    assert (kept.status, kept.error) == (MigrationStatus.IN_PROGRESS, None)
    assert dropped.status is MigrationStatus.CANCELLED
    assert dropped.error == "not needed: when its turn came, no key had to go this way any more"


def test_who_changed_a_setting_is_a_user_at_a_host() -> None:
    assert noted("REST", "10.0.0.7") == "somebody at 10.0.0.7 (REST)"
    with asked_by(Identity("alice", User("alice", Role.ADMIN), None)):
        assert noted("SETTING", "127.0.0.1") == "alice at 127.0.0.1 (SETTING)"


def test_a_data_server_is_told_from_a_node_that_wants_a_login() -> None:
    server = refused(
        "localhost:16379", "NOAUTH HELLO must be called with the client already authenticated, otherwise …"
    )
    assert str(server).startswith("localhost:16379 is a data server that needs a login, not a node of Helios")
    node = refused("localhost:6379", "NOAUTH HELLO comes after a login here: write HELLO <protocol> AUTH …")
    assert str(node) == "localhost:6379 lets in its users only: say who you are (helios-cli --user NAME)"


def test_a_weight_that_is_no_number_is_refused_by_name() -> None:
    with helios.AdminClient() as admin:
        for weight in ("heavy", None):
            with pytest.raises(InvalidInput, match=f"{weight!r} is not a number"):
                admin.reweight("shard-1", weight)  # type: ignore[arg-type]
            with pytest.raises(InvalidInput, match=f"{weight!r} is not a number"):
                admin.add_node("shard-4", "localhost:6382", weight=weight)  # type: ignore[arg-type]


def test_a_key_that_is_neither_text_nor_bytes_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="5 is neither text nor bytes"), helios.AdminClient() as admin:
        admin.node_for_key(5)  # type: ignore[arg-type]
