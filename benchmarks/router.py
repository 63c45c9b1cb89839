"""Requests a second through the router, beside the servers themselves and twemproxy: `python -m benchmarks.router`.

Three plain Valkey servers; redis-benchmark calls one of them (direct), Helios in front of all three, and twemproxy
(`nutcracker`, md5 and ketama) in front of the same three, in turns, so that what else the machine does strikes all
alike. Medians of the turns are compared. Nothing is installed: what is missing is named, and without
redis-benchmark a small generator in Python measures, which is slower than what it measures and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop
from tests.servers import start_valkey
from uhashring import HashRing

from helios.admin.service import AdminService
from helios.engines.valkey.connector import ValkeyConnector
from helios.model.ids import Address
from helios.model.topology import Member, Node, NodeKind, Placement, Shard, Topology
from helios.node.ports import free_ports
from helios.placement.ring import Ring
from helios.ports.records import TOPOLOGY, put_record
from helios.resp.wire import ReplySplitter, encode_command
from helios.router.core import Router
from helios.router.options import RouterOptions
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

CLIENTS = 50
MANY_CLIENTS = 1000
AN_HOUR = 72_000_000  # requests, at 20,000 a second
KEYS = 100_000
COMMANDS = ("SET", "GET")
PLAIN = {"appendonly": "no"}


@dataclass(frozen=True)
class Case:
    """What is asked of every target."""

    clients: int
    pipeline: int
    value_bytes: int
    requests: int

    @property
    def name(self) -> str:
        """As the table shows it."""
        return f"{self.clients:>2} clients  -P {self.pipeline:<2}  {self.value_bytes:>4} B"


@dataclass(frozen=True)
class Measured:
    """One turn: requests a second and the middle of the latencies."""

    per_s: float
    p50_ms: float


Generator = Callable[[int, Case, str], Measured]


# --- what is measured ---------------------------------------------------------------------------------------------


@contextmanager
def _process(command: list[str], port: int) -> Iterator[int]:
    """A process that listens on `port`; gives its pid and ends it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not start")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    async def ask() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(encode_command([b"GET", b"is it there"]))
        reply = await reader.readline()
        writer.close()
        return reply.startswith(b"$")

    try:
        return asyncio.run(asyncio.wait_for(ask(), 1))
    except (OSError, TimeoutError):
        return False


def _nutcracker(folder: Path, port: int, servers: list[int]) -> list[str]:
    """The command that starts twemproxy."""
    lines = ["helios:", f"  listen: 127.0.0.1:{port}", "  hash: md5", "  distribution: ketama", "  redis: true"]
    lines += ["  servers:", *(f"   - 127.0.0.1:{server}:1" for server in servers)]
    config = folder / "nutcracker.yml"
    config.write_text("\n".join(lines) + "\n")
    return [
        "nutcracker",
        "-c",
        str(config),
        "-m",
        "16384",
        "-o",
        str(folder / "nutcracker.log"),
        "-s",
        str(free_ports(1)),
    ]


async def _route(port: int, servers: list[int], sockets: Path | None) -> None:
    """Be a router in front of the servers until ended, which goes by their sockets in a folder if there is one."""
    store = MemoryStore()
    nodes = [
        Node(f"shard-{number}", Address("127.0.0.1", server), NodeKind.EXTERNAL)
        for number, server in enumerate(servers, 1)
    ]
    topology = Topology(
        epoch=1,
        nodes=tuple(nodes),
        shards=tuple(Shard(n.id, f"{n.id}.0", (Member(f"{n.id}.0", n.id, n.address),)) for n in nodes),
        placement=Placement(weights=tuple((node.id, 1.0) for node in nodes)),
    )
    await store.commit([put_record(TOPOLOGY, topology)])

    async def nobody(_member: Member) -> None:
        return None

    router = Router(store, ValkeyConnector(nobody), cast(AdminService, None), SystemClock(), RouterOptions("bench"))
    if sockets is not None:
        router.socket = lambda member: str(_socket(sockets, member.node))
    await router.start()
    await router.serve("127.0.0.1", port, reuse_port=True)
    await asyncio.Event().wait()


