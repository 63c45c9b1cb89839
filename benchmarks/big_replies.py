"""What a small GET waits beside big replies: `python -m benchmarks.big_replies`.

Some clients ask again and again for a value of 100 MB, another one for a small value of the same server, first of the
server itself, then of a router before it. Servers, router, and both kinds of clients are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import uvloop
from tests.routers import RawClient, RouterLab
from tests.servers import Server, start_valkey

from helios.model.topology import NodeKind
from helios.resp.wire import encode_command
from helios.router.options import RouterOptions

BIG, SMALL = encode_command([b"GET", b"big"]), encode_command([b"GET", b"small"])


def serve(server: Server, end: Connection) -> None:
    """The router's process: says its port, and ends when it is told to."""
    uvloop.run(_serve(server, end))


async def _serve(server: Server, end: Connection) -> None:
    async with RouterLab({"shard-1": server}, NodeKind.EXTERNAL, RouterOptions(node="shard-1")).running() as lab:
        end.send(lab.port)
        await asyncio.to_thread(end.recv)


def ask_for_much(port: int, clients: int, size: int, ready: Event, stop: Event) -> None:
    """The process of those who want the big value."""
    uvloop.run(_ask_for_much(port, clients, size, ready, stop))


async def _ask_for_much(port: int, clients: int, size: int, ready: Event, stop: Event) -> None:
    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        while not stop.is_set():
            writer.write(BIG)
            missing = size + len(b"$%d\r\n\r\n" % size)
            while missing:
                missing -= len(await reader.read(missing))
            count[0] += 1
            await asyncio.sleep(0.05)
        writer.close()

    count = [0]
    ready.set()
    await asyncio.gather(*(one() for _ in range(clients)))
    print(f"{'':24} {count[0]} big replies", flush=True)


async def measure(port: int, name: str, clients: int, size: int, seconds: float) -> float:
    """Print what small GETs took; gives the longest, in milliseconds."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=ask_for_much, args=(port, clients, size, ready, stop))
    client = await RawClient.connect(port)
    process.start()
    await asyncio.to_thread(ready.wait)
    took: list[tuple[float, float]] = []
    began = time.perf_counter()
    while (at := time.perf_counter()) < began + seconds:
        client.writer.write(SMALL)
        await client.reader.readexactly(len(b"$5\r\nvalue\r\n"))
        took.append((time.perf_counter() - at, at - began))
        await asyncio.sleep(0.0005)
    stop.set()
    await asyncio.to_thread(process.join)
    client.close()
    took.sort()
    longest = "  ".join(f"{1000 * ms:.0f} (at {at:.1f} s)" for ms, at in took[:-6:-1])
    p50, p99 = (1000 * took[int(len(took) * part)][0] for part in (0.5, 0.99))
    print(f"{name:24} p50 {p50:6.2f} ms   p99 {p99:6.1f} ms   longest {longest} ms", flush=True)
    return took[-1][0] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=2, help="that want the big value")
    parser.add_argument("--megabytes", type=int, default=100, help="that it has")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    size = options.megabytes << 20
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder, start_valkey(Path(folder)) as server:

        async def run(port: int) -> None:
            client = await RawClient.connect(server.port)
            assert await client.ask("SET", "small", "value") == b"+OK\r\n"
            assert await client.ask("SETRANGE", "big", str(size - 1), "v") == b":%d\r\n" % size
            client.close()
            for name, at in (("a server itself", server.port), ("a router before it", port)):
                await measure(at, name, options.clients, size, options.seconds)

        process = multiprocessing.get_context("fork").Process(target=serve, args=(server, there), daemon=True)
        process.start()
        try:
            asyncio.run(run(here.recv()))
        finally:
            here.send("end")
            process.join(10)
            process.kill()


if __name__ == "__main__":
    main()
