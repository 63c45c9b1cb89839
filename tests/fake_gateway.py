"""The REST application over fakes that record what they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx

from helios.admin.backup_views import BackupView, CopyPartView, ShardCopyView
from helios.admin.router_views import (
    HotKeyView,
    LatencyView,
    RouterShardView,
    RouterView,
    SlowCommandsView,
    SlowCommandView,
)
from helios.admin.views import (
    AlteredView,
    BalanceView,
    ChangeView,
    CheckView,
    CopyView,
    Finding,
    HistoryView,
    KeyFigureView,
    KeyView,
    MigrationView,
    NodeLoadView,
    NodeView,
    PlacementView,
    PointView,
    PreviewView,
    RuleView,
    SettingChangeView,
    SettingView,
    ShardView,
    StatsView,
    WeightView,
)
from helios.api.app import create_app
from helios.errors import HeliosError

NODE = NodeView(
    id="shard-1",
    address="localhost:6379",
    kind="supervised",
    status="online",
    state="active",
    weight=1.0,
    zone="",
    keys=3,
    ring_share=0.5,
    leader="shard-1.0",
    leader_address="127.0.0.1:7001",
    last_seen=1_700_000_000.0,
    status_since=1_600_000_000.0,
    status_reason="",
    bytes=2048,
    ops=12.5,
    deviation=0.25,
)
LOAD = NodeLoadView(
    id="shard-1",
    status="online",
    weight=1.0,
    fair_share=0.5,
    keys=3,
    bytes=2048,
    ops=12.5,
    deviation=0.25,
    measured_at=1_700_000_000.0,
    sampled=3,
    big_keys=(KeyFigureView("films", 300_000, 0),),
    hot_keys=(),
    hits_known=False,
    error="",
)
MIGRATION = MigrationView(
    id="m-1",
    change="c-1",
    source_node="shard-1",
    target_node="shard-2",
    key_pattern="user:*",
    status="in_progress",
    phase="copying",
    keys_moved=5,
    total_keys=10,
    requested_at=1_700_000_000.0,
    start_time=1_700_000_001.5,
    end_time=None,
    pause_ms=None,
    slowed_ms=0,
    paused=False,
    remaining_s=None,
    verified=0,
    error=None,
)
RULE = RuleView("shard-1", "shard-4", ("user:*", "*:1"))
PLACEMENT = PlacementView(
    epoch=7,
    points=150,
    nodes=(WeightView("shard-1", 1.0), WeightView("shard-4", 2.5)),
    reassigned=(PointView("18446744073709551615", "shard-4"),),
    rules=(RULE,),
    moving=True,
)
BACKUP = BackupView("b1", 1_700_000_000.0, 12.5, "0.1", "{}", (ShardCopyView("shard-1", "valkey 9.1.2"),))
SETTING = SettingView(
    "sharding.migration_rate", "1000", "default", "at once", "keys/s", "a whole number", "Keys a second"
)
ALTERED = AlteredView("sharding.migration_rate", "1000", "5", "set at run time")
SETTING_CHANGE = SettingChangeView(1, 1_700_000_000.0, "somebody", (ALTERED,))
PREVIEW = PreviewView("shard-1", "shard-2", 1200, 90_000, 500)
BALANCE = BalanceView(
    by="keys",
    strategy="uniform",
    threshold=0.3,
    band=0.02,
    auto_rebalance=True,
    collected_at=1_700_000_000.0,
    nodes=(LOAD, replace(LOAD, id="shard-2", keys=1, deviation=-0.5, big_keys=())),
    worst="shard-2",
    worst_deviation=-0.5,
    proposal="shard-2 carries 50.0% less keys than its share",
    moved=1200,
    least=1190,
    worst_after=0.01,
    moves=(PREVIEW,),
    hot_keys=(HotKeyView("user:1", "shard-2", 1200.0),),
)
SHARD = ShardView(
    "shard-1",
    "under-replicated",
    "shard-2",
    "127.0.0.1:7001",
    "quorum",
    3,
    1,
    (
        CopyView("shard-1@shard-2", "shard-2", "127.0.0.1:7001", "leader", True),
        CopyView("shard-1.0", "shard-1", "127.0.0.1:7000", "replica", True, 120, 0.5),
        CopyView("shard-1@shard-3", "shard-3", "127.0.0.1:7002", "learner", False),
    ),
)
HISTORY = HistoryView(
    change="c-1",
    kind="rebalance",
    what="rebalance --by keys --strategy uniform",
    origin="automatic",
    status="done",
    reason="shard-2 carries 50.0% less keys than its share",
    message="done",
    requested_at=1_700_000_000.0,
    ended_at=1_700_000_005.0,
    keys_moved=1200,
)
FINDING = Finding("double", "shard-2", 2, "keys that their owners have too: 'a', 'b'")
FOUND = CheckView(clean=False, findings=(FINDING,), repaired="")
CHANGE = ChangeView(change="c-1", kind="add_node", status="running", message="", migrations=("m-1",))


LATENCY = LatencyView(3, 0.004, ((0.0002, 2), (0.0035, 1)))
ROUTER = RouterView(
    session="5e55",
    node="shard-1",
    worker=0,
    answers=True,
    error=None,
    pid=4242,
    epoch=9,
    lease_left_s=2.5,
    clients=2,
    clients_max=100,
    refused={"max_clients": 3},
    disconnected={"idle": 1},
    commands=40,
    errors={"CROSSSHARD": 2},
    held=1,
    latency=LATENCY,
    shards=(RouterShardView("shard-1", "ready", 4, 90, 1, 2, 1, 0, LATENCY),),
)
SLOW = SlowCommandsView(
    (SlowCommandView(1_700_000_000.0, 0.0125, "shard-1", 0, "127.0.0.1:4242", "worker", ("GET", "films")),),
    missing=("shard-2 worker 1: it does not answer at 127.0.0.1:7: time-out",),
)
SILENT_ROUTER = RouterView("5e56", "shard-2", 1, answers=False, error="it does not answer at 127.0.0.1:7: time-out")


class FakeAdmin:
    """Records what it was asked and answers `change`, or raises `error`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.change_view = CHANGE
        self.view = MIGRATION
        self.entries = [HISTORY]

    def _note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def add_node(
        self,
        node_id: str,
        address: str,
        *,
        weight: float = 1.0,
        zone: str = "",
        import_keys: bool = False,
        flush: bool = False,
        adopt: bool = False,
    ) -> ChangeView:
        self._note("add_node", node_id, address, weight, zone, import_keys, flush, *["adopt"] * adopt)
        return self.change_view

    async def remove_node(self, node_id: str) -> ChangeView:
        self._note("remove_node", node_id)
        return self.change_view

    async def list_nodes(self) -> list[NodeView]:
        self._note("list_nodes")
        return [NODE]

    async def list_shards(self) -> list[ShardView]:
        self._note("list_shards")
        return [SHARD]

    async def node_for_key(self, key: bytes) -> KeyView:
        self._note("node_for_key", key)
        return KeyView(key.decode("utf-8", "backslashreplace"), "shard-1", "localhost:6379", "ring", None)

    async def migrate(self, source: str, target: str, pattern: str = "*", *, verify: bool = False) -> MigrationView:
        self._note("migrate", source, target, pattern, *["verify"] * verify)
        return self.view

    async def change(self, change_id: str, *, wait_s: float = 0.0) -> ChangeView:
        self._note("change", change_id, *[wait_s] * bool(wait_s))
        return self.change_view

    async def rules(self) -> list[RuleView]:
        self._note("rules")
        return [RULE]

    async def placement(self) -> PlacementView:
        self._note("placement")
        return PLACEMENT

    async def preview_add_node(
        self, node_id: str, address: str, *, weight: float = 1.0, import_keys: bool = False, flush: bool = False
    ) -> list[PreviewView]:
        self._note("preview_add_node", node_id, address, weight, *["import"] * import_keys, *["flush"] * flush)
        return [PREVIEW]

    async def preview_remove_node(self, node_id: str) -> list[PreviewView]:
        self._note("preview_remove_node", node_id)
        return [PREVIEW]

    async def preview_migrate(self, source: str, target: str, pattern: str = "*") -> list[PreviewView]:
        self._note("preview_migrate", source, target, pattern)
        return [PREVIEW]

    async def preview_rebalance(self, *, strategy: str = "", by: str = "") -> list[PreviewView]:
        self._note("preview_rebalance", strategy, by)
        return [PREVIEW]

    async def preview_reweight(self, node_id: str, weight: float) -> list[PreviewView]:
        self._note("preview_reweight", node_id, weight)
        return [PREVIEW]

    async def preview_drain(self, node_id: str) -> list[PreviewView]:
        self._note("preview_drain", node_id)
        return [PREVIEW]

    async def preview_undrain(self, node_id: str) -> list[PreviewView]:
        self._note("preview_undrain", node_id)
        return [PREVIEW]

    async def reweight(self, node_id: str, weight: float) -> ChangeView:
        self._note("reweight", node_id, weight)
        return self.change_view

    async def promote(self, shard: str, node_id: str, *, accept_loss: bool = False) -> ChangeView:
        self._note("promote", shard, node_id, accept_loss)
        return self.change_view

    async def drain(self, node_id: str) -> ChangeView:
        self._note("drain", node_id)
        return self.change_view

    async def undrain(self, node_id: str) -> ChangeView:
        self._note("undrain", node_id)
        return self.change_view

    async def balance(self, *, strategy: str = "", by: str = "") -> BalanceView:
        self._note("balance", strategy, by)
        return BALANCE

    async def history(self, count: int = 20) -> list[HistoryView]:
        self._note("history", count)
        return self.entries

    async def routers(self) -> list[RouterView]:
        self._note("routers")
        return [ROUTER, SILENT_ROUTER]

    async def slow_commands(self, count: int = 20) -> SlowCommandsView:
        self._note("slow_commands", count)
        return SLOW

    async def check(self, *, repair: bool = False) -> CheckView:
        self._note("check", repair)
        return FOUND

    async def backup(self) -> BackupView:
        self._note("backup")
        return BACKUP

    async def read_backup(self, backup_id: str, shard: str, offset: int) -> CopyPartView:
        self._note("read_backup", backup_id, shard, offset)
        return CopyPartView(b"REDIS", 5, "abc")

    async def end_backup(self, backup_id: str) -> bool:
        self._note("end_backup", backup_id)
        return True

    async def restore_users(self, users: str) -> int:
        self._note("restore_users", users)
        return 1

    async def settings(self) -> list[SettingView]:
        self._note("settings")
        return [SETTING]

    async def setting(self, name: str) -> SettingView:
        self._note("setting", name)
        return SETTING

    async def change_setting(self, name: str, value: str, *, by: str = "") -> SettingView:
        assert by
        self._note("change_setting", name, value)
        return SETTING

    async def setting_history(self) -> list[SettingChangeView]:
        self._note("setting_history")
        return [SETTING_CHANGE]

    async def roll_back_settings(self, number: int | None = None, *, by: str = "") -> list[AlteredView]:
        assert by
        self._note("roll_back_settings", number)
        return [ALTERED]

    async def pause_migration(self, migration_id: str) -> MigrationView:
        self._note("pause_migration", migration_id)
        return self.view

    async def resume_migration(self, migration_id: str) -> MigrationView:
        self._note("resume_migration", migration_id)
        return self.view

    async def migration(self, migration_id: str) -> MigrationView:
        self._note("migration", migration_id)
        return self.view

    async def migrations(self) -> list[MigrationView]:
        self._note("migrations")
        return [self.view]

    async def active_migrations(self) -> list[MigrationView]:
        self._note("active_migrations")
        return [self.view]

    async def cancel_migration(self, migration_id: str) -> MigrationView:
        self._note("cancel_migration", migration_id)
        return self.view

    async def cleanup_migrations(self) -> int:
        self._note("cleanup_migrations")
        return 7

    async def rebalance(self, *, strategy: str = "", by: str = "") -> ChangeView:
        self._note("rebalance", strategy, by)
        return self.change_view

    async def figures(self, *, exact: bool = True) -> tuple[StatsView, list[ShardView]]:
        return await self.stats(exact=exact), await self.list_shards()

    async def stats(self, *, exact: bool = True) -> StatsView:
        self._note("stats")
        return StatsView(1, 1, 3, True, 1, 150, 1, 0, 9, "shard-1", True, 1000, 0, (NODE,))


