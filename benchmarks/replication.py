"""What it costs to wait for a majority: `python -m benchmarks.replication`.

A shard of three members behind a router that waits for nobody (async), for a majority before it tells of writes
(quorum), or for writes and reads (linearizable), and whose replicas answer what is read behind `READONLY`; beside them
the leader itself, asked directly, with and without a `WAIT 1` behind each write. All in turns, so that what else the
machine does strikes all alike; medians of the turns are compared. The generator is in Python, on the same machine:
ratios say more than figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import redis.asyncio
import uvloop
from tests.servers import Server, start_valkey

from helios.admin.service import AdminService
from helios.engines.valkey.connector import ValkeyConnector
from helios.model.ids import Address
from helios.model.topology import Member, Node, NodeKind, Placement, Shard, Term, Topology
from helios.node.ports import free_ports
from helios.ports.records import TOPOLOGY, put_record
from helios.resp.wire import ReplySplitter, encode_command
from helios.router.core import Router
from helios.router.options import RouterOptions
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

KEYS = 100_000
VALUE = b"x" * 64
CONFIG = {"appendonly": "no", "repl-diskless-sync-delay": "0", "repl-backlog-ttl": "0"}
MODES = {
    "async": RouterOptions("bench", quorum=False),
    "quorum": RouterOptions("bench"),
    "linearizable": RouterOptions("bench", linearizable=True),
}
PLAIN, WAITING, READING = "leader", "leader, WAIT 1", "replicas"


@dataclass(frozen=True)
class Case:
    """What is asked of every target."""

    command: str
    clients: int
    pipeline: int
    requests: int


@dataclass(frozen=True)
class Measured:
    """One turn: commands a second, and the middle of the times that a client waited for all replies to a pipeline."""

    per_s: float
    p50_ms: float


# --- what is measured ---------------------------------------------------------------------------------------------


async def _route(port: int, mode: str, history: str, ports: list[int]) -> None:
    """Be a router in front of a shard with these members, the leader of that history first, until ended."""
    members = tuple(Member(f"m{number}", "node", Address("127.0.0.1", server)) for number, server in enumerate(ports))
    topology = Topology(
        epoch=1,
        nodes=(Node("node", members[0].address, NodeKind.EXTERNAL),),
        shards=(Shard("shard-1", "m0", members, lineage=(Term(history, 0),)),),
        placement=Placement(weights=(("shard-1", 1.0),)),
    )
    store = MemoryStore()
    await store.commit([put_record(TOPOLOGY, topology)])

    async def nobody(_member: Member) -> None:
        return None

    router = Router(store, ValkeyConnector(nobody), cast(AdminService, None), SystemClock(), MODES[mode])
    await router.start()
    await router.serve("127.0.0.1", port)
    await asyncio.Event().wait()


@contextmanager
def _routers(history: str, ports: list[int]) -> Iterator[dict[str, int]]:
    """A router in each mode; gives their ports."""
    with ExitStack() as stack:
        found: dict[str, int] = {}
        for mode in MODES:
            found[mode] = free_ports(1)
            words = ["--route", str(found[mode]), "--mode", mode, "--history", history, "--members", *map(str, ports)]
            process = subprocess.Popen([sys.executable, "-m", "benchmarks.replication", *words])
            stack.callback(process.wait)
            stack.callback(process.terminate)
        for port in found.values():
            asyncio.run(_until_served(port))
        yield found


async def _until_served(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                if (await _asked(port, b"SET", b"key", VALUE)).startswith(b"+OK"):
                    return
            except OSError:
                pass
            await asyncio.sleep(0.05)


async def _asked(port: int, *words: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(encode_command(words))
        return await reader.readline()
    finally:
        writer.close()


def _follow(follower: Server, leader: Server) -> None:
    async def until_in_sync() -> None:
        await _asked(follower.port, b"REPLICAOF", b"127.0.0.1", b"%d" % leader.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", follower.port)
        async with asyncio.timeout(60):
            while True:
                writer.write(encode_command([b"ROLE"]))
                if b"connected" in await reader.read(1 << 16):
                    break
                await asyncio.sleep(0.05)
        writer.close()

    asyncio.run(until_in_sync())


# --- who measures -------------------------------------------------------------------------------------------------


def _measure(port: int, case: Case, name: str) -> Measured:
    latencies: list[float] = []
    wait = encode_command([b"WAIT", b"1", b"1000"]) if name == WAITING else b""

    async def client(number: int, batches: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        splitter = ReplySplitter()
        if name == READING:
            writer.write(encode_command([b"READONLY"]))
            if await reader.readline() != b"+OK\r\n":
                raise SystemExit("the router does not let replicas answer")
        for batch in range(batches):
            first = number * 7919 + batch * case.pipeline
            keys = [b"key:%012d" % ((first + i) % KEYS) for i in range(case.pipeline)]
            words = ([b"SET", key, VALUE] if case.command == "SET" else [b"GET", key] for key in keys)
            expected = case.pipeline * (2 if wait else 1)
            sent = time.perf_counter()
            writer.write(b"".join(encode_command(argv) + wait for argv in words))
            while expected > 0:
                replies = splitter.feed(await reader.read(1 << 18))
                failed = next((reply for reply in replies if reply[:1] == b"-"), None)
                if failed is not None or not (replies or splitter.buffered):
                    raise SystemExit(f"{case}: {failed!r}")
                expected -= len(replies)
            latencies.append((time.perf_counter() - sent) * 1000)
        writer.close()

    async def all_clients() -> float:
        started = time.perf_counter()
        batches = case.requests // case.clients // case.pipeline
        await asyncio.gather(*(client(number, batches) for number in range(case.clients)))
        return time.perf_counter() - started

    elapsed = uvloop.run(all_clients())
    return Measured(len(latencies) * case.pipeline / elapsed, statistics.median(latencies))


# --- the run ------------------------------------------------------------------------------------------------------


def _cases(quick: bool) -> list[Case]:
    less = 4 if quick else 1
    return [
        Case(command, clients, pipeline, requests // less)
        for clients, pipeline, requests in ((1, 1, 4_000), (50, 1, 20_000), (50, 16, 160_000), (50, 64, 320_000))
        for command in ("SET", "GET")
    ]


def run(quick: bool, turns: int) -> None:
    """Measure everything, and print it."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = [stack.enter_context(start_valkey(Path(folder) / f"m{i}", config=CONFIG)) for i in range(3)]
        for follower in servers[1:]:
            _follow(follower, servers[0])
        routers = stack.enter_context(_routers(asyncio.run(_history(servers[0])), [server.port for server in servers]))
        targets = {PLAIN: servers[0].port, WAITING: servers[0].port, **routers, READING: routers["quorum"]}
        print(f"{len(os.sched_getaffinity(0))} processors, three members, values of {len(VALUE)} bytes, {turns} turns")
        for case in _cases(quick):
            asked = [name for name in targets if name != (READING if case.command == "SET" else WAITING)]
            found: dict[str, list[Measured]] = {name: [] for name in asked}
            for _ in range(turns):
                for name in asked:
                    found[name].append(_measure(targets[name], case, name))
            _show(case, found)
        gets = [asyncio.run(_gets(server)) for server in servers]
        print(f"\nGETs that the leader has answered: {gets[0]:,}; its replicas: {gets[1]:,} and {gets[2]:,}")


