"""What others notice while big values move: `python -m benchmarks.big_values [--elements N] [--string BYTES]`.

Two servers with their logs on, a coordinator in this process, and in processes of their own a prober, which
asks both servers directly for other keys (PING and GET in turn, each of them about once a millisecond), and a
writer, which changes the moving value through a router. Each kind of value moves once at rest and once
while it is written. Printed for each: how long the move took, how long its keys were held (the pause), what
the prober saw of both servers, and what the writer saw. At the end, how fast small keys move.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol, cast

import hiredis
import uvloop
from tests.servers import ADMIN_PASSWORD, ADMIN_USER
from tests.shards import Shards, running_shards

from helios.admin.client import Admin
from helios.engines.valkey import ValkeyConnector
from helios.engines.valkey.connection import Command, Connection, Endpoint, ErrorReply, connect
from helios.model.ids import Address
from helios.model.topology import Member
from helios.placement.routing import Routes
from helios.ports.records import MEMBERS, MemberRecord, read_record
from helios.router.core import Router
from helios.router.options import RouterOptions
from helios.runtime.clock import SystemClock
from helios.stores.sqlite import SqliteStore

KINDS = ("string", "list", "hash", "set", "zset", "stream")
PROBE_EVERY_S = 0.001
WRITE_EVERY_S = 0.002
BASELINE_S = 3.0
FILL_STEP = 1000
UNDER_WAY = ("pending", "in_progress")
PROCESSES = get_context("spawn")


# The published type allows tuples of one element only.
pack = cast(Callable[[tuple[bytes | str, ...]], bytes], hiredis.pack_command)


class Pipe(Protocol):
    """The end of a pipe on which a process tells what it measured."""

    def send(self, obj: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """How big the values are."""

    elements: int
    string_bytes: int


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="What others notice while big values move.")
    parser.add_argument("--elements", type=int, default=1_000_000, help="of lists, hashes, sets, sorted sets, streams")
    parser.add_argument("--string", type=int, default=64 << 20, help="bytes of the string")
    parser.add_argument("--small", type=int, default=200_000, help="small keys to move at the end")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(Path(folder), options.kinds, Sizes(options.elements, options.string), options.small))


async def measure(folder: Path, kinds: list[str], sizes: Sizes, small: int) -> None:
    async with running_shards(folder, 2) as shards:
        await shards.fill({b"other:%d" % number: b"v" * 100 for number in range(10_000)})
        print(f"{'':16} {'took':>7} {'pause':>9}  source p50/p99/max ms   target p50/p99/max ms   load")
        begun, stop, end = start(probe, list(await probed(shards)))
        await asyncio.to_thread(begun.wait)
        await asyncio.sleep(BASELINE_S)
        print(line("nothing moves", "", "", await finish(stop, end)))
        for kind in kinds:
            for written in (False, True):
                await move_one(shards, kind, sizes, written)
        if small:
            await move_small(shards, small)


async def move_one(shards: Shards, kind: str, sizes: Sizes, written: bool) -> None:
    """Fill, move, print, and undo."""
    key = owned(await shards.topology(), "shard-1", f"big:{kind}")
    await fill(shards, kind, key, sizes)
    begun, stop, end = start(probe, list(await probed(shards)))
    await asyncio.to_thread(begun.wait)
    if written:
        writing, stop_writing, writer_end = start(write, str(shards.folder), kind, key)
        await asyncio.to_thread(writing.wait)
    began_s = time.monotonic()
    view = await shards.admin.migrate("shard-1", "shard-2", "big:*")
    migration = await shards.admin.migration(view.id)
    while migration.status in UNDER_WAY:
        await asyncio.sleep(0.1)
        migration = await shards.admin.migration(view.id)
    took_s = time.monotonic() - began_s
    await shards.settled()
    seen = await finish(stop, end)
    pause = "-" if migration.pause_ms is None else f"{migration.pause_ms:.0f} ms"
    print(line(f"{kind}{', written' if written else ''}", f"{took_s:.1f} s", pause, seen))
    if migration.status != "completed":
        print(f"{'':16} {migration.status}: {migration.error}")
    if written:
        times, errors = await finish(stop_writing, writer_end)
        print(f"{'':16} the writer: {len(times)} writes, slowest {max(times):.0f} ms, errors: {errors or 'none'}")
    if migration.status == "completed":
        await shards.admin.migrate("shard-2", "shard-1", "big:*")
        await shards.settled()
    await shards.execute("shard-1", "UNLINK", key)


async def move_small(shards: Shards, count: int) -> None:
    """How many keys of 100 bytes move in a second without a limit."""
    topology = await shards.topology()
    routes = Routes(topology)
    names = (b"small:%d" % number for number in range(10 * count))
    mine = [key for key in names if routes.owner(key) == "shard-1"][:count]
    await shards.fill(dict.fromkeys(mine, b"v" * 100))
    began_s = time.monotonic()
    view = await shards.admin.migrate("shard-1", "shard-2", "small:*")
    migration = await shards.admin.migration(view.id)
    while migration.keys_moved < len(mine) and migration.status in UNDER_WAY:
        await asyncio.sleep(0.01)
        migration = await shards.admin.migration(view.id)
    took_s = time.monotonic() - began_s
    await shards.settled()
    print(
        f"{len(mine):,} keys of 100 bytes: copied at {len(mine) / took_s:,.0f} keys/s (load {os.getloadavg()[0]:.1f})"
    )


def line(name: str, took: str, pause: str, seen: list[list[float]]) -> str:
    """A line of the table."""
    columns = "   ".join(f"{part(one, 0.5):6.1f} {part(one, 0.99):6.1f} {max(one):6.1f}" for one in seen)
    return f"{name:16} {took:>7} {pause:>9}   {columns}   {os.getloadavg()[0]:.1f}"


def part(times: list[float], share: float) -> float:
    """The time that this share of them does not exceed."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


