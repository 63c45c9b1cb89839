"""The verbs as commands: arguments, replies of both protocols, errors with their codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import hiredis
import pytest
import tests.fake_gateway
from tests.routers import RawClient, RouterLab

from helios.admin.views import ChangeView, KeyView, MigrationView, NodeView, ShardView, StatsView
from helios.errors import Refused, Unavailable
from helios.model.topology import Topology

MIGRATION = replace(
    tests.fake_gateway.MIGRATION,
    id="m1",
    change="c1",
    target_node="shard-4",
    requested_at=1.5,
    start_time=2.0,
)
CHANGE = ChangeView("c1", "add_node", "queued", "it waits", ("m1", "m2"))
NODE = replace(
    tests.fake_gateway.NODE,
    address="h:1",
    kind="external",
    keys=None,
    ring_share=0.25,
    leader_address="h:1",
    last_seen=None,
)
STATS = StatsView(1, 1, 7, True, 1, 150, 0, 0, 3, "shard-1", False, 0, 2, (NODE,))


class FakeAdmin(tests.fake_gateway.FakeAdmin):
    """Remembers in `asked` what the verbs with arguments gave it; refuses some."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    async def add_node(self, node_id: str, address: str, **options: Any) -> ChangeView:
        self.asked.append((node_id, address, options))
        return CHANGE

    async def remove_node(self, node_id: str) -> ChangeView:
        raise Refused(f"{node_id} is the last node; nothing was changed")

    async def list_nodes(self) -> list[NodeView]:
        return [NODE]

    async def list_shards(self) -> list[ShardView]:
        return [tests.fake_gateway.SHARD]

    async def node_for_key(self, key: bytes) -> KeyView:
        return KeyView(key.decode("utf-8", "replace"), "shard-1", "h:1", "rule", "user:*")

    async def migrate(self, source: str, target: str, pattern: str = "*", *, verify: bool = False) -> MigrationView:
        self.asked.append((source, target, pattern, *["verify"] * verify))
        return MIGRATION

    async def migration(self, migration_id: str) -> MigrationView:
        self.asked.append(migration_id)
        return MIGRATION

    async def migrations(self) -> list[MigrationView]:
        return [MIGRATION, MIGRATION]

    async def active_migrations(self) -> list[MigrationView]:
        return []

    async def cancel_migration(self, migration_id: str) -> MigrationView:
        raise Unavailable("no coordinator\r\nanswers")

    async def cleanup_migrations(self) -> int:
        return 3

    async def rebalance(self, *, strategy: str = "", by: str = "") -> ChangeView:
        self.asked.append((strategy, by))
        return CHANGE

    async def stats(self, *, exact: bool = True) -> StatsView:
        return STATS


@pytest.fixture
def admin() -> FakeAdmin:
    return FakeAdmin()


@pytest.fixture
async def lab(admin: FakeAdmin) -> AsyncIterator[RouterLab]:
    made = RouterLab({}, admin=admin)
    made.topology = Topology(epoch=1)
    async with made.running():
        yield made


async def ask(lab: RouterLab, *words: str | bytes) -> Any:
    reader = hiredis.Reader(encoding="utf-8")
    reader.feed(await lab.router.execute([word.encode() if isinstance(word, str) else word for word in words]))
    return reader.gets()


async def test_views_are_flat_in_resp2_and_maps_in_resp3(lab: RouterLab) -> None:
    flat = await ask(lab, "MIGRATIONSTATUS", "m1")
    assert flat[:6] == ["id", "m1", "change", "c1", "source_node", "shard-1"]
    assert dict(zip(flat[::2], flat[1::2], strict=True))["requested_at"] == "1.5"
    assert flat[-2:] == ["error", None]
    raw = await RawClient.connect(lab.port)
    raw.send("HELLO", "3")
    raw.send("ECHO", "here")
    while await raw.line() != b"here\r\n":
        pass
    raw.send("LISTNODES")
    reader = hiredis.Reader(encoding="utf-8")
    while (reply := reader.gets()) is False:
        reader.feed(await raw.line())
    assert reply[0]["id"] == "shard-1"
    assert reply[0]["weight"] == 1.0
    assert reply[0]["keys"] is None
    raw.close()


