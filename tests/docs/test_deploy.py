"""The files in deploy/ start commands that there are, with settings that there are."""

from __future__ import annotations

import shlex
from pathlib import Path
from string import Template

import pytest
from typer.main import get_group

from helios.cli.main import app
from helios.runtime.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
HELIOS = "/opt/helios/bin/helios"


def environment() -> dict[str, str]:
    lines = (DEPLOY / "helios.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def parsed(words: list[str]) -> dict[str, object]:
    """What a command line says, by parameter. Raises click.UsageError where there is no such command or option."""
    group = get_group(app)
    with group.make_context("helios", list(words), resilient_parsing=True) as context:
        name, command, rest = group.resolve_command(context, words)
        assert command is not None
        return command.make_context(name, rest, parent=context).params


def start_of(unit: Path) -> list[str]:
    """The words after the program of what a unit starts."""
    [line] = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    program, *words = shlex.split(Template(line.removeprefix("ExecStart=")).substitute(environment()))
    assert program == HELIOS
    return words


def test_there_is_a_unit_for_each_kind_of_process() -> None:
    assert [unit.name for unit in UNITS] == ["helios-gateway.service", "helios-node.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_command_that_takes_its_options(unit: Path) -> None:
    given = parsed(start_of(unit))
    assert str(given["data_dir"]) == "/var/lib/helios"
    assert given["listen"] in environment().values()


def test_the_environment_names_settings() -> None:
    settings = load_settings(None, environment(), {})
    assert str(settings.store.url).startswith("etcd://")
    assert str(settings.security.cluster_key_file) == "/etc/helios/cluster.key"


def test_the_image_runs_the_same_program_with_a_command_that_there_is() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert f'ENTRYPOINT ["{HELIOS}"]' in text
    comment = " ".join(line.removeprefix("#").rstrip("\\").strip() for line in text.splitlines() if line[:1] == "#")
    words = shlex.split(comment[comment.index("helios node") :])[1:]
    assert parsed(words)["advertise"] == "host-1:6379"


def test_an_agent_that_dies_leaves_what_serves() -> None:
    assert "KillMode=process" in (DEPLOY / "helios-node.service").read_text().splitlines()