# What is moved


def owned(topology: Any, shard: str, prefix: str) -> bytes:
    """A key with that prefix that the shard owns."""
    routes = Routes(topology)
    keys = (f"{prefix}:{number}".encode() for number in range(1000))
    return next(key for key in keys if routes.owner(key) == shard)


async def fill(shards: Shards, kind: str, key: bytes, sizes: Sizes) -> None:
    address = Address("127.0.0.1", shards.servers["shard-1"].port)
    engine = await shards.connector.open(Member("shard-1.0", "shard-1", address))
    if kind == "string":
        for _ in range(0, sizes.string_bytes, 1 << 20):
            await engine.connection.execute("APPEND", key, random.randbytes(1 << 20))
    else:
        for start_at in range(0, sizes.elements, FILL_STEP):
            numbers = range(start_at, min(sizes.elements, start_at + FILL_STEP))
            await engine.connection.execute_many(filling(kind, key, numbers))
    await engine.close()


def filling(kind: str, key: bytes, numbers: range) -> list[Command]:
    """The commands that add these elements."""
    match kind:
        case "list":
            return [("RPUSH", key, *(b"element:%d" % n for n in numbers))]
        case "hash":
            return [("HSET", key, *(word for n in numbers for word in (b"field:%d" % n, b"value:%d" % n)))]
        case "set":
            return [("SADD", key, *(b"member:%d" % n for n in numbers))]
        case "zset":
            return [("ZADD", key, *(word for n in numbers for word in (str(n * 1.1), b"member:%d" % n)))]
        case _:
            return [("XADD", key, f"{n + 1}-1", b"field", b"value:%d" % n) for n in numbers]


def change(kind: str, key: bytes) -> Command:
    """A write to the moving value."""
    number = random.randrange(1_000_000)
    changes: dict[str, Command] = {
        "string": ("SETRANGE", key, number, b"changed"),
        "list": ("RPUSH", key, b"new"),
        "hash": ("HSET", key, b"field:%d" % number, b"changed"),
        "set": ("SADD", key, b"new:%d" % number),
        "zset": ("ZADD", key, str(number), b"member:%d" % number),
        "stream": ("XADD", key, "*", b"field", b"new"),
    }
    return changes[kind]


