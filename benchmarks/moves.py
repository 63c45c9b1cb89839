"""What clients notice of live moves, and how fast keys move: `python -m benchmarks.moves [--keys N] [--rate OPS]`.

A cluster of three nodes as `helios up` runs it, filled with small keys. A process beside it sends GETs and SETs at a
steady rate to all three nodes, whatever becomes of them, and times each from the moment at which it was due. Then a
fourth node joins, the one is drained again, and so on, without a limit to the rate of the moves. Printed for each:
the keys moved and how fast, the pauses (fence to switch) of its pairs, and what the clients saw before, meanwhile
and after. The peer, in the same run: the servers' own MIGRATE between two of them, under the same load on the source.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import statistics
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.request import urlopen

import hiredis
import uvloop
from tests.cluster import Cluster, ask, running_cluster
from tests.etcd_servers import etcd_servers
from tests.ports import free_ports
from tests.servers import Server, start_valkey

GUEST = "shard-4"
VALUE = b"v" * 64
TICK_S = 0.002
FILL_STEP = 1000
REST_S = 2.0
START_S = 120.0  # a process, on a machine that has much else to do
LAST_ANSWERS_S = 10.0
MIGRATE_STEP = 100
SHOWN_PAUSES = 20
NO_LIMIT = {"HELIOS_SHARDING__MIGRATION_RATE": "0", "HELIOS_SHARDING__AUTO_REBALANCE": "true"}
PLACES = re.compile(r"shard-\d+|[\w.]+:\d+")  # by which errors of one kind differ
PROCESSES = get_context("spawn")

pack = cast(Callable[[tuple[bytes | str, ...]], bytes], hiredis.pack_command)


@dataclass(frozen=True, slots=True)
class Load:
    """A steady stream of requests: half of them GET, half SET, of all keys alike."""

    ports: tuple[int, ...]
    per_s: int
    keys: int
    connections: int = 8  # to each port


# What clients saw: when each request was due, on the monotonic clock, and how many ms its answer took.
Seen: TypeAlias = tuple[Sequence[float], Sequence[float]]
# What was answered with an error: when each request was due, by what the error says.
Errors: TypeAlias = "dict[str, array[float]]"
Finish: TypeAlias = Callable[[], tuple[Seen, Errors]]


# The load, in a process of its own --------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection; it times its requests in the order in which they were sent."""

    def __init__(self) -> None:
        self.due_s, self.took_ms = array("d"), array("d")
        self.errors: Errors = {}
        self.idle = asyncio.Event()  # everything has been answered
        self.due: deque[float] = deque()  # when those that are not answered yet were due
        self._reader = hiredis.Reader()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def send(self, frames: bytes, due_s: list[float]) -> None:
        """Send requests that were due then."""
        assert self._transport is not None, "it is connected"
        self.due += due_s
        self.idle.clear()
        self._transport.write(frames)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        now_s = time.monotonic()
        while (reply := self._reader.gets()) is not False:
            due_s = self.due.popleft()
            self.due_s.append(due_s)
            self.took_ms.append((now_s - due_s) * 1000)
            if isinstance(reply, hiredis.ReplyError):
                self.errors.setdefault(PLACES.sub("…", str(reply))[:100], array("d")).append(due_s)
        if not self.due:
            self.idle.set()


def generate(begun: Event, stop: Event, end: Pipe, load: Load) -> None:
    """Send the load until told to stop; then tell what was seen, and the errors."""
    uvloop.run(_generate(begun, stop, end, load))


async def _generate(begun: Event, stop: Event, end: Pipe, load: Load) -> None:
    loop = asyncio.get_running_loop()
    clients = []
    for port in load.ports:
        for _ in range(load.connections):
            _, client = await loop.create_connection(Client, "127.0.0.1", port)
            clients.append(client)
    # A large odd stride visits all keys in an order that has nothing to do with where they live.
    stride, key, sent = 611_953, 0, 0
    began_s = time.monotonic()
    begun.set()
    while not stop.is_set():
        now_s = time.monotonic()
        due = int((now_s - began_s) * load.per_s)
        parts: dict[Client, tuple[list[bytes], list[float]]] = {}
        for number in range(sent, due):
            key = (key + stride) % load.keys
            frames, times = parts.setdefault(clients[number % len(clients)], ([], []))
            name = b"bench:%d" % key
            frames.append(pack(("SET", name, VALUE)) if number & 1 else pack(("GET", name)))
            times.append(began_s + number / load.per_s)
        sent = due
        for client, (frames, times) in parts.items():
            client.send(b"".join(frames), times)
        await asyncio.sleep(TICK_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_ANSWERS_S):
            for client in clients:
                await client.idle.wait()
    errors: Errors = {}
    for client in clients:
        unanswered = {"never answered": array("d", client.due)} if client.due else {}
        for text, times_s in (client.errors | unanswered).items():
            errors.setdefault(text, array("d")).extend(times_s)
    due_s, took_ms = array("d"), array("d")
    for client in clients:
        due_s += client.due_s
        took_ms += client.took_ms
    end.send(((due_s, took_ms), errors))


