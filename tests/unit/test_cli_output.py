"""Tables and texts for people."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from tests.fake_gateway import BALANCE, CHANGE, HISTORY, LOAD, MIGRATION, NODE, PREVIEW, RULE, SETTING

from helios.admin.views import KeyFigureView, StatsView
from helios.cli import balance_output, cluster_output, output
from helios.terminal import clean

NOW = 1_700_000_010.0


def test_a_table_aligns_its_columns() -> None:
    assert output.table(["NAME", ">N"], [["a", "1"], ["longer", "10"]]) == "NAME     N\na        1\nlonger  10"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.25, "0.2 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


def test_moments() -> None:
    assert output.ago(None, NOW) == "never"
    assert output.ago(NOW - 0.5, NOW) == "now"
    assert output.ago(NOW + 5, NOW) == "now"
    assert output.ago(NOW - 120, NOW) == "2 min ago"
    assert output.clock(None) == "-"


def test_control_characters_cannot_reach_the_terminal() -> None:
    assert clean("a\x1b[2Jb\nç") == "a\\x1b[2Jb\\nç"
    assert "\x1b" not in output.table(["X"], [["\x1b"]]) + output.facts([("x", "\x1b")])


def test_replies_become_text() -> None:
    reply = {b"a": [b"x", 1, None, True, 1.5], b"b": {b"c": b"\xff"}}
    assert output.plain(reply) == {"a": ["x", 1, None, True, 1.5], "b": {"c": "\\xff"}}


def test_nodes_show_id_address_status_keys_share_leader_and_last_seen() -> None:
    away = replace(NODE, id="shard-2", status="offline", keys=None, last_seen=None, kind="external")
    text = cluster_output.nodes([asdict(replace(NODE, keys=30_123)), asdict(away)], NOW)
    heading, first, second = text.splitlines()
    assert heading.split() == ["ID", "ADDRESS", "STATUS", "STATE", "KEYS", "SHARE", "LEADER", "LAST", "SEEN"]
    assert " ".join(first.split()) == "shard-1 localhost:6379 online active 30,123 50.0 % shard-1.0 10 s ago"
    assert "(external)" in second
    assert " ? " in second
    assert second.endswith("never")


def test_zone_and_weight_show_where_they_are_set() -> None:
    text = cluster_output.nodes([asdict(replace(NODE, zone="eu", weight=2.5))], NOW)
    assert text.splitlines()[0].endswith("ZONE  WEIGHT")
    assert text.endswith("eu       2.5")


def test_loads_show_where_the_cluster_is_looked_at_and_silence_has_a_reason() -> None:
    heading, row = cluster_output.nodes([asdict(NODE)], NOW, loads=True).splitlines()
    assert heading.endswith("BYTES  OPS/S      OFF")
    assert " ".join(row.split()).endswith("10 s ago 2.0 KB 12 +25.0 %")
    away = replace(NODE, status="offline", status_reason="its agent sends no heartbeat", bytes=None, ops=None)
    text = cluster_output.nodes([asdict(away)], NOW)
    assert text.splitlines()[-1].startswith("shard-1 is offline since ")
    assert text.endswith(": its agent sends no heartbeat")


def test_the_cluster_says_how_old_the_oldest_of_its_figures_are() -> None:
    fresh, old = replace(NODE, measured_at=NOW - 4), replace(NODE, id="shard-2", measured_at=NOW - 70)
    stats = StatsView(2, 2, 3, True, 1, 150, 1, 0, 9, None, True, 1000, 0, (fresh, old))
    text = cluster_output.stats(asdict(stats), NOW)
    assert "loads               bytes, operations and OFF as collected 1 min 10 s ago" in text
    unknown = replace(stats, nodes=(replace(NODE, measured_at=None),))
    assert "collected" not in cluster_output.stats(asdict(unknown), NOW)


def test_the_cluster_says_what_its_shards_lack() -> None:
    stats = StatsView(2, 2, 3, True, 3, 150, 1, 0, 9, None, True, 1000, 0, (NODE,), lag_bytes=37, lag_s=0.5)
    assert "copies              all there; at most 37 B and 0.5 s behind" in cluster_output.stats(asdict(stats), NOW)
    lacking = replace(stats, under_replicated=3, leaderless=1, without_majority=2, lag_bytes=None)
    said = "copies              shards: 1 without a leader, 2 without a majority, 3 lacking some"
    assert said in cluster_output.stats(asdict(lacking), NOW)


def test_the_cluster_says_what_replicas_answered_where_they_were_asked() -> None:
    stats = StatsView(2, 2, 3, True, 3, 150, 1, 0, 9, None, True, 1000, 0, (NODE,))
    assert "replica reads" not in cluster_output.stats(asdict(stats), NOW)
    asked = replace(stats, replica_reads=29_050, replica_reads_by_leader=4)
    said = "replica reads       29,050; 4 more had to be answered by leaders"
    assert said in cluster_output.stats(asdict(asked), NOW)


def test_balance_has_bars_and_says_what_would_be_done() -> None:
    text = balance_output.balance(asdict(BALANCE), NOW)
    lines = text.splitlines()
    assert lines[0].split() == ["NODE", "STATUS", "KEYS", "BYTES", "OPS/S", "SHARE", "OFF", "BY", "KEYS"]
    assert lines[1].endswith("+25.0 %          │████")
    assert lines[2].endswith("-50.0 %  ████████│")
    assert "worst      shard-2, 50.0% less keys than its share" in lines
    assert "big keys   films on shard-1 (293.0 KB); 0 % of each node's keys looked at in the last minute" in lines
    assert "hot keys   user:1 on shard-2 (about 1,200 operations/s)" in lines
    assert "collected  10 s ago" in lines
    assert "rebalance (uniform, by keys): shard-2 carries 50.0% less keys than its share" in lines
    assert "shard-1  shard-2  1,200  87.9 KB" in text
    assert "no nodes yet" in balance_output.balance(asdict(replace(BALANCE, nodes=())), NOW)


def test_hot_keys_and_nodes_that_could_not_be_looked_at() -> None:
    hot = replace(LOAD, hits_known=True, hot_keys=(KeyFigureView("k", 10, 5000),), error="gone", deviation=None)
    text = balance_output.balance(asdict(replace(BALANCE, nodes=(hot,), worst="", moves=())), NOW)
    assert "(about 1,200 operations/s), k on shard-1 (about 5,000 accesses)" in text
    assert "shard-1    not collected: gone" in text
    calm = replace(hot, hot_keys=(), big_keys=(), error="")
    text = balance_output.balance(asdict(replace(BALANCE, nodes=(calm,), hot_keys=())), NOW)
    assert "big keys   none met so far" in text
    assert "hot keys   none stands out" in text


def test_history_says_who_and_why() -> None:
    assert balance_output.history([]) == "nothing was done yet"
    failed = replace(HISTORY, origin="user", status="failed", message="shard-2 went away", ended_at=None)
    heading, first, why, second, failure = balance_output.history([asdict(HISTORY), asdict(failed)]).splitlines()
    assert heading.split() == ["REQUESTED", "BY", "WHAT", "STATUS", "KEYS", "MOVED", "ENDED"]
    assert "automatic  rebalance --by keys --strategy uniform  done" in first
    assert why == "    shard-2 carries 50.0% less keys than its share"
    assert second.endswith("-")
    assert failure == "    shard-2 went away"


def test_one_migration() -> None:
    text = cluster_output.migration(asdict(MIGRATION), NOW)
    assert "in_progress (copying)" in text
    assert "5 of 10 (50 %)" in text
    assert "error" not in text
    assert "slowed      -" in text
    steered = replace(MIGRATION, paused=True, slowed_ms=16, remaining_s=12.4, verified=1200)
    text = cluster_output.migration(asdict(steered), NOW)
    assert "in_progress (copying, paused)" in text
    assert "time left   about 12 s" in text
    assert "slowed      writes to its keys, by up to 16 ms" in text
    assert "verified    1,200 copies compared, all equal" in text
    ended = replace(MIGRATION, status="failed", phase="", end_time=1_700_000_003.0, pause_ms=1.25, error="no\nroom")
    text = cluster_output.migration(asdict(ended), NOW)
    assert "1.2 ms" in text
    assert "took        1.5 s" in text
    assert text.endswith("error       no\\nroom")


def test_migrations() -> None:
    assert cluster_output.migrations([], NOW) == "no migrations"
    text = cluster_output.migrations([asdict(MIGRATION)], NOW)
    assert "ERROR" not in text
    assert text.splitlines()[1].startswith("m-1  shard-1  shard-2  user:*")
    assert "ERROR" in cluster_output.migrations([asdict(replace(MIGRATION, error="x"))], NOW)


def test_what_came_of_a_change() -> None:
    under_way = cluster_output.change(asdict(CHANGE))
    assert under_way.splitlines() == [
        "add node: running",
        "migrations: m-1",
        "`helios-cli activemigrations` shows how far it is",
    ]
    done = replace(CHANGE, status="done", message="shard-4 is in", migrations=())
    assert cluster_output.change(asdict(done)) == "shard-4 is in"


def test_what_would_move() -> None:
    assert cluster_output.preview([]) == "nothing would move"
    none = replace(PREVIEW, target_node="shard-3", keys=0, bytes=0)
    assert cluster_output.preview([asdict(none)]) == "nothing would move"
    other = replace(PREVIEW, target_node="shard-4", keys=34, bytes=10_000_000)
    assert cluster_output.preview([asdict(PREVIEW), asdict(none), asdict(other)]).splitlines() == [
        "FROM     TO        KEYS    BYTES",
        "shard-1  shard-2  1,200  87.9 KB",
        "shard-1  shard-4     34   9.5 MB",
        "all               1,234   9.6 MB",
        "estimated from up to 500 keys of each source; nothing was changed",
    ]


def test_rules_and_settings() -> None:
    assert cluster_output.rules([]).startswith("no rules")
    assert cluster_output.rules([asdict(RULE)]).splitlines()[1] == "shard-1  shard-4  user:* and *:1"
    assert cluster_output.settings([asdict(SETTING)]).splitlines()[1].split() == [
        "sharding.migration_rate",
        "1000",
        "Keys",
        "a",
        "second",
    ]
    assert "allowed      a whole number" in cluster_output.setting(asdict(SETTING))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KB"), (5 << 20, "5.0 MB"), (3 << 30, "3.0 GB"), (2 << 40, "2.0 TB")],
)
def test_sizes(number: int, text: str) -> None:
    assert output.size(number) == text


def test_a_table_that_a_terminal_is_too_narrow_for_is_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    table = ["ID", ">KEYS", "DETAIL"], [["shard-1", "12", "x" * 50], ["shard-2", "3", "y"]]
    wide = output.table(*table)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert output.table(*table).splitlines() == [
        "ID      shard-1",
        "KEYS    12",
        "DETAIL  " + "x" * 50,
        "",
        "ID      shard-2",
        "KEYS    3",
        "DETAIL  y",
    ]
    monkeypatch.setenv("COLUMNS", "80")
    assert output.table(*table) == wide
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert output.table(*table) == wide, "what a program reads stays a table"