# Processes beside this one


def start(work: Callable[..., None], *arguments: Any) -> tuple[Event, Event, Any]:
    """Run `work` in a process: the event that it sets when it has begun, one that ends it, and where it answers."""
    begun, stop = PROCESSES.Event(), PROCESSES.Event()
    mine, its = PROCESSES.Pipe(duplex=False)
    PROCESSES.Process(target=work, args=(begun, stop, its, *arguments), daemon=True).start()
    return begun, stop, mine


async def finish(stop: Event, end: Any) -> Any:
    """Let a process end; what it measured."""
    stop.set()
    return await asyncio.to_thread(end.recv)


async def probed(shards: Shards) -> list[tuple[int, bytes]]:
    """The ports of both servers with a key that stays on each."""
    topology = await shards.topology()
    return [(shards.servers[shard].port, owned(topology, shard, "other")) for shard in ("shard-1", "shard-2")]


def probe(begun: Event, stop: Event, end: Pipe, servers: list[tuple[int, bytes]]) -> None:
    """Ask each server in turn until told to stop; then tell the milliseconds that the answers took, by server."""
    connections = [socket.create_connection(("127.0.0.1", port)) for port, _ in servers]
    commands = []
    for connection, (_, key) in zip(connections, servers, strict=True):
        ask(connection, pack(("AUTH", ADMIN_USER, ADMIN_PASSWORD)))
        commands.append((pack(("PING",)), pack(("GET", key))))
    seen: list[list[float]] = [[] for _ in servers]
    begun.set()
    turn = 0
    while not stop.is_set():
        turn += 1
        for number, connection in enumerate(connections):
            began_s = time.perf_counter()
            ask(connection, commands[number][turn % 2])
            seen[number].append((time.perf_counter() - began_s) * 1000)
        time.sleep(PROBE_EVERY_S)
    end.send(seen)


def ask(connection: socket.socket, command: bytes) -> None:
    """One command and its short answer."""
    connection.sendall(command)
    answer = connection.recv(4096)
    assert answer[:1] in b"+$", answer


def write(begun: Event, stop: Event, end: Pipe, folder: str, kind: str, key: bytes) -> None:
    """Change a value through a router until told to stop; then tell how long each change took, in milliseconds."""
    uvloop.run(_write(begun, stop, end, Path(folder), kind, key))


async def _write(begun: Event, stop: Event, end: Pipe, folder: Path, kind: str, key: bytes) -> None:
    store = await SqliteStore.open(folder / "helios.db")

    async def credentials(member: Member) -> tuple[str, str] | None:
        record = await read_record(store, MemberRecord, MEMBERS + member.id)
        return None if record is None else (record.value.user, record.value.password)

    connector, clock = ValkeyConnector(credentials), SystemClock()
    router = Router(store, connector, Admin(store, connector, clock), clock, RouterOptions(node="shard-1"))
    await router.start()
    port = await router.serve("127.0.0.1", 0)
    connection = await connect(Endpoint("router", Address("127.0.0.1", port)))
    times: list[float] = []
    errors: dict[str, int] = {}
    while not stop.is_set():
        began_s = time.perf_counter()
        await _change(connection, change(kind, key), errors)
        times.append((time.perf_counter() - began_s) * 1000)
        if len(times) == 100:
            begun.set()
        await asyncio.sleep(WRITE_EVERY_S)
    await connection.close()
    await router.stop()
    await store.close()
    end.send((times, errors))


async def _change(connection: Connection, command: Command, errors: dict[str, int]) -> None:
    (reply,) = await connection.execute_many([command], timeout_s=30)
    if isinstance(reply, ErrorReply):
        errors[str(reply)] = errors.get(str(reply), 0) + 1


if __name__ == "__main__":
    main()
