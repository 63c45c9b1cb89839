"""The `helios` command line, as far as it starts nothing."""

from __future__ import annotations

import os
import signal
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
from helios.runtime.command_lines import helios_command

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


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--id", "a/b", "--listen", "localhost:1"], "'a/b' cannot be the id of a node"),
        (["--id", "a", "--listen", "localhost"], "'localhost' is not an address"),
        (["--id", "a", "--listen", "localhost:1", "--advertise", "host"], "'host' is not an address"),
        (["--id", "a", "--listen", "0.0.0.0:7000"], "can be reached from other machines"),
        (["--id", "a", "--listen", "localhost:1", "--workers", "0"], "command line: router.workers is 0 but must be"),
        (["--id", "a", "--listen", "localhost:1", "--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["--id", "a", "--listen", "127.0.0.1:30000", "--config", "offset.yaml"], "a would listen above port 65535"),
    ],
)
def test_wrong_use_of_a_node_is_named_alike(words: list[str], complaint: str, tmp_path: Path) -> None:
    offset = "security: {plain_port_offset: 50000, tls_cert_file: c, tls_key_file: k}\n"
    (tmp_path / "offset.yaml").write_text(offset)
    argv = helios_command("node", *words)
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("helios: ")
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_node_goes_on_as_a_process_without_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, words: became.append([program, *words[1:]]))
    lean = [sys.executable, "-P", "-m", "helios.runtime.child", "node"]
    runner.invoke(app, ["node", "--id", "a", "--listen", "h:1"])
    assert became.pop() == [*lean, "--id", "a", "--listen", "h:1"]
    words = ["--listen", "h:1", "--advertise", "i:2", "--zone", "z", "--leave-running", "--data-dir", "d"]
    runner.invoke(app, ["node", "--id", "a", *words, "--config", "f", "--workers", "2", "--store", ""])
    own = ["--listen", "h:1", "--advertise", "i:2", "--zone", "z", "--leave-running", "yes", "--config", "f"]
    settings = ["--atlas.data_dir", "d", "--store.url", "", "--router.workers", "2"]
    assert became == [[*lean, "--id", "a", *own, *settings]]


def test_a_node_that_is_interrupted_before_it_runs_says_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.yaml")  # reading them waits for somebody who writes
    words = helios_command("node", "--id", "a", "--listen", "localhost:1", "--config", "settings.yaml")
    node = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    with (tmp_path / "settings.yaml").open("w"):  # which waits for the reader
        node.send_signal(signal.SIGINT)
        said, _ = node.communicate()
    assert (said, node.returncode) == (b"", 130)


def test_a_password_becomes_a_hash() -> None:
    made = runner.invoke(app, ["hash-password"], input="secret\n")
    assert made.exit_code == 0
    assert matches(b"secret", made.stdout.rstrip("\n"))
    assert "secret" not in made.output
    assert runner.invoke(app, ["hash-password"], input="secret\n").stdout != made.stdout
    empty = runner.invoke(app, ["hash-password"], input="")
    assert (empty.exit_code, empty.stdout) == (2, "")
    assert "the password is empty" in empty.stderr


@pytest.mark.parametrize("words", [["up", "--nonsense"], ["nonsense"], ["node"]])
def test_unknown_words_are_wrong_use(words: list[str]) -> None:
    assert runner.invoke(app, words).exit_code == 2


def test_help_loads_none_of_what_does_the_work() -> None:
    code = "import sys, helios.cli.main; print({'pydantic', 'uvloop', 'fastapi', 'helios.runtime'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "set()\n"
