"""helios-cli top: two looks make a picture."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from fcntl import ioctl
from typing import Any

import pytest
from click.testing import CliRunner
from tests.fake_gateway import MIGRATION, NODE, ROUTER, SILENT_ROUTER
from tests.fake_resp import FakeServer, resp3, serving

from helios.admin.router_views import LatencyView
from helios.cli import client as entry
from helios.cli.top import Look, picture

SHARD = ROUTER.shards[0]
LATER = replace(
    ROUTER,
    commands=1040,
    errors={"CROSSSHARD": 2, "ERR": 5},
    bytes_in=4096,
    latency=LatencyView(103, 0.2, ((0.0002, 92), (0.0035, 11))),
    shards=(replace(SHARD, reads=802, writes=201, latency=LatencyView(103, 0.2, ((0.0002, 92), (0.0035, 11)))),),
)


def look(at: float, *routers: Any, migrations: tuple[Any, ...] = ()) -> Look:
    nodes = [asdict(replace(NODE, bytes=3 << 20))]
    return Look(at, [asdict(router) for router in routers], nodes, [asdict(one) for one in migrations])


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_picture_shows_rates_and_the_latency_of_what_came_between() -> None:
    shown = rows(picture(look(0, ROUTER, SILENT_ROUTER), look(2, LATER, SILENT_ROUTER, migrations=(MIGRATION,))))
    assert shown[0][:6] == ["ROUTER", "WORKER", "OPS/S", "CLIENTS", "P50", "P99"]
    assert shown[1][:11] == ["shard-1", "0", "500", "2", "0.20", "ms", "3.50", "ms", "2.5", "1", "0"]
    assert shown[1][11:13] == ["2.0", "KB/s"]
    assert shown[1][-3:] == ["lease", "2.5", "s"]
    assert shown[2][:3] == ["shard-2", "1", "-"]
    assert " ".join(shown[2]).endswith("it does not answer at 127.0.0.1:7: time-out")
    assert shown[5][:4] == ["shard-1", "500", "400", "100"]
    assert shown[5][-7:] == ["1", "4", "3", "3.0", "MB", "1", "ready"]
    assert " ".join(shown[7]) == "shard-1 → shard-2 user:*: 5 of 10 keys, copying"


def test_a_router_that_began_anew_shows_no_rates_below_zero() -> None:
    shown = rows(picture(look(0, LATER), look(1, ROUTER)))
    assert shown[1][2] == "0"
    assert shown[4][1:4] == ["0", "0", "0"]
    fresh = rows(picture(look(0), look(1, ROUTER)))
    assert fresh[1][2] == "0"


def test_a_picture_of_nothing() -> None:
    assert picture(look(0), look(1)) == "no router answers\n\nno shards yet"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    replies = {
        b"LISTNODES": [asdict(NODE)],
        b"ROUTERS": [asdict(ROUTER)],
        b"ACTIVEMIGRATIONS": [],
    }
    with serving(lambda argv: resp3(replies[argv[0]])) as made:
        yield made


def test_once_prints_one_picture(server: FakeServer) -> None:
    words = ["--port", str(server.port), "top", "--once", "--interval", "0.2"]
    result = CliRunner().invoke(entry.cli, words, prog_name="helios-cli")
    assert result.exit_code == 0
    assert rows(result.stdout)[1][0] == "shard-1"
    assert "\x1b" not in result.stdout
    for_programs = CliRunner().invoke(entry.cli, [*words, "--json"], prog_name="helios-cli")
    assert json.loads(for_programs.stdout)["routers"][0]["clients"] == 2


def test_in_a_terminal_it_is_a_screen_that_follows_the_size_and_ends_by_q(server: FakeServer) -> None:
    terminal, side = pty.openpty()
    ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    program = "from helios.cli.client import main; main()"
    argv = [sys.executable, "-c", program, "--port", str(server.port), "top", "--interval", "3600"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": ""}
    process = subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, start_new_session=True, env=env)
    os.close(side)
    try:
        first = _read_until(terminal, b"shard-1")
        assert b"\x1b[?1049h" in first
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        process.send_signal(signal.SIGWINCH)
        _read_until(terminal, b"STATE")
        os.write(terminal, b"q")
        last = _read_until(terminal, b"\x1b[?1049l")
        assert b"\x1b[?1049l" in last
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def _read_until(terminal: int, wanted: bytes) -> bytes:
    got = b""
    deadline = time.monotonic() + 20
    while wanted not in got:
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        assert ready, got
        got += os.read(terminal, 65536)
    return got
