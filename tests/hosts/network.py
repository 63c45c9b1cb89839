"""Hosts as network namespaces on a bridge, with cables that can be pulled. Needs root and iproute2 (`ip`)."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.given import given
from tests.hosts.line import Line

_GONE_S = 20.0
_NOWHERE = "02:00:00:00:00:01"  # a card that no host has


def has_network() -> bool:
    """Whether hosts can be made here."""
    return given(
        os.geteuid() == 0 and shutil.which("ip") is not None, "hosts need root and ip: apt-get install iproute2"
    )


def ip(*words: str) -> str:
    """What `ip` prints; fails the test if it fails."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


class Host:
    """A host: its address, its second one for etcd, and a cable to the bridge."""

    def __init__(self, network: Network, number: int, folder: Path) -> None:
        self.name, self.number = f"host-{number}", number
        self.address = f"{network.subnet}.{number}"
        self.etcd_address = f"{network.subnet}.{100 + number}"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._bridge = network.bridge
        self._space = f"{network.bridge}-{number}"
        self._cable = f"{network.bridge}v{number}"
        self._line: Line | None = None

    def make(self) -> None:
        """Make it, and plug it in."""
        ip("netns", "add", self._space)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._space)
        self.ip("link", "set", "lo", "up")
        for address in (self.address, self.etcd_address):
            self.ip("address", "add", f"{address}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        ip("link", "set", self._cable, "up")
        self.plug()

    def ip(self, *words: str) -> str:
        """What `ip` prints on this host."""
        return ip("-netns", self._space, *words)

    def start(self, words: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Run a program on this host; what it prints is added to a file in the host's folder."""
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._space, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def run(self, words: Sequence[str], timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a program on this host to its end."""
        argv = ["ip", "netns", "exec", self._space, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, cwd=self.folder, check=False)

    def pids(self) -> list[int]:
        """All processes of this host."""
        return [int(pid) for pid in ip("netns", "pids", self._space).split()]

    def power_off(self) -> None:
        """All at once: nothing goes out any more, not even that a connection is over."""
        self.unplug()
        deadline = time.monotonic() + _GONE_S
        while pids := self.pids():
            assert time.monotonic() < deadline, f"these do not end on {self.name}: {pids}"
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def plug(self) -> None:
        """Put the cable into the bridge."""
        ip("link", "set", self._cable, "master", self._bridge)

    def unplug(self) -> None:
        """Pull it out: nothing comes in and nothing goes out, and nobody is told."""
        ip("link", "set", self._cable, "nomaster")

    def readdress(self, address: str) -> None:
        """Give it another address, except for etcd."""
        self.ip("address", "add", f"{address}/24", "dev", "eth0")
        self.ip("address", "del", f"{self.address}/24", "dev", "eth0")
        # The first address of a network takes the others with it.
        for kept in (address, self.etcd_address):
            self.ip("address", "replace", f"{kept}/24", "dev", "eth0")
        self.address = address

    def mute(self, *addresses: str) -> None:
        """What this host sends to the addresses gets lost. What comes from there still arrives."""
        for address in addresses:
            self.ip("neigh", "replace", address, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent")

    def unmute(self, *addresses: str) -> None:
        """The end of that."""
        for address in addresses:
            self.ip("neigh", "del", address, "dev", "eth0")

    def lengthen(self, delay_s: float, loss: float) -> None:
        """Put a long bad line between this host and the bridge: a delay each way, and a part of all frames is lost."""
        far = f"{self._cable}f"
        self.unplug()
        ip("link", "add", f"{self._cable}n", "type", "veth", "peer", "name", far)
        ip("link", "set", f"{self._cable}n", "up")
        ip("link", "set", far, "up")
        ip("link", "set", far, "master", self._bridge)
        self._line = Line(self._cable, f"{self._cable}n", delay_s, loss)
        self._line.start()

    def shorten(self) -> None:
        """Take that line away."""
        if self._line is not None:
            self._line.stop()
            self._line = None
            ip("link", "del", f"{self._cable}f")
            self.plug()

    def clean_up(self) -> None:
        """End everything here and take the host away."""
        if self._line is not None:
            self._line.stop()
            subprocess.run(["ip", "link", "del", f"{self._cable}f"], capture_output=True, check=False)
        if self._space in ip("netns", "list").split():
            self.power_off()
            subprocess.run(["ip", "link", "del", self._cable], capture_output=True, check=False)
            ip("netns", "del", self._space)


class Network:
    """A bridge with hosts on it. This process stands on the bridge, too, as the clients do."""

    def __init__(self, count: int, folder: Path) -> None:
        self.bridge = f"hx{secrets.token_hex(2)}"
        self.subnet = f"10.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self.hosts = [Host(self, number, folder / f"host-{number}") for number in range(1, count + 1)]

    def make(self) -> None:
        """Make all of it."""
        ip("link", "add", self.bridge, "type", "bridge")
        ip("address", "add", f"{self.subnet}.254/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for host in self.hosts:
            host.make()

    def clean_up(self) -> None:
        """End all processes of the hosts and leave nothing of the network."""
        for host in self.hosts:
            host.clean_up()
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)


@contextmanager
def made_network(count: int, folder: Path) -> Iterator[Network]:
    """A network of so many hosts, with nothing left of it at the end."""
    network = Network(count, folder)
    try:
        network.make()
        yield network
    finally:
        network.clean_up()
