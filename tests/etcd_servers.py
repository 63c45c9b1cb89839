"""etcd servers for tests: the `etcd` on PATH (Debian's package is etcd-server), each in a folder of its own."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.given import given
from tests.ports import free_ports

from helios.stores.etcd_gateway import encoded

_START_S = 20.0


def has_etcd() -> bool:
    """Whether etcd can be started here."""
    return given(shutil.which("etcd") is not None, "etcd is not on PATH: apt-get install etcd-server")


@dataclass(frozen=True)
class EtcdTls:
    """The files that an etcd serves TLS with; `clients`: whether it wants a certificate of each client, too."""

    ca: Path
    cert: Path
    key: Path
    clients: bool = False


class EtcdServers:
    """The members of one etcd cluster, each a process that can be stopped, frozen and started again."""

    def __init__(self, folder: Path, count: int = 1, tls: EtcdTls | None = None, options: Sequence[str] = ()) -> None:
        ports = [free_ports(2) for _ in range(count)]
        scheme = "http" if tls is None else "https"
        self.addresses = [f"{scheme}://127.0.0.1:{client}" for client in ports]
        self._peers = [f"http://127.0.0.1:{client + 1}" for client in ports]
        self._folder = folder
        self._tls = tls
        self._options = options
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int) -> None:
        """Start a member, or start it again with what it had."""
        client, peer = self.addresses[number], self._peers[number]
        folder = self._folder / f"etcd-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        cluster = ",".join(f"etcd-{other}={address}" for other, address in enumerate(self._peers))
        with (folder / "etcd.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [
                    "etcd",
                    *("--name", f"etcd-{number}", "--data-dir", str(folder / "data")),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", cluster),
                    # Leases live for one and a half elections at least, which is two seconds as it comes.
                    *("--heartbeat-interval", "50", "--election-timeout", "500"),
                    *self._tls_options(),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )

    def _tls_options(self) -> list[str]:
        if self._tls is None:
            return []
        clients = ["--client-cert-auth", "--trusted-ca-file", str(self._tls.ca)] if self._tls.clients else []
        return ["--cert-file", str(self._tls.cert), "--key-file", str(self._tls.key), *clients]

    def kill(self, number: int) -> None:
        """End a member at once."""
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    def signal(self, number: int, what: signal.Signals) -> None:
        """Freeze a member (SIGSTOP), or let it go on (SIGCONT)."""
        self._processes[number].send_signal(what)

    def await_health(self, numbers: Sequence[int]) -> None:
        """Return when these members take part in a cluster with a leader."""
        until = time.monotonic() + _START_S
        for number in numbers:
            log = self._folder / f"etcd-{number}" / "etcd.log"
            while not self._is_healthy(number):
                process = self._processes[number]
                assert process.poll() is None, f"etcd ended:\n{log.read_text()}"
                assert time.monotonic() < until, f"etcd does not come up:\n{log.read_text()}"
                time.sleep(0.05)

    def _is_healthy(self, number: int) -> bool:
        context = None
        if self._tls is not None:
            context = ssl.create_default_context(cafile=self._tls.ca)
            context.load_cert_chain(self._tls.cert, self._tls.key)
        try:
            with urllib.request.urlopen(f"{self.addresses[number]}/health", timeout=1, context=context) as answer:
                return b'"true"' in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def end(self) -> None:
        """End all members."""
        for number in list(self._processes):
            self.kill(number)


@contextmanager
def etcd_servers(
    folder: Path, count: int = 1, tls: EtcdTls | None = None, options: Sequence[str] = ()
) -> Iterator[EtcdServers]:
    """A cluster of as many members."""
    servers = EtcdServers(folder, count, tls, options)
    try:
        for number in range(count):
            servers.start(number)
        servers.await_health(range(count))
        yield servers
    finally:
        servers.end()


@contextmanager
def started_etcd(folder: Path) -> Iterator[str]:
    """One etcd; gives the address that clients take."""
    with etcd_servers(folder) as servers:
        yield servers.addresses[0]


def with_users(address: str, users: Mapping[str, str], prefix: str) -> None:
    """Turn logins on: a root with the password "secret", and users who may read and write below a prefix."""
    start = prefix.encode()
    grant = {"permType": "READWRITE", "key": encoded(start), "range_end": encoded(start[:-1] + bytes([start[-1] + 1]))}
    requests: list[tuple[str, Mapping[str, object]]] = [
        ("/v3/auth/user/add", {"name": "root", "password": "secret"}),
        ("/v3/auth/role/add", {"name": "root"}),
        ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
        ("/v3/auth/role/add", {"name": "helios"}),
        ("/v3/auth/role/grant", {"name": "helios", "perm": grant}),
    ]
    for name, password in users.items():
        requests.append(("/v3/auth/user/add", {"name": name, "password": password}))
        requests.append(("/v3/auth/user/grant", {"user": name, "role": "helios"}))
    for path, body in [*requests, ("/v3/auth/enable", {})]:
        httpx.post(f"{address}{path}", json=body, trust_env=False).raise_for_status()


def add_user(address: str, name: str) -> None:
    """Make one more user, as root."""
    with httpx.Client(base_url=address, trust_env=False) as client:
        said = client.post("/v3/auth/authenticate", json={"name": "root", "password": "secret"}).json()
        token = {"Authorization": said["token"]}
        client.post("/v3/auth/user/add", json={"name": name, "password": "x"}, headers=token).raise_for_status()