async def test_every_verb_answers(lab: RouterLab, admin: FakeAdmin) -> None:
    assert (await ask(lab, "listnodes"))[0][:2] == ["id", "shard-1"]
    assert (await ask(lab, "NODEFORKEY", b"\xffx"))[:4] == ["key", "\N{REPLACEMENT CHARACTER}x", "node_id", "shard-1"]
    assert (await ask(lab, "MIGRATE", "a", "b"))[1] == "m1"
    assert (await ask(lab, "MIGRATE", "a", "b", "user:*"))[1] == "m1"
    assert (await ask(lab, "MIGRATE", "a", "b", "verify"))[1] == "m1"
    assert (await ask(lab, "MIGRATE", "a", "b", "*", "verify"))[1] == "m1"
    assert admin.asked == [("a", "b", "*"), ("a", "b", "user:*"), ("a", "b", "verify"), ("a", "b", "*", "verify")]
    assert (await ask(lab, "CLUSTERSTATS"))[:2] == ["total_nodes", 1]
    assert (await ask(lab, "REBALANCE"))[-1] == ["m1", "m2"]
    assert await ask(lab, "ACTIVEMIGRATIONS") == []
    assert len(await ask(lab, "ALLMIGRATIONS")) == 2
    assert await ask(lab, "CLEANUPMIGRATIONS") == 3


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("LISTRULES", ("rules",)),
        ("CHECK", ("check", False)),
        ("CHECK repair", ("check", True)),
        ("PAUSEMIGRATION m", ("pause_migration", "m")),
        ("RESUMEMIGRATION m", ("resume_migration", "m")),
        ("CHANGESTATUS c", ("change", "c")),
        ("CHANGESTATUS c WAIT 2.5", ("change", "c", 2.5)),
        ("SETTINGS", ("settings",)),
        ("SETTING sharding.migration_rate", ("setting", "sharding.migration_rate")),
        ("SETTING sharding.migration_rate 5", ("change_setting", "sharding.migration_rate", "5")),
        ("SETTINGHISTORY", ("setting_history",)),
        ("SETTINGROLLBACK", ("roll_back_settings", None)),
        ("SETTINGROLLBACK 3", ("roll_back_settings", 3)),
        ("PREVIEW addnode n h:1", ("preview_add_node", "n", "h:1", 1.0)),
        ("PREVIEW ADDNODE n h:1 WEIGHT 2", ("preview_add_node", "n", "h:1", 2.0)),
        ("PREVIEW REMOVENODE n", ("preview_remove_node", "n")),
        ("PREVIEW MIGRATE a b", ("preview_migrate", "a", "b", "*")),
        ("PREVIEW MIGRATE a b user:*", ("preview_migrate", "a", "b", "user:*")),
        ("PREVIEW REBALANCE", ("preview_rebalance", "", "")),
        ("PREVIEW REBALANCE STRATEGY uniform BY ops", ("preview_rebalance", "uniform", "ops")),
        ("PREVIEW REWEIGHT n 2", ("preview_reweight", "n", 2.0)),
        ("PREVIEW DRAIN n", ("preview_drain", "n")),
        ("PREVIEW UNDRAIN n", ("preview_undrain", "n")),
        ("BALANCE", ("balance", "", "")),
        ("BALANCE by bytes", ("balance", "", "bytes")),
        ("PLACEMENT", ("placement",)),
        ("HISTORY", ("history", 20)),
        ("HISTORY 5", ("history", 5)),
        ("SLOWCOMMANDS", ("slow_commands", 20)),
        ("SLOWCOMMANDS 5", ("slow_commands", 5)),
        ("REWEIGHT n 0.5", ("reweight", "n", 0.5)),
        ("DRAIN n", ("drain", "n")),
        ("UNDRAIN n", ("undrain", "n")),
    ],
)
async def test_verbs_that_look_and_steer(lab: RouterLab, admin: FakeAdmin, line: str, call: tuple[object, ...]) -> None:
    reply = await ask(lab, *line.split())
    assert not isinstance(reply, hiredis.ReplyError), reply
    assert admin.calls == [call]