@contextmanager
def under(load: Load) -> Iterator[Finish]:
    """The load runs inside; what is given ends it and tells what was seen."""
    begun, stop = PROCESSES.Event(), PROCESSES.Event()
    mine, its = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=generate, args=(begun, stop, its, load), daemon=True)
    process.start()
    if not begun.wait(START_S):
        raise SystemExit("the load does not start")

    def finish() -> tuple[Seen, Errors]:
        stop.set()
        return cast("tuple[Seen, Errors]", mine.recv())

    try:
        yield finish
    finally:
        stop.set()
        process.join(20)
        process.kill()


# What is measured -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Window:
    """A time of the run, and what happened in it."""

    name: str
    from_s: float
    until_s: float
    keys: int = 0
    pauses_ms: tuple[float, ...] = ()


def get(cluster: Cluster, path: str) -> Any:
    """The answer of the REST interface."""
    with urlopen(cluster.api + path, timeout=30) as answer:
        return json.load(answer)


def moved(cluster: Cluster, name: str, *verb: str) -> Window:
    """Carry out a verb that moves keys, and wait until all of its migrations have ended."""
    known = {one["id"] for one in get(cluster, "/api/v1/shards/migrations")["migrations"]}
    from_s = time.monotonic()
    reply = cluster.command(*verb, timeout_s=60)
    if isinstance(reply, hiredis.ReplyError):
        raise SystemExit(f"{' '.join(verb)}: {reply}")
    while True:
        time.sleep(0.05)
        mine = [one for one in get(cluster, "/api/v1/shards/migrations")["migrations"] if one["id"] not in known]
        if mine and all(one["status"] not in ("pending", "in_progress") for one in mine):
            break
    until_s = time.monotonic()
    bad = [one for one in mine if one["status"] != "completed"]
    if bad:
        raise SystemExit(f"{name}: {bad}")
    while isinstance(cluster.command("DBSIZE", timeout_s=60), hiredis.ReplyError):
        time.sleep(0.1)
    return Window(
        name,
        from_s,
        until_s,
        sum(int(one["keys_moved"]) for one in mine),
        tuple(float(one["pause_ms"]) for one in mine if one["pause_ms"] is not None),
    )


def fill(ports: list[int], keys: int) -> None:
    """Every key once, through the routers."""
    with socket.create_connection(("127.0.0.1", ports[0])) as connection:
        reader = hiredis.Reader()
        for first in range(0, keys, FILL_STEP):
            numbers = range(first, min(keys, first + FILL_STEP))
            connection.sendall(b"".join(pack(("SET", b"bench:%d" % number, VALUE)) for number in numbers))
            for _ in numbers:
                while (reply := reader.gets()) is False:
                    reader.feed(connection.recv(65536))
                if reply != b"OK":
                    raise SystemExit(f"SET was answered with {reply!r}")


def line(window: Window, seen: Seen) -> str:
    """A line of the table."""
    times = sorted(took for due, took in zip(*seen, strict=True) if window.from_s <= due < window.until_s)
    length_s = window.until_s - window.from_s
    if not times:
        return f"{window.name:34} {length_s:6.1f} s   nothing was sent"
    p50, p99 = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]
    text = (
        f"{window.name:34} {length_s:6.1f} s  {len(times) / length_s:7,.0f} ops/s  "
        f"{p50:6.2f} / {p99:6.1f} / {times[-1]:6.1f}"
    )
    if window.keys:
        text += f"   {window.keys:9,} keys  {window.keys / length_s:8,.0f} keys/s"
    return text