async def _history(server: Server) -> str:
    """The replication id of what a leader writes."""
    async with redis.asyncio.Redis(port=server.port, decode_responses=True) as client:
        return str((await client.info("replication"))["master_replid"])


async def _gets(server: Server) -> int:
    """How many GETs a server has answered."""
    async with redis.asyncio.Redis(port=server.port, decode_responses=True) as client:
        stats = await client.info("commandstats")
    return int(stats.get("cmdstat_get", {"calls": 0})["calls"])


def _show(case: Case, found: dict[str, list[Measured]]) -> None:
    per_s = {name: statistics.median(one.per_s for one in turns) for name, turns in found.items()}
    p50_ms = {name: statistics.median(one.p50_ms for one in turns) for name, turns in found.items()}
    print(f"\n{case.command}, {case.clients} clients, -P {case.pipeline} (load {os.getloadavg()[0]:.1f})")
    for name in found:
        ratio = per_s[name] / per_s["async"]
        more = p50_ms[name] - p50_ms["async"]
        print(f"  {name:<15} {per_s[name]:>9,.0f}/s  {ratio:5.2f} of async   p50 {p50_ms[name]:8.3f} ms  {more:+8.3f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replication", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the requests")
    parser.add_argument("--turns", type=int, default=3, help="turns of each target for each figure")
    parser.add_argument("--route", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=sorted(MODES), help=argparse.SUPPRESS)
    parser.add_argument("--history", help=argparse.SUPPRESS)
    parser.add_argument("--members", type=int, nargs="+", metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.route:
        uvloop.run(_route(options.route, options.mode, options.history, options.members))
    else:
        run(options.quick, options.turns)


if __name__ == "__main__":
    main()