class FakeKeyValue:
    """A dictionary that answers GET, SET and DEL in RESP2, or `reply` to everything."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.calls: list[list[bytes]] = []
        self.reply: bytes | None = None
        self.error: HeliosError | None = None

    async def execute(self, argv: list[bytes]) -> bytes:
        self.calls.append(argv)
        if self.error is not None:
            raise self.error
        if self.reply is not None:
            return self.reply
        verb, key = argv[:2]
        if verb == b"SET":
            self.values[key] = argv[2]
            return b"+OK\r\n"
        if verb == b"DEL":
            return b":%d\r\n" % (self.values.pop(key, None) is not None)
        value = self.values.get(key)
        return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


class Gateway:
    """The application with its fakes and a client that talks to it."""

    def __init__(self) -> None:
        self.admin = FakeAdmin()
        self.kv = FakeKeyValue()
        self.reasons: list[str] = []
        self.app = create_app(self.admin, self.kv, self.health, max_value_bytes=1000)
        self.reset()

    def reset(self) -> None:
        """Forget what earlier tests did; building the application anew for each would take most of their time."""
        vars(self.admin).update(vars(FakeAdmin()))
        vars(self.kv).update(vars(FakeKeyValue()))
        self.reasons = []
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost:8443")

    async def health(self) -> Sequence[str]:
        return self.reasons


def error_of(response: httpx.Response) -> dict[str, str]:
    """The error that the response carries, after a look at its shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert "Traceback" not in response.text
    error: dict[str, str] = body["error"]
    return error
