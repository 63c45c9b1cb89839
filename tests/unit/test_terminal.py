"""What is not ours reaches a terminal as text alone, and a pipe as it is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.fake_resp import resp3, serving

from helios.cli import files
from helios.resp.encoding import error_reply
from helios.runtime.lifecycle import say
from helios.terminal import shown

# Clears the screen; sets the title; is CSI in one byte to some terminals; rings; goes back to write over; turns round.
EVIL = "a\x1b[2J\x1b]0;title\x07\x9b31m\x08\r\u202eb"
HARMLESS = r"a\x1b[2J\x1b]0;title\x07\x9b31m\x08\r\u202eb"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_line_ends_and_tabs_control_a_terminal() -> None:
    assert shown(f"one\n{EVIL}\ttwo", Terminal()) == f"one\n{HARMLESS}\ttwo"
    assert shown(EVIL, io.StringIO()) == EVIL


def test_what_a_process_says_of_others_is_shown_safely(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    say(f"shard-1 could not start: {EVIL}")
    assert terminal.getvalue() == f"shard-1 could not start: {HARMLESS}\n"


def run(words: list[str], reply: Callable[[list[bytes]], bytes], *, terminal: bool) -> tuple[bytes, bytes]:
    """What helios-cli writes on stdout and stderr, each a terminal or a pipe."""
    with serving(reply) as server:
        command = [sys.executable, "-c", "from helios.cli.client import main; main()", "--port", str(server.port)]
        if not terminal:
            ended = subprocess.run([*command, *words], capture_output=True, timeout=60, check=False)
            return ended.stdout, ended.stderr
        pairs = [os.openpty() for _ in range(2)]
        out, err = (pair[1] for pair in pairs)
        process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        os.close(out)
        os.close(err)
        got = [b"", b""]
        for number, (master, _) in enumerate(pairs):
            try:
                while part := os.read(master, 65536):
                    got[number] += part
            except OSError:
                pass  # Linux's way to say that nobody has the terminal any more
            os.close(master)
        process.wait(60)
        return got[0], got[1]


def test_a_value_is_exact_in_a_pipe_and_safe_on_a_terminal() -> None:
    def value(argv: list[bytes]) -> bytes:
        return resp3(EVIL.encode() + b"\xff\nend")

    assert run(["get", "k"], value, terminal=False) == (EVIL.encode() + b"\xff\nend", b"")
    assert run(["get", "k"], value, terminal=True) == (HARMLESS.encode() + b"\\xff\r\nend\r\n", b"")


def test_json_stays_json_and_steers_nothing() -> None:
    def value(argv: list[bytes]) -> bytes:
        return resp3(EVIL.encode())

    for terminal in (True, False):
        out, _ = run(["--json", "get", "k"], value, terminal=terminal)
        assert json.loads(out)["value"] == EVIL
        assert all(character.isprintable() or character in "\r\n" for character in out.decode())


def test_errors_of_servers() -> None:
    def refusal(argv: list[bytes]) -> bytes:
        return error_reply("ERR " + EVIL.replace("\r", ""))

    _, err = run(["get", "k"], refusal, terminal=True)
    assert HARMLESS.replace(r"\r", "").encode() in err
    assert b"\x1b" not in err


def test_a_dump_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with files.writing(files.STANDARD) as target:
        target.write(f"{EVIL}\tvalue\n".encode())
    assert terminal.getvalue() == f"{HARMLESS}\tvalue\n"
