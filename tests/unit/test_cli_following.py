"""Waiting for a move in a shell: what is shown meanwhile, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.fake_gateway import CHANGE, MIGRATION
from tests.fake_resp import FakeServer, resp3, serving

from helios.admin.views import ChangeView, MigrationView
from helios.cli import client as entry
from helios.cli import following

RUNNING = replace(CHANGE, message="accepted")
DONE = replace(RUNNING, status="done", message="done")
MOVED = replace(
    MIGRATION, status="completed", phase="", keys_moved=10, pause_ms=2.5, end_time=1_700_000_003.0, verified=10
)


class Node:
    """A node whose move goes through `story`, one step each time it is asked; the last step stays."""

    def __init__(self) -> None:
        self.story: list[tuple[ChangeView, list[MigrationView]] | bytes | None] = []
        self.asked = threading.Event()
        self.server: FakeServer

    def answer(self, argv: list[bytes]) -> bytes | None:
        if argv[0] == b"CHANGESTATUS":
            self.asked.set()
            step = self.story[0]
            if not isinstance(step, tuple):
                self.story.pop(0)
                return step
            return resp3(asdict(step[0]))
        if argv[0] == b"ALLMIGRATIONS":
            step = self.story[0] if len(self.story) == 1 else self.story.pop(0)
            assert isinstance(step, tuple)
            other = replace(MIGRATION, id="other", change="another")
            return resp3([asdict(other), *map(asdict, step[1])])
        return resp3(asdict(MIGRATION if argv[0] == b"MIGRATE" else CHANGE))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(entry.cli, ["--port", str(self.server.port), *arguments], prog_name="helios-cli")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(following, "POLL_S", 0.01)
    monkeypatch.setattr(following, "LINE_EVERY_S", 0.0)
    made = Node()
    with serving(made.answer) as made.server:
        yield made


def test_a_move_is_followed_to_its_end(node: Node) -> None:
    half = replace(MIGRATION, keys_moved=6, remaining_s=3.0)
    node.story = [(RUNNING, []), (RUNNING, [MIGRATION]), (RUNNING, [half]), (DONE, [MOVED])]
    result = node.run("migrate", "shard-1", "shard-2", "user:*", "--wait")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        "shard-1 → shard-2 user:*: 5 of 10 keys (50 %)",
        "shard-1 → shard-2 user:*: 6 of 10 keys (60 %), about 3.0 s left",
        "shard-1 → shard-2 user:*: completed, pause 2.5 ms, 10 copies verified, 10 keys",
    ]
    assert "status      completed" in result.stdout
    looks = [[b"CHANGESTATUS", b"c-1"], [b"CHANGESTATUS", b"c-1", b"WAIT", b"0.01"]]
    assert [command[0] for command in node.server.commands[:3]] == [b"MIGRATE", b"CHANGESTATUS", b"ALLMIGRATIONS"]
    assert [node.server.commands[place] for place in (1, 3)] == looks, "the node tells of the end at once"


def test_a_node_of_the_release_before_is_followed_too(node: Node) -> None:
    refused = b"-ERR wrong number of arguments for 'changestatus' command\r\n"
    node.story = [(RUNNING, [MIGRATION]), refused, (RUNNING, [MIGRATION]), refused, (DONE, [MOVED])]
    result = node.run("migrate", "shard-1", "shard-2", "--wait")
    assert result.exit_code == 0, result.output
    assert "asking again" not in result.stderr
    assert "status      completed" in result.stdout


def test_programs_get_the_last_state_as_json(node: Node) -> None:
    node.story = [(RUNNING, [MIGRATION]), (DONE, [MOVED])]
    result = node.run("migrate", "shard-1", "shard-2", "--wait", "--json")
    assert json.loads(result.stdout) == asdict(MOVED)
    result = node.run("rebalance", "--wait", "--json")
    assert json.loads(result.stdout)["status"] == "done"


@pytest.mark.parametrize("verb", [["addnode", "n", "h:1"], ["removenode", "n"], ["rebalance"]])
def test_every_change_can_be_waited_for(node: Node, verb: list[str]) -> None:
    node.story = [(RUNNING, [MIGRATION]), (DONE, [MOVED])]
    result = node.run(*verb, "--wait")
    assert result.exit_code == 0
    assert result.stdout.startswith("done\nID ")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_move_that_comes_to_nothing_is_exit_status_1_with_the_reason(node: Node, status: str) -> None:
    back = replace(MIGRATION, status=status, error="no room", phase="")
    node.story = [(RUNNING, [MIGRATION]), (replace(RUNNING, status=status, message="no room"), [back])]
    result = node.run("rebalance", "--wait")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"helios-cli: add node {status}: no room"
    assert status in result.stdout


def test_a_node_that_goes_away_for_a_moment_is_asked_again(node: Node) -> None:
    node.story = [
        (RUNNING, [MIGRATION]),
        None,
        b"-UNAVAILABLE the store is away\r\n",
        (RUNNING, [MIGRATION]),
        (DONE, [MOVED]),
    ]
    result = node.run("rebalance", "--wait")
    assert result.exit_code == 0, result.output
    assert "closed by the server" in result.stderr
    assert result.stderr.count("asking again") == 1
    assert "answers again" in result.stderr


def test_a_node_that_stays_away_is_given_up(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "GIVE_UP_S", 0.0)
    node.story = [None] * 1000
    result = node.run("rebalance", "--wait")
    assert result.exit_code == 1
    assert "may still go on" in result.stderr


def test_a_request_that_was_cleaned_up_cannot_be_followed(node: Node) -> None:
    node.story = [b"-NOTFOUND there is no request 'c-1'\r\n"]
    result = node.run("rebalance", "--wait")
    assert result.exit_code == 1
    assert "how it ended is not known" in result.stderr


def test_what_is_done_already_is_not_waited_for(node: Node) -> None:
    def answer(_: list[bytes]) -> bytes:
        return resp3(asdict(DONE))

    with serving(answer) as node.server:
        result = node.run("rebalance", "--wait")
        assert [command[0] for command in node.server.commands] == [b"REBALANCE"]
    assert (result.exit_code, result.stdout, result.stderr) == (0, "done\nmigrations: m-1\n", "")


def test_ctrl_c_stops_the_waiting_alone_and_says_so(node: Node) -> None:
    node.story = [(RUNNING, [MIGRATION])]
    script = "from helios.cli.client import main; main()"
    command = [sys.executable, "-c", script, "--port", str(node.server.port), "rebalance", "--wait"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert node.asked.wait(30)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == entry.INTERRUPTED_STATUS
    assert stdout == ""
    assert "no longer waiting; what was asked for goes on" in stderr
    assert "Traceback" not in stderr


def test_a_terminal_shows_a_bar(node: Node) -> None:
    paused = replace(MIGRATION, paused=True)
    node.story = [(RUNNING, [MIGRATION]), (RUNNING, [paused]), (DONE, [MOVED])]
    shown = _on_a_terminal(node.server.port, "rebalance", "--wait")
    assert "shard-1 → shard-2 user:*" in shown
    assert "━" in shown
    assert "10/10" in shown
    assert "completed, pause 2.5 ms" in shown


def test_moves_together_are_one_line() -> None:
    told: list[str] = []
    lines = following.Lines(told.append, now=lambda: 100.0)
    views: list[dict[str, Any]] = [
        asdict(replace(MIGRATION, remaining_s=4.0)),
        asdict(
            replace(
                MIGRATION,
                id="m-2",
                target_node="shard-3",
                total_keys=30,
                remaining_s=9.0,
                phase="catching_up",
                verified=7,
            )
        ),
    ]
    lines(views)
    lines(views)
    assert told == ["2 moves: 10 of 40 keys (25 %), about 9.0 s left, 7 compared, catching up"]
    nothing = [asdict(replace(MIGRATION, keys_moved=0, total_keys=0))]
    following.Lines(told.append, now=lambda: 100.0)(nothing)
    assert told[1] == "shard-1 → shard-2 user:*: no keys yet"


def _on_a_terminal(port: int, *arguments: str) -> str:
    """What a terminal of 120 columns shows of helios-cli."""
    screen, terminal = pty.openpty()
    script = "from helios.cli.client import main; main()"
    command = [sys.executable, "-c", script, "--port", str(port), *arguments]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                part = os.read(screen, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(30) == 0, shown
    os.close(screen)
    return shown.decode("utf-8", "replace")