@contextmanager
def store_settings(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """What tells a cluster of its store: a file in its folder, or an etcd of three members on this machine."""
    if kind == "sqlite":
        yield {}
        return
    with etcd_servers(folder, 3) as servers:
        places = ",".join(address.removeprefix("http://") for address in servers.addresses)
        yield {"HELIOS_STORE__URL": f"etcd://{places}/bench"}


def measure(folder: Path, kind: str, keys: int, per_s: int, rounds: int) -> None:
    """Fill, load, move, print."""
    port = free_ports(1)
    with store_settings(kind, folder / "etcd") as settings, running_cluster(folder, 3, NO_LIMIT | settings) as cluster:
        began_s = time.monotonic()
        fill(cluster.resp_ports, keys)
        print(f"{keys:,} keys of {len(VALUE)} B loaded in {time.monotonic() - began_s:.1f} s")
        guest = cluster.helios("node", "--id", GUEST, "--listen", f"localhost:{port}")
        windows: list[Window] = []
        try:
            guest.wait_ready()
            with under(Load(tuple(cluster.resp_ports), per_s, keys)) as finish:
                time.sleep(REST_S)
                windows.append(at_rest("before"))
                for number in range(1, rounds + 1):
                    windows.append(moved(cluster, f"{GUEST} joins ({number})", "ADDNODE", GUEST, f"localhost:{port}"))
                    windows.append(at_rest("after it"))
                    windows.append(moved(cluster, f"{GUEST} is drained ({number})", "REMOVENODE", GUEST))
                    windows.append(at_rest("after it"))
                seen, errors = finish()
        finally:
            guest.kill()
        show(windows, seen, errors, per_s)


def at_rest(name: str, length_s: float = 10.0) -> Window:
    """A time in which nothing moves."""
    from_s = time.monotonic()
    time.sleep(length_s)
    return Window(name, from_s, from_s + length_s)


def show(windows: list[Window], seen: Seen, errors: Errors, per_s: int) -> None:
    """The table, and the pauses."""
    print(
        f"{'':34} {'':8}  {'served':>13}  p50 / p99 / max ms  (offered: {per_s:,} ops/s, load {os.getloadavg()[0]:.1f})"
    )
    for window in windows:
        print(line(window, seen))
    pauses = [pause for window in windows for pause in window.pauses_ms]
    if pauses:
        shown = f" ({', '.join(f'{pause:.0f}' for pause in pauses)})" if len(pauses) <= SHOWN_PAUSES else ""
        median, most = statistics.median(pauses), max(pauses)
        print(f"pauses of {len(pauses)} pairs: median {median:.0f} ms, max {most:.0f} ms{shown}")
    show_errors(errors, windows[0].from_s)


def show_errors(errors: Errors, began_s: float) -> None:
    """How many there were of each kind, and when the first and the last of them were due."""
    print(f"errors: {sum(map(len, errors.values())) or 'none'}")
    for text, due_s in errors.items():
        print(f"  {len(due_s):,}, from {min(due_s) - began_s:.1f} to {max(due_s) - began_s:.1f} s: {text}")


# The peer ---------------------------------------------------------------------------------------------------------


def measure_peer(folder: Path, keys: int, per_s: int) -> None:
    """Move keys by the servers' own MIGRATE under the load: what that does to the other clients of the source."""
    for name in ("source", "target"):
        (folder / name).mkdir()
    with start_valkey(folder / "source") as source, start_valkey(folder / "target") as target:
        fill([source.port], keys)
        with under(Load((source.port,), per_s, 2 * keys)) as finish:
            time.sleep(REST_S)
            windows = [at_rest("two servers alone, before"), _migrated(source, target, keys)]
            seen, errors = finish()
    for window in windows:
        print(line(window, seen))
    show_errors(errors, windows[0].from_s)


def _migrated(source: Server, target: Server, keys: int) -> Window:
    """The first keys, by MIGRATE with many keys at a time, one call after the other."""
    from_s = time.monotonic()
    for first in range(0, keys, MIGRATE_STEP):
        names = [f"bench:{number}" for number in range(first, min(keys, first + MIGRATE_STEP))]
        reply = ask(source.port, "MIGRATE", "127.0.0.1", str(target.port), "", "0", "10000", "REPLACE", "KEYS", *names)
        if isinstance(reply, hiredis.ReplyError):
            raise SystemExit(f"MIGRATE: {reply}")
    return Window(f"MIGRATE, {MIGRATE_STEP} keys a call", from_s, time.monotonic(), keys)


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="What clients notice of live moves.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="requests a second that are offered")
    parser.add_argument("--rounds", type=int, default=2, help="how often the fourth node joins and is drained")
    parser.add_argument("--store", choices=["sqlite", "etcd"], action="append", help="repeat it to compare them")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
        for kind in options.store or ["sqlite"]:
            print(f"the store is {kind}")
            measure(Path(folder) / kind, kind, options.keys, options.rate, options.rounds)
        measure_peer(Path(folder), options.keys // 4, options.rate)


if __name__ == "__main__":
    main()