def _socket(folder: Path, node: str) -> Path:
    return folder / f"{node}.sock"


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """The resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# --- who measures -------------------------------------------------------------------------------------------------


def _redis_benchmark(port: int, case: Case, command: str) -> Measured:
    arguments = ["redis-benchmark", "-p", str(port), "-t", command.lower(), "--csv", "-r", str(KEYS)]
    arguments += ["-c", str(case.clients), "-P", str(case.pipeline), "-d", str(case.value_bytes)]
    said = subprocess.run(
        [*arguments, "-n", str(case.requests)], check=True, capture_output=True, text=True, timeout=600
    ).stdout
    row = next(row for row in csv.DictReader(io.StringIO(said)) if row["test"] == command)
    return Measured(float(row["rps"]), float(row["p50_latency_ms"]))


def _own_generator(port: int, case: Case, command: str) -> Measured:
    latencies: list[float] = []

    async def client(number: int, requests: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        splitter = ReplySplitter()
        value = b"x" * case.value_bytes
        for batch in range(requests // case.pipeline):
            first = (number * 7919 + batch * case.pipeline) % KEYS
            keys = [b"key:%012d" % ((first + i) % KEYS) for i in range(case.pipeline)]
            frames = [encode_command([b"SET", key, value] if command == "SET" else [b"GET", key]) for key in keys]
            sent, answered = time.perf_counter(), 0
            writer.write(b"".join(frames))
            while answered < case.pipeline:
                answered += len(splitter.feed(await reader.read(1 << 16)))
            latencies.append((time.perf_counter() - sent) * 1000)
        writer.close()

    async def all_clients() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(client(number, case.requests // case.clients) for number in range(case.clients)))
        return time.perf_counter() - started

    elapsed = uvloop.run(all_clients())
    return Measured(len(latencies) * case.pipeline / elapsed, statistics.median(latencies))


# --- the run ------------------------------------------------------------------------------------------------------


def _cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(CLIENTS, 1, 64, 20_000), Case(CLIENTS, 16, 64, 100_000)]
    return [
        Case(1, 1, 64, 8_000),
        Case(CLIENTS, 1, 64, 40_000),
        Case(CLIENTS, 16, 64, 240_000),
        Case(CLIENTS, 64, 64, 320_000),
        Case(CLIENTS, 16, 4096, 60_000),
    ]


def _lookups() -> str:
    """What finding a key's owner costs, beside uhashring."""
    keys = [b"key:%012d" % number for number in range(20_000)]
    texts = [key.decode() for key in keys]
    ring, other = Ring({f"shard-{n}": 1.0 for n in range(1, 4)}, 150), HashRing([f"shard-{n}" for n in range(1, 4)])

    ours = min(timeit.repeat(lambda: [ring.owner(key) for key in keys], number=1, timer=time.process_time))
    theirs = min(timeit.repeat(lambda: [other.get_node(text) for text in texts], number=1, timer=time.process_time))
    each = 1e6 / len(keys)
    return f"ring look-up, called from Python: {ours * each:.2f} µs (uhashring {theirs * each:.2f} µs)"


def run(quick: bool, rounds: int) -> None:
    """Measure and print."""
    generator: Generator = _redis_benchmark if shutil.which("redis-benchmark") else _own_generator
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {_load()}")
    if generator is _own_generator:
        print("redis-benchmark is not on PATH (Debian: redis-tools): an own generator in Python is the limit here")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [stack.enter_context(start_valkey(folder / str(n), config=PLAIN)).port for n in range(3)]
        port, other_port = free_ports(1), free_ports(1)
        pid = stack.enter_context(_process(_router(port, servers), port))
        targets = {"direct": servers[0], "helios": port}
        pids = {"helios": pid}
        if shutil.which("nutcracker"):
            targets["twemproxy"] = other_port
            pids["twemproxy"] = stack.enter_context(_process(_nutcracker(folder, other_port, servers), other_port))
        else:
            print("twemproxy is not measured: nutcracker is not on PATH (Debian: nutcracker)")
        print(_lookups())
        print("requests/s, medians; the ratios are of Helios; µs of processor time a request are the proxy's own")
        for case in _cases(quick):
            for command in COMMANDS:
                _compare(generator, case, command, targets, pids, rounds)
        print(f"memory of the router: {rss_mb(pid):.0f} MB; load at the end {_load()}")


def run_workers(rounds: int) -> None:
    """One router process beside two that share its port, as `--workers 2` has them."""
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {_load()}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [stack.enter_context(start_valkey(folder / str(n), config=PLAIN)).port for n in range(3)]
        one, two = free_ports(1), free_ports(1)
        pid = stack.enter_context(_process(_router(one, servers), one))
        for _ in range(2):
            stack.enter_context(_process(_router(two, servers), two))
        targets = {"one worker": one, "helios": two}
        for pipeline, requests in ((1, 40_000), (16, 240_000)):
            for command in COMMANDS:
                case = Case(CLIENTS, pipeline, 64, requests)
                _compare(_redis_benchmark, case, command, targets, {"one worker": pid}, rounds)


