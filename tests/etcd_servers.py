"""etcd servers for tests: the `etcd` on PATH (Debian's package is etcd-server), each in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import free_ports

_START_S = 20.0


def has_etcd() -> bool:
    """Whether etcd can be started here. In CI it has to be: its tests are not left out there."""
    found = shutil.which("etcd") is not None
    assert found or "CI" not in os.environ, "etcd is not on PATH: apt-get install etcd-server"
    return found


@contextmanager
def started_etcd(folder: Path) -> Iterator[str]:
    """One etcd; gives the address that clients take."""
    client, peer = (f"http://127.0.0.1:{free_ports(1)}" for _ in range(2))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "etcd.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "etcd",
                *("--name", "one", "--data-dir", str(folder / "data")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"one={peer}"),
                # Leases live for one and a half elections at least, which is two seconds as it comes.
                *("--heartbeat-interval", "50", "--election-timeout", "500"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _await_health(client, process, folder / "etcd.log")
        yield client
    finally:
        process.kill()
        process.wait()


def _await_health(client: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_S
    while True:
        assert process.poll() is None, f"etcd ended:\n{log.read_text()}"
        try:
            with urllib.request.urlopen(f"{client}/health", timeout=1) as answer:
                if b'"true"' in answer.read():
                    return
        except (OSError, urllib.error.URLError):
            pass
        assert time.monotonic() < until, f"etcd does not come up:\n{log.read_text()}"
        time.sleep(0.05)
