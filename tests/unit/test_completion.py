"""What a shell is offered when Tab is pressed."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from typer.testing import CliRunner

from helios.cli import completing
from helios.cli.client import cli
from helios.cli.main import app
from helios.model.setting_info import all_settings

HELIOS = "import sys; from helios.cli.main import main; sys.argv[0] = 'helios'; main()"


def offered(*words: str) -> list[str]:
    """What helios-cli offers for the last word."""
    *before, last = words
    completer = ShellComplete(cli, {}, "helios-cli", "_HELIOS_CLI_COMPLETE")
    return [item.value for item in completer.get_completions(list(before), last)]


def answered(line: str) -> list[str]:
    """What helios offers bash for the last word of a line."""
    env = {"_HELIOS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    words = [sys.executable, "-c", HELIOS]
    return subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_both_programs(shell: str) -> None:
    shown = CliRunner().invoke(app, ["completion", shell])
    assert shown.exit_code == 0
    assert f"_HELIOS_COMPLETE=complete_{shell}" in shown.stdout
    assert f"_HELIOS_CLI_COMPLETE={shell}_complete" in shown.stdout


def test_bash_takes_the_script_and_is_answered() -> None:
    script = CliRunner().invoke(app, ["completion", "bash"]).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert answered("helios co") == ["completion", "config"]


def test_settings_are_offered_behind_helios_config_too() -> None:
    assert answered("helios config show router.wor") == ["router.workers"]
    assert answered("helios config set router.") == [
        name for name, info in all_settings().items() if name.startswith("router.") and info.shared
    ]


def test_other_shells_are_wrong_use() -> None:
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2


def test_verbs_settings_and_ids_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ids(ctx: click.Context, verb: str) -> list[str]:
        asked.append(verb)
        return ["shard-1", "shard-2", "x"]

    monkeypatch.setattr(completing, "_ids", ids)
    assert offered("migr") == ["migrate", "migrationstatus"]
    assert offered("config", "set", "router.h") == ["router.hold_timeout"]
    assert offered("removenode", "sh") == ["shard-1", "shard-2"]
    assert offered("migrate", "shard-1", "") == ["shard-1", "shard-2", "x"]
    assert offered("migrationstatus", "x") == ["x"]
    assert offered("cancelmigration", "") == ["shard-1", "shard-2", "x"]
    assert asked == ["LISTNODES", "LISTNODES", "ALLMIGRATIONS", "ACTIVEMIGRATIONS"]


def test_where_nobody_answers_or_a_password_would_be_asked_for_nothing_is_offered() -> None:
    assert offered("--port", "1", "removenode", "") == []
    assert offered("--user", "somebody", "removenode", "") == []
