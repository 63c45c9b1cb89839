"""The page of programs, exit statuses and variables names all that there are, and each command has an example."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from tests.docs.console import ROOT

from helios.cli import client, outcome
from helios.cli.main import app

PAGE = (ROOT / "docs" / "COMMAND_LINE.md").read_text(encoding="utf-8")
# Those by which shells ask for completions: the scripts that `helios completion` prints set them.
OF_SHELLS = {"_HELIOS_COMPLETE", "_HELIOS_CLI_COMPLETE"}


def commands(group: Any, *before: str) -> Iterator[tuple[str, Any]]:
    """Every visible command with its whole name."""
    for name, command in group.commands.items():
        if not command.hidden:
            yield " ".join([*before, name]), command
            if hasattr(command, "commands"):
                yield from commands(command, *before, name)


HELIOS = dict(commands(typer.main.get_command(app), "helios"))
HELIOS_CLI = dict(commands(client.cli, "helios-cli"))


@pytest.mark.parametrize("name", HELIOS | HELIOS_CLI)
def test_every_command_has_an_example_that_calls_it(name: str) -> None:
    command = (HELIOS | HELIOS_CLI)[name]
    _, found, example = f"{command.help or ''}\n{command.epilog or ''}".partition("Example: ")
    assert found, f"{name} has no example"
    words, flagless = name.split(), [word for word in example.split() if not word.startswith("--")]
    assert "".join(words) in "".join(flagless).replace('eval"$(', ""), f"the example of {name} does not call it"


def test_every_command_of_helios_is_listed_and_no_other() -> None:
    listed = set(re.findall(r"^\| `(helios [a-z-]+)` \|", PAGE, re.MULTILINE))
    assert listed == {name for name in HELIOS if name.count(" ") == 1}
    config = PAGE[PAGE.index("| `helios config` |") :].partition("\n")[0]
    for name in HELIOS:
        if name.startswith("helios config "):
            assert f"`{name.rpartition(' ')[2]}`" in config


def test_every_variable_is_listed_and_no_other() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    used = set(re.findall(r"[\"'](_?HELIOS_[A-Z_]*[A-Z])[\"']", sources)) - OF_SHELLS
    assert len(used) > 5
    table = PAGE[PAGE.index("## Environment variables") : PAGE.index("## Completion")]
    assert set(re.findall(r"`(HELIOS_[A-Z_]*[A-Z])`", table)) == used


def test_every_exit_status_is_listed_and_no_other() -> None:
    listed = {int(status) for status in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    of_helios = {outcome.NOT_IN_ORDER, outcome.WRONG_USE}
    assert listed == {0, client.BROKEN_PIPE_STATUS, client.INTERRUPTED_STATUS} | of_helios
