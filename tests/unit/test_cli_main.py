"""The `helios` command line, as far as it starts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner as CliRunnerOfClick
from typer.testing import CliRunner

import helios
from helios.cli import client
from helios.cli.main import app
from helios.model.passwords import matches

runner = CliRunner()


def test_help_shows_what_people_use() -> None:
    shown = runner.invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in ("up", "node", "gateway"):
        assert f"  {command} " in shown.output
    assert "router" not in shown.output
    assert "Example: helios up" in runner.invoke(app, ["up", "--help"]).output
    assert "parent-pipe" not in runner.invoke(app, ["up", "--help"]).output


def test_the_version_is_said_alike_everywhere() -> None:
    shown = runner.invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"helios {helios.__version__}\n")
    assert CliRunnerOfClick().invoke(client.cli, ["--version"]).output == f"helios-cli {helios.__version__}\n"
    assert "Did you mean 'up'?" in runner.invoke(app, ["ups"]).output


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["up", "--shards", "0"], "--shards is 0 but must be from 1 to 128"),
        (["up", "--port", "65536"], "--port is 65536 but must be from 1 to 65535"),
        (["up", "--api-port", "0"], "--api-port is 0 but must be from 1 to 65535"),
        (["up", "--workers", "0"], "command line: router.workers is 0 but must be"),
        (["up", "--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["up", "--bind", "0.0.0.0"], "shard-1 would listen on 0.0.0.0, which can be reached from other machines"),
        (["node", "--id", "a/b", "--listen", "localhost:1"], "'a/b' cannot be the id of a node"),
        (["node", "--id", "a", "--listen", "localhost"], "'localhost' is not an address"),
        (["node", "--id", "a", "--listen", "0.0.0.0:7000"], "can be reached from other machines"),
        (["gateway", "--listen", "nowhere"], "gateway.listen is nowhere but must be"),
    ],
)
def test_wrong_use_is_named_without_a_traceback(
    words: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = runner.invoke(app, words)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("helios: ")
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_password_becomes_a_hash() -> None:
    made = runner.invoke(app, ["hash-password"], input="secret\n")
    assert made.exit_code == 0
    assert matches(b"secret", made.stdout.rstrip("\n"))
    assert "secret" not in made.output
    assert runner.invoke(app, ["hash-password"], input="secret\n").stdout != made.stdout
    empty = runner.invoke(app, ["hash-password"], input="")
    assert (empty.exit_code, empty.stdout) == (2, "")
    assert "the password is empty" in empty.stderr


def test_a_port_beside_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h.yaml").write_text("security: {plain_port_offset: 50000, tls_cert_file: c, tls_key_file: k}\n")
    ended = runner.invoke(app, ["node", "--id", "a", "--listen", "127.0.0.1:30000", "--config", "h.yaml"])
    assert ended.exit_code == 2
    assert "a would listen above port 65535 without TLS" in ended.stderr


@pytest.mark.parametrize("words", [["up", "--nonsense"], ["nonsense"], ["node"]])
def test_unknown_words_are_wrong_use(words: list[str]) -> None:
    assert runner.invoke(app, words).exit_code == 2


def test_help_loads_none_of_what_does_the_work() -> None:
    code = "import sys, helios.cli.main; print({'pydantic', 'uvloop', 'fastapi', 'helios.runtime'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