async def test_what_a_check_found_keeps_its_shape(lab: RouterLab) -> None:
    reply = await ask(lab, "CHECK")
    assert reply[:2] == ["clean", 0]
    assert reply[3][0][:6] == ["kind", "double", "node", "shard-2", "count", 2]
    assert await ask(lab, "LISTRULES") == [["source", "shard-1", "target", "shard-4", "patterns", ["user:*", "*:1"]]]


async def test_the_options_of_addnode(lab: RouterLab, admin: FakeAdmin) -> None:
    assert (await ask(lab, "ADDNODE", "n", "h:1"))[1] == "c1"
    await ask(lab, "ADDNODE", "n", "h:1", "weight", "0.5", "ZONE", "z", "import", "FLUSH")
    assert admin.asked == [
        ("n", "h:1", {}),
        ("n", "h:1", {"weight": 0.5, "zone": "z", "import_keys": True, "flush": True}),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("REMOVENODE", "n"), "REFUSED n is the last node; nothing was changed"),
        (("CANCELMIGRATION", "m"), "UNAVAILABLE no coordinator  answers"),
        (("ADDNODE", "n", "h:1", "WEIGHT", "much"), "INVALID 'much' is not a weight: use a number such as 1 or 0.5"),
        (("ADDNODE", "n", "h:1", "ZONE"), "INVALID ZONE needs a value: "),
        (("ADDNODE", "n", "h:1", "SOON"), "INVALID 'SOON' is no option of ADDNODE: "),
        (("ADDNODE", "n"), "ERR wrong number of arguments for 'addnode' command"),
        (("MIGRATE", "a", "b", "c", "d"), "ERR 'MIGRATE host port key ...' of the servers is refused"),
        (("CHECK", "everything"), "INVALID 'everything' is no option of CHECK: CHECK [REPAIR]"),
        (("SETTING", "a", "b", "c"), "INVALID 'c' is no option of SETTING: SETTING NAME [VALUE]"),
        (("SETTINGROLLBACK", "far"), "INVALID 'far' is not a number: SETTINGROLLBACK [NUMBER]"),
        (("PREVIEW", "FLUSHALL"), "INVALID write PREVIEW ADDNODE"),
        (
            ("PREVIEW", "REBALANCE", "now"),
            "INVALID 'now' is no option of PREVIEW REBALANCE: PREVIEW REBALANCE [STRATEGY",
        ),
        (("REBALANCE", "BY"), "INVALID BY needs a value: REBALANCE [STRATEGY"),
        (("REWEIGHT", "n", "much"), "INVALID 'much' is not a weight: use a number such as 1 or 0.5"),
        (("HISTORY", "all"), "INVALID 'all' is not a number: HISTORY [COUNT]"),
        (("PREVIEW", "ADDNODE", "n", "h:1", "ADOPT"), "INVALID 'ADOPT' is no option of PREVIEW ADDNODE: "),
        (("MIGRATIONSTATUS", b"\xff"), "INVALID the arguments of MIGRATIONSTATUS must be UTF-8: "),
        (("CLUSTERSTATS", "now"), "ERR wrong number of arguments for 'clusterstats' command"),
    ],
)
async def test_errors_carry_their_code(lab: RouterLab, words: tuple[str | bytes, ...], message: str) -> None:
    reply = await ask(lab, *words)
    assert isinstance(reply, hiredis.ReplyError)
    assert str(reply).startswith(message)


async def test_a_verb_keeps_its_place_in_a_pipeline(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    raw.writer.write(b"ECHO a\r\nCLEANUPMIGRATIONS\r\nECHO b\r\n")
    await raw.exactly(b"$1\r\na\r\n:3\r\n$1\r\nb\r\n")
    raw.close()
