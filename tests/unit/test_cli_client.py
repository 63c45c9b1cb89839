"""helios-cli: what is sent, what is shown, how it exits."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.fake_gateway import FOUND, MIGRATION, NODE, Gateway
from tests.fake_replies import REPLIES, STATS
from tests.fake_resp import FakeServer, resp3, serving

from helios.cli import client as entry
from helios.errors import NotFound

VERBS = [
    "set get del expire ttl addnode removenode listnodes listshards nodeforkey migrate migrationstatus",
    "clusterstats rebalance",
    "activemigrations allmigrations cancelmigration pausemigration resumemigration cleanupmigrations load dump",
    "listrules check config balance reweight drain undrain promote history top slowcommands backup restore",
]


class Cluster:
    """A fake node that answers every verb, and a way to call helios-cli at it."""

    def __init__(self) -> None:
        self.replies = REPLIES | {
            b"SET": "OK",
            b"GET": b"Alice",
            b"DEL": 1,
            b"PEXPIRE": 1,
            b"PTTL": 1500,
            b"CHECK": {"clean": True, "findings": [], "repaired": ""},
        }
        self.error: bytes | None = None
        self.server: FakeServer

    def answer(self, argv: list[bytes]) -> bytes:
        return self.error if self.error is not None else resp3(self.replies[argv[0]])

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        command = ["--port", str(self.server.port), *arguments]
        return CliRunner().invoke(entry.cli, command, input=stdin, prog_name="helios-cli")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    with serving(made.answer) as made.server:
        yield made


@pytest.mark.parametrize(
    ("arguments", "argv"),
    [
        (["set", "k", "v"], [b"SET", b"k", b"v"]),
        (["set", "k", "v", "60"], [b"SET", b"k", b"v", b"PX", b"60000"]),
        (["set", "k", "v", "0.25"], [b"SET", b"k", b"v", b"PX", b"250"]),
        (["set", "k", "-5"], [b"SET", b"k", b"-5"]),
        (["set", "k", "é"], [b"SET", b"k", "é".encode()]),
        (["set", "k", "\udcff"], [b"SET", b"k", b"\xff"]),
        (["set", "--", "--json", "v"], [b"SET", b"--json", b"v"]),
        (["get", "-k"], [b"GET", b"-k"]),
        (["del", "a", "b"], [b"DEL", b"a", b"b"]),
        (["expire", "k", "1.5"], [b"PEXPIRE", b"k", b"1500"]),
        (["ttl", "k"], [b"PTTL", b"k"]),
        (["addnode", "n", "h:1"], [b"ADDNODE", b"n", b"h:1"]),
        (
            ["addnode", "n", "h:1", "--weight", "2.5", "--zone", "z", "--import"],
            [b"ADDNODE", b"n", b"h:1", b"WEIGHT", b"2.5", b"ZONE", b"z", b"IMPORT"],
        ),
        (["addnode", "n", "h:1", "--flush"], [b"ADDNODE", b"n", b"h:1", b"FLUSH"]),
        (["addnode", "n", "h:1", "--adopt"], [b"ADDNODE", b"n", b"h:1", b"ADOPT"]),
        (["removenode", "n"], [b"REMOVENODE", b"n"]),
        (["listnodes"], [b"LISTNODES"]),
        (["nodeforkey", "k"], [b"NODEFORKEY", b"k"]),
        (["migrate", "a", "b"], [b"MIGRATE", b"a", b"b"]),
        (["migrate", "a", "b", "user:*"], [b"MIGRATE", b"a", b"b", b"user:*"]),
        (["migrationstatus", "m"], [b"MIGRATIONSTATUS", b"m"]),
        (["clusterstats"], [b"CLUSTERSTATS"]),
        (["rebalance"], [b"REBALANCE"]),
        (["activemigrations"], [b"ACTIVEMIGRATIONS"]),
        (["allmigrations"], [b"ALLMIGRATIONS"]),
        (["cancelmigration", "m"], [b"CANCELMIGRATION", b"m"]),
        (["cleanupmigrations"], [b"CLEANUPMIGRATIONS"]),
        (["pausemigration", "m"], [b"PAUSEMIGRATION", b"m"]),
        (["resumemigration", "m"], [b"RESUMEMIGRATION", b"m"]),
        (["listrules"], [b"LISTRULES"]),
        (["check"], [b"CHECK"]),
        (["check", "--repair"], [b"CHECK", b"REPAIR"]),
        (["config", "show"], [b"SETTINGS"]),
        (["config", "show", "a.b"], [b"SETTING", b"a.b"]),
        (["config", "set", "a.b", "-1"], [b"SETTING", b"a.b", b"-1"]),
        (["migrate", "a", "b", "--verify"], [b"MIGRATE", b"a", b"b", b"*", b"VERIFY"]),
        (["migrate", "a", "b", "p", "--verify"], [b"MIGRATE", b"a", b"b", b"p", b"VERIFY"]),
        (["migrate", "a", "b", "p", "--dry-run"], [b"PREVIEW", b"MIGRATE", b"a", b"b", b"p"]),
        (["rebalance", "--dry-run"], [b"BALANCE"]),
        (["rebalance", "--strategy", "uniform"], [b"REBALANCE", b"STRATEGY", b"uniform"]),
        (["rebalance", "--by", "ops", "--dry-run"], [b"BALANCE", b"BY", b"ops"]),
        (["balance", "--by", "bytes"], [b"BALANCE", b"BY", b"bytes"]),
        (["history"], [b"HISTORY", b"20"]),
        (["slowcommands", "--count", "5"], [b"SLOWCOMMANDS", b"5"]),
        (["reweight", "n", "2"], [b"REWEIGHT", b"n", b"2.0"]),
        (["reweight", "n", "2", "--dry-run"], [b"PREVIEW", b"REWEIGHT", b"n", b"2.0"]),
        (["drain", "n"], [b"DRAIN", b"n"]),
        (["promote", "s", "n"], [b"PROMOTE", b"s", b"n"]),
        (["promote", "s", "n", "--accept-loss"], [b"PROMOTE", b"s", b"n", b"ACCEPT-LOSS"]),
        (["drain", "n", "--dry-run"], [b"PREVIEW", b"DRAIN", b"n"]),
        (["undrain", "n"], [b"UNDRAIN", b"n"]),
        (["removenode", "n", "--dry-run"], [b"PREVIEW", b"REMOVENODE", b"n"]),
        (
            ["addnode", "n", "h:1", "--weight", "2", "--zone", "z", "--dry-run"],
            [b"PREVIEW", b"ADDNODE", b"n", b"h:1", b"WEIGHT", b"2.0"],
        ),
    ],
)
def test_every_verb_sends_its_command_and_serves_people_and_programs(
    cluster: Cluster, arguments: list[str], argv: list[bytes]
) -> None:
    for_people = cluster.run(*arguments)
    assert for_people.exit_code == 0, for_people.output
    assert cluster.server.commands == [argv]
    assert for_people.stdout
    assert for_people.stderr == ""
    for_programs = cluster.run("--json", *arguments)
    assert for_programs.exit_code == 0
    json.loads(for_programs.stdout)


@pytest.mark.parametrize("verb", " ".join(VERBS).split())
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    shown = CliRunner().invoke(entry.cli, [verb, "--help"], prog_name="helios-cli")
    assert shown.exit_code == 0
    assert "Example: helios-cli" in shown.stdout
    assert verb in shown.stdout.partition("Example:")[2]


SHAPES = [
    ("listnodes", "GET", "nodes", None),
    ("listshards", "GET", "", None),
    ("nodeforkey user:alice", "GET", "node?key=user:alice", None),
    ("clusterstats", "GET", "stats", None),
    ("addnode n h:1", "POST", "nodes", {"node_id": "n", "address": "h:1"}),
    ("addnode n h:1 --dry-run", "POST", "nodes?dry_run=true", {"node_id": "n", "address": "h:1"}),
    ("removenode n", "DELETE", "nodes", {"node_id": "n"}),
    ("removenode n --dry-run", "DELETE", "nodes?dry_run=true", {"node_id": "n"}),
    ("migrate a b", "POST", "migrate", {"source_node": "a", "target_node": "b"}),
    ("migrate a b --dry-run", "POST", "migrate?dry_run=true", {"source_node": "a", "target_node": "b"}),
    ("migrationstatus m", "GET", "migration?task_id=m", None),
    ("allmigrations", "GET", "migrations", None),
    ("activemigrations", "GET", "migrations/active", None),
    ("cancelmigration m", "POST", "migrations/m/cancel", None),
    ("pausemigration m", "POST", "migrations/m/pause", None),
    ("resumemigration m", "POST", "migrations/m/resume", None),
    ("cleanupmigrations", "POST", "migrations/cleanup", None),
    ("rebalance", "POST", "rebalance", None),
    ("rebalance --dry-run", "POST", "rebalance?dry_run=true", None),
    ("reweight n 2", "PUT", "nodes/n/weight", {"weight": 2}),
    ("reweight n 2 --dry-run", "PUT", "nodes/n/weight?dry_run=true", {"weight": 2}),
    ("drain n", "POST", "nodes/n/drain", None),
    ("promote s n", "POST", "promote", {"shard": "s", "node_id": "n"}),
    ("drain n --dry-run", "POST", "nodes/n/drain?dry_run=true", None),
    ("undrain n", "POST", "nodes/n/undrain", None),
    ("balance", "GET", "balance", None),
    ("history", "GET", "history", None),
    ("listrules", "GET", "rules", None),
    ("check", "POST", "check", None),
    ("slowcommands", "GET", "slow-commands", None),
    ("config show", "GET", "settings", None),
    ("config show sharding.migration_rate", "GET", "settings/sharding.migration_rate", None),
    ("config set sharding.migration_rate 5", "PUT", "settings/sharding.migration_rate", {"value": 5}),
    ("config history", "GET", "settings/history", None),
    ("config rollback", "POST", "settings/rollback", None),
]
VALUES = [
    ("get k", "GET", "k", None),
    ("set k Alice", "PUT", "k", {"value": "Alice"}),
    ("set k Alice 0.25", "PUT", "k", {"value": "Alice", "ttl": 0.25}),
    ("set \udcff v", "PUT", "%ff", {"value": "v"}),
    ("del k", "DELETE", "k", None),
]


def _shape(value: Any) -> Any:
    """The names at every depth, without the values, which two fakes need not share."""
    if isinstance(value, dict):
        return {name: _shape(item) for name, item in value.items()}
    return [_shape(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


@pytest.mark.parametrize(("words", "method", "path", "body"), SHAPES)
async def test_json_has_the_shapes_of_rest(
    cluster: Cluster, words: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    gateway = Gateway()
    async with gateway.http:
        response = await gateway.http.request(method, f"/api/v1/shards/{path}".rstrip("/"), json=body)
    assert response.is_success, response.text
    cluster.replies[b"CHECK"] = asdict(FOUND)
    printed = cluster.run("--json", *words.split())
    assert _shape(json.loads(printed.stdout)) == _shape(response.json())


@pytest.mark.parametrize(("words", "method", "path", "body"), VALUES)
async def test_json_of_values_is_that_of_rest(
    cluster: Cluster, words: str, method: str, path: str, body: dict[str, Any] | None
) -> None:
    gateway = Gateway()
    gateway.kv.values[b"k"] = b"Alice"
    async with gateway.http:
        response = await gateway.http.request(method, f"/api/v1/kv/{path}", json=body)
    assert response.is_success, response.text
    assert json.loads(cluster.run("--json", *words.split()).stdout) == response.json()


def test_every_verb_that_rest_has_is_compared() -> None:
    # Times to end, files and the screen.
    alone = {"expire", "ttl", "load", "dump", "backup", "restore", "top"}
    compared = {words.split()[0] for words, *_ in [*SHAPES, *VALUES]}
    assert compared == set(" ".join(VERBS).split()) - alone


async def test_errors_have_the_shape_of_rest(cluster: Cluster) -> None:
    gateway = Gateway()
    gateway.admin.error = NotFound("no migration m")
    async with gateway.http:
        response = await gateway.http.get("/api/v1/shards/migration?task_id=m")
    cluster.error = b"-NOTFOUND no migration m\r\n"
    printed = cluster.run("--json", "migrationstatus", "m")
    assert printed.exit_code == 1
    assert json.loads(printed.stdout) == response.json() == {"error": {"code": "NOTFOUND", "message": "no migration m"}}
    assert printed.stderr == "helios-cli: no migration m (NOTFOUND)\n"
    assert cluster.run("migrationstatus", "m").stdout == ""
    missing = cluster.run("--json", "del", "a")
    assert json.loads(missing.stdout)["error"]["code"] == "NOTFOUND"
    wrong = cluster.run("--json", "listnode")
    assert wrong.exit_code == 2
    assert json.loads(wrong.stdout)["error"]["code"] == "INVALID"


def test_json_names_the_key_that_a_verb_was_about(cluster: Cluster) -> None:
    assert json.loads(cluster.run("--json", "expire", "k", "60").stdout) == {"key": "k", "status": "set", "ttl": 60}
    assert json.loads(cluster.run("--json", "ttl", "k").stdout) == {"key": "k", "ttl": 1.5}
    cluster.replies[b"DEL"] = 2
    assert json.loads(cluster.run("--json", "del", "a", "b", "c").stdout) == {"deleted": 2}


def test_a_key_that_is_not_there_is_one_object(cluster: Cluster) -> None:
    cluster.replies[b"DEL"] = 0
    printed = cluster.run("--json", "del", "a", "b")
    assert printed.exit_code == 1
    assert json.loads(printed.stdout)["error"] == {"code": "NOTFOUND", "message": "there is no key 'a', 'b'"}


@pytest.mark.parametrize(
    ("words", "meant"), [("listnode", "listnodes"), ("clusterstat", "clusterstats"), ("config shwo", "show")]
)
def test_a_verb_that_is_almost_right_is_suggested(cluster: Cluster, words: str, meant: str) -> None:
    result = cluster.run(*words.split())
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.stderr


def test_the_verbs_are_these() -> None:
    assert set(entry.cli.commands) == set(" ".join(VERBS).split())


def test_a_check_with_findings_is_exit_status_1(cluster: Cluster) -> None:
    cluster.replies[b"CHECK"] = asdict(FOUND) | {"repaired": "2 stale copies deleted"}
    result = cluster.run("check", "--repair")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "repaired: 2 stale copies deleted",
        "FINDING  NODE     COUNT  DETAIL",
        "double   shard-2      2  keys that their owners have too: 'a', 'b'",
    ]
    assert result.stderr == ""
    for_programs = cluster.run("check", "--json")
    assert for_programs.exit_code == 1
    assert json.loads(for_programs.stdout)["findings"][0]["kind"] == "double"


def test_slow_commands_are_told_with_the_routers_that_did_not_tell(cluster: Cluster) -> None:
    heading, slow, missing = cluster.run("slowcommands").stdout.splitlines()
    assert heading.split() == ["WHEN", "TOOK", "ROUTER", "CLIENT", "COMMAND"]
    assert slow.split()[2:] == ["12.5", "ms", "shard-1/0", "127.0.0.1:4242", "worker", "GET", "films"]
    assert missing == "unknown: shard-2 worker 1: it does not answer at 127.0.0.1:7: time-out"
    cluster.replies[b"SLOWCOMMANDS"] = {"commands": [], "missing": []}
    assert cluster.run("slowcommands").stdout == "no slow commands\n"


def test_json_has_every_field_of_the_views(cluster: Cluster) -> None:
    assert json.loads(cluster.run("listnodes", "--json").stdout) == {"nodes": [asdict(NODE)]}
    assert json.loads(cluster.run("migrationstatus", "m", "--json").stdout) == asdict(MIGRATION)
    assert json.loads(cluster.run("clusterstats", "--json").stdout) == json.loads(json.dumps(asdict(STATS)))


def test_get_prints_the_bytes_alone(cluster: Cluster) -> None:
    value = bytes(range(256))
    cluster.replies[b"GET"] = value
    assert cluster.run("get", "k").stdout_bytes == value
    assert json.loads(cluster.run("get", "k", "--json").stdout) == {
        "key": "k",
        "value_base64": base64.b64encode(value).decode(),
    }


def test_set_reads_every_byte_of_stdin(cluster: Cluster) -> None:
    value = bytes(range(256)) + b"\r\n"
    assert cluster.run("set", "k", "-", stdin=value).exit_code == 0
    assert cluster.server.commands == [[b"SET", b"k", value]]


@pytest.mark.parametrize(
    ("verb", "command", "reply"),
    [("get", b"GET", None), ("del", b"DEL", 0), ("expire", b"PEXPIRE", 0), ("ttl", b"PTTL", -2)],
)
def test_a_missing_key_is_exit_status_1(cluster: Cluster, verb: str, command: bytes, reply: int | None) -> None:
    cluster.replies[command] = reply
    result = cluster.run(verb, "gone", *(["5"] if verb == "expire" else []))
    assert result.exit_code == 1
    assert result.stdout == ("0\n" if verb == "del" else "")
    assert "there is no key 'gone'" in result.stderr


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (["get", "k"], [1, None]),
        (["get", "k"], 7),
        (["del", "k"], b"1"),
        (["expire", "k", "9"], []),
        (["ttl", "k"], None),
    ],
)
def test_an_odd_reply_of_a_data_server_is_named(cluster: Cluster, words: list[str], reply: Any) -> None:
    command = {"get": b"GET", "del": b"DEL", "expire": b"PEXPIRE", "ttl": b"PTTL"}[words[0]]
    cluster.replies[command] = reply
    result = cluster.run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "which is no answer to it" in result.stderr


@pytest.mark.parametrize(("left_ms", "text"), [(1500, "2\n"), (1000, "1\n"), (1, "1\n"), (-1, "-1\n")])
def test_ttl_is_in_seconds(cluster: Cluster, left_ms: int, text: str) -> None:
    cluster.replies[b"PTTL"] = left_ms
    assert cluster.run("ttl", "k").stdout == text


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        (b"-REFUSED shard-4 is being drained\r\n", "shard-4 is being drained (REFUSED)"),
        (b"-it went wrong\r\n", "it went wrong"),
        (b"-LOADING\r\n", "LOADING"),
    ],
)
def test_a_refusal_is_shown_in_the_servers_words_its_code_last(cluster: Cluster, reply: bytes, shown: str) -> None:
    cluster.error = reply
    result = cluster.run("removenode", "shard-4")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"helios-cli: {shown}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nosuch"],
        ["get"],
        ["get", "a", "b"],
        ["set", "k", "v", "soon"],
        ["set", "k", "v", "-1"],
        ["set", "k", "v", "nan"],
        ["expire", "k", "0"],
        ["addnode", "n", "h:1", "--import", "--flush"],
        ["addnode", "n", "h:1", "--colour", "red"],
        ["addnode", "n", "h:1", "--dry-run", "--adopt"],
        ["rebalance", "--dry-run", "--wait"],
        ["rebalance", "--by", "colour"],
        ["drain", "n", "--dry-run", "--wait"],
        ["reweight", "n", "heavy"],
        ["history", "--count", "0"],
        ["config"],
        ["config", "set", "a"],
        ["check", "--mend"],
        ["addnode", "n", "h:1", "--weight", "heavy"],
        ["load", "a.csv"],
        ["dump", "-"],
        ["load", "a.tsv", "--format", "csv"],
        ["--port", "0", "get", "k"],
        ["--port"],
    ],
)
def test_wrong_use_is_exit_status_2_and_sends_nothing(cluster: Cluster, arguments: list[str]) -> None:
    result = cluster.run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: helios-cli" in result.stderr or "Error: " in result.stderr
    assert cluster.server.commands == []


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        result = CliRunner().invoke(entry.cli, ["--port", str(taken.getsockname()[1]), "get", "k"])
    assert result.exit_code == 1
    assert "cannot connect to 127.0.0.1:" in result.stderr
    assert "helios up" in result.stderr


def test_a_reply_that_never_comes_is_an_unknown_outcome() -> None:
    with serving(lambda _: None) as server:
        result = CliRunner().invoke(entry.cli, ["--port", str(server.port), "set", "k", "v"])
    assert result.exit_code == 1
    assert "may or may not have been carried out" in result.stderr


def test_a_server_that_does_not_speak_resp_is_named() -> None:
    with serving(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        result = CliRunner().invoke(entry.cli, ["--port", str(server.port), "get", "k"])
    assert result.exit_code == 1
    assert "does not speak RESP" in result.stderr


def test_host_and_port_come_from_the_environment(cluster: Cluster) -> None:
    environment = {"HELIOS_HOST": "127.0.0.1", "HELIOS_PORT": str(cluster.server.port)}
    result = CliRunner().invoke(entry.cli, ["get", "k"], env=environment)
    assert (result.exit_code, result.stdout) == (0, "Alice")


def test_host_and_port_are_taken_as_redis_cli_takes_them(cluster: Cluster) -> None:
    result = CliRunner().invoke(entry.cli, ["-h", "127.0.0.1", "-p", str(cluster.server.port), "get", "k"])
    assert (result.exit_code, result.stdout) == (0, "Alice")


@pytest.mark.parametrize(
    ("argv", "hoisted"),
    [
        (["get", "k", "--json"], ["--json", "get", "k"]),
        (["get", "--port", "1", "k", "--host=h"], ["--port", "1", "--host=h", "get", "k"]),
        (["get", "--", "--json"], ["get", "--", "--json"]),
        (["-h", "h", "-p", "1", "set", "k", "-p", "--json"], ["--json", "-h", "h", "-p", "1", "set", "k", "-p"]),
        (["--json=1", "get"], ["--json=1", "get"]),
        (["get", "--port"], ["--port", "get"]),
        ([], []),
    ],
)
def test_options_may_follow_the_verb(argv: list[str], hoisted: list[str]) -> None:
    assert entry.hoist(argv) == hoisted


def test_a_call_imports_nothing_heavy() -> None:
    script = "import sys; from helios.cli.client import cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pydantic", "typer", "rich", "asyncio", "fastapi", "yaml", "json", "gzip", "http"}
    assert heavy.isdisjoint(loaded)


def test_a_reader_that_hangs_up_ends_the_program_without_a_word(cluster: Cluster) -> None:
    cluster.replies[b"GET"] = b"x" * 1_000_000
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-c", "from helios.cli.client import main; main()", "--port", str(cluster.server.port)]
    try:
        done = subprocess.run([*command, "get", "k"], stdout=write_end, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write_end)
    assert done.returncode == entry.BROKEN_PIPE_STATUS
    assert done.stderr == b""


def test_an_interrupt_is_exit_status_130() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def answer(_: list[bytes]) -> None:
        asked.set()
        go_on.wait(30)

    with serving(answer) as server:
        command = [sys.executable, "-c", "from helios.cli.client import main; main()", "--port", str(server.port)]
        process = subprocess.Popen([*command, "get", "k"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert asked.wait(30)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
        go_on.set()
    assert process.returncode == entry.INTERRUPTED_STATUS
    assert (stdout, stderr) == (b"", b"")