def run_sockets(rounds: int) -> None:
    """A router that goes by the servers' unix sockets, beside one that goes by their addresses."""
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {_load()}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        configs = [PLAIN | {"unixsocket": str(_socket(folder, f"shard-{n}"))} for n in range(1, 4)]
        servers = [
            stack.enter_context(start_valkey(folder / str(n), config=config)).port for n, config in enumerate(configs)
        ]
        by_address, by_socket = free_ports(1), free_ports(1)
        pids = {"by address": stack.enter_context(_process(_router(by_address, servers), by_address))}
        sockets = [*_router(by_socket, servers), "--by-sockets", str(folder)]
        pids["helios"] = stack.enter_context(_process(sockets, by_socket))
        targets = {"by address": by_address, "helios": by_socket}
        for case in (Case(1, 1, 64, 10_000), Case(CLIENTS, 1, 64, 40_000), Case(CLIENTS, 16, 64, 160_000)):
            for command in COMMANDS:
                _compare(_redis_benchmark, case, command, targets, pids, rounds)


def run_memory(requests: int) -> None:
    """The memory of a router with many clients, and over so many requests."""
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, load {_load()}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [stack.enter_context(start_valkey(folder / str(n), config=PLAIN)).port for n in range(3)]
        port = free_ports(1)
        pid = stack.enter_context(_process(_router(port, servers), port))
        print(f"at the start: {rss_mb(pid):.1f} MB")
        _redis_benchmark(port, Case(MANY_CLIENTS, 1, 64, 100_000), "SET")
        print(f"after {MANY_CLIENTS} clients: {rss_mb(pid):.1f} MB")
        for tenth in range(1, 11):
            _redis_benchmark(port, Case(CLIENTS, 64, 64, requests // 10), "GET")
            print(f"after {tenth * requests // 10:,} requests: {rss_mb(pid):.1f} MB", flush=True)


def _router(port: int, servers: list[int]) -> list[str]:
    """The command that starts a router."""
    return [sys.executable, "-m", "benchmarks.router", "--route", str(port), *map(str, servers)]


def _compare(
    measure: Generator, case: Case, command: str, targets: dict[str, int], pids: dict[str, int], rounds: int
) -> None:
    found: dict[str, list[Measured]] = {name: [] for name in targets}
    cpu_us: dict[str, list[float]] = {name: [] for name in pids}
    for _ in range(rounds):
        for name, port in targets.items():
            before = cpu_s(pids[name]) if name in pids else 0.0
            found[name].append(measure(port, case, command))
            if name in pids:
                cpu_us[name].append((cpu_s(pids[name]) - before) / case.requests * 1e6)
    rate = {name: statistics.median(turn.per_s for turn in turns) for name, turns in found.items()}
    p50 = {name: statistics.median(turn.p50_ms for turn in turns) for name, turns in found.items()}
    cells = [f"{name} {rate[name]:>7,.0f} ({p50[name]:.3f} ms)" for name in targets]
    ratios = [f"{rate['helios'] / rate[name]:.2f}x {name}" for name in targets if name != "helios"]
    costs = [f"{name} {statistics.median(turns):.1f} µs" for name, turns in cpu_us.items()]
    print(f"{command} {case.name}:  {'  '.join(cells)}  | {', '.join(ratios)} | {', '.join(costs)} | load {_load()}")


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two cases only; a look rather than a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each target for each figure")
    parser.add_argument("--route", type=int, nargs="+", metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--by-sockets", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--sockets", action="store_true", help="a router that goes by unix sockets beside one by TCP")
    parser.add_argument("--workers", action="store_true", help="one router process beside two on the same port")
    parser.add_argument("--memory", type=int, nargs="?", const=AN_HOUR, metavar="REQUESTS", help="the router's memory")
    options = parser.parse_args()
    if options.route:
        uvloop.run(_route(options.route[0], options.route[1:], options.by_sockets))
    elif options.sockets:
        run_sockets(options.rounds)
    elif options.workers:
        run_workers(options.rounds)
    elif options.memory:
        run_memory(options.memory)
    else:
        run(options.quick, options.rounds)


if __name__ == "__main__":
    main()
