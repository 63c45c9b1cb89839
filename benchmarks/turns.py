"""The longest turn of a router's loop for the worst command of each kind: `python -m benchmarks.turns`.

One command of one client is sent to a router over three servers, and whoever else calls waits no longer than one turn
of its loop. The router is a process of its own, in which a timer of a millisecond notes how much the loop has worked
since it last came, and how long that took: what else the machine does makes turns long as well.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop
from tests.routers import RawClient, RouterLab
from tests.servers import Server, start_valkey

from helios.model.topology import NodeKind
from helios.resp.wire import ReplySplitter, encode_command
from helios.router.options import RouterOptions

SHARDS = 3
BEAT_S = 0.001
AIM_S = 0.020


def commands(size: int) -> list[tuple[str, Callable[[], bytes]]]:
    """What is sent, by name; `size` is how many arguments the longest have."""
    names = [b"key:%d" % number for number in range(size)]
    pairs = [word for name in names for word in (name, b"v")][:size]
    few, channels = size * 3 // 10, size // 100
    return [
        (f"MSET of {size:,} arguments", lambda: encode_command([b"MSET", *pairs])),
        (f"MGET of {size:,} keys", lambda: encode_command([b"MGET", *names])),
        (f"DEL of {size:,} keys", lambda: encode_command([b"DEL", *names])),
        (f"SUNION of {size:,} keys of many shards", lambda: encode_command([b"SUNION", *names])),
        (f"SADD of {size:,} members", lambda: encode_command([b"SADD", b"set", *names])),
        (f"COMMAND INFO get x {few:,}", lambda: encode_command([b"COMMAND", b"INFO", *[b"get"] * few])),
        (f"COMMAND DOCS get x {few:,}", lambda: encode_command([b"COMMAND", b"DOCS", *[b"get"] * few])),
        ("COMMAND LIST FILTERBY PATTERN, 64 KB", lambda: _listed(b"*[" + b"a" * 65_000 + b"]z*")),
        ("COMMAND LIST FILTERBY PATTERN, 8 MB", lambda: _listed(b"*a" * 4_000_000)),
        ("CONFIG GET, 1 MB", lambda: encode_command([b"CONFIG", b"GET", b"*a" * 500_000])),
        (f"CONFIG GET a x {few:,}", lambda: encode_command([b"CONFIG", b"GET", *[b"a"] * few])),
        ("PSUBSCRIBE, 2 MB", lambda: encode_command([b"PSUBSCRIBE", b"*a" * 1_000_000])),
        (f"SUBSCRIBE of {channels:,} channels", lambda: encode_command([b"SUBSCRIBE", *names[:channels]])),
        (f"PUBSUB NUMSUB of {channels:,} channels", lambda: encode_command([b"PUBSUB", b"NUMSUB", *names[:channels]])),
        (f"SCRIPT EXISTS of {few:,} scripts", lambda: encode_command([b"SCRIPT", b"EXISTS", *names[:few]])),
        (f"WATCH of {few:,} keys", lambda: encode_command([b"WATCH", *names[:few]])),
        ("SET of 64 MB", lambda: encode_command([b"SET", b"big", b"v" * (64 << 20)])),
        ("GET of 64 MB", lambda: encode_command([b"GET", b"big"])),
        ("100,000 x ECHO in one pipeline", lambda: encode_command([b"ECHO", b"v" * 100]) * 100_000),
        ("100,000 x CLIENT REPLY SKIP", lambda: encode_command([b"CLIENT", b"REPLY", b"SKIP"]) * 100_000),
        ("100,000 x GET in one pipeline", lambda: encode_command([b"GET", b"x"]) * 100_000),
    ]


def _listed(pattern: bytes) -> bytes:
    return encode_command([b"COMMAND", b"LIST", b"FILTERBY", b"PATTERN", pattern])


def serve(servers: dict[str, Server], end: Connection) -> None:
    """The router's process: says its port, then its longest turn since it was last asked."""
    uvloop.run(_serve(servers, end))


async def _serve(servers: dict[str, Server], end: Connection) -> None:
    loop = asyncio.get_running_loop()
    longest = longest_cpu = 0.0
    beaten_at, worked_at = time.monotonic(), time.thread_time()

    def beat() -> None:
        nonlocal longest, longest_cpu, beaten_at, worked_at
        now, worked = time.monotonic(), time.thread_time()
        longest, longest_cpu = max(longest, now - beaten_at), max(longest_cpu, worked - worked_at)
        beaten_at, worked_at = now, worked
        loop.call_later(BEAT_S, beat)

    async with RouterLab(servers, NodeKind.EXTERNAL, RouterOptions(node="shard-1")).running() as lab:
        for shard in servers:
            for protocol in (2, 3):
                lab.router.pool.link(shard, protocol).connect()
        beat()
        end.send(lab.port)
        asked = asyncio.Event()
        loop.add_reader(end.fileno(), asked.set)
        while True:
            await asked.wait()
            asked.clear()
            if end.recv() == "end":
                return
            end.send((longest, longest_cpu))
            longest = longest_cpu = 0.0


async def _replies(client: RawClient, count: int) -> None:
    splitter = ReplySplitter()
    while count > 0:
        data = await client.reader.read(1 << 20)
        if not data:
            return
        count -= len(splitter.feed(data))


def _print(name: str, longest: float, longest_cpu: float, took_s: float | None = None) -> None:
    answered = "" if took_s is None else f"   answered after {took_s:6.2f} s"
    print(f"{name:48} {longest_cpu * 1000:8.1f} ms of work {longest * 1000:8.1f} ms{answered}", flush=True)


async def measure(port: int, end: Connection, size: int) -> bool:
    """Print a line for each command; whether all turns were as short as they should be."""

    def turn() -> tuple[float, float]:
        end.send("turn")
        longest: tuple[float, float] = end.recv()
        return longest

    turn()
    await asyncio.sleep(1)
    _print("nothing", *turn())
    kept = True
    for name, frame in commands(size):
        client = await RawClient.connect(port)
        data = frame()
        turn()
        began_at = time.monotonic()
        client.writer.write(data)
        if "CLIENT REPLY" in name:
            client.writer.write(encode_command([b"PING"]) * 2)  # the last SKIP was for the first of them
        # A pipeline gets a reply for each command, one SUBSCRIBE one for each channel.
        count = (
            100_000 if "pipeline" in name else int(name.split()[2].replace(",", "")) if "SUBSCRIBE of" in name else 1
        )
        async with asyncio.timeout(20):
            await _replies(client, count)
        took_s = time.monotonic() - began_at
        client.close()
        longest, longest_cpu = turn()
        kept = kept and longest_cpu <= AIM_S
        _print(name, longest, longest_cpu, took_s)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arguments", type=int, default=1_000_000, help="of the longest commands")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {f"shard-{i + 1}": stack.enter_context(start_valkey(Path(folder) / str(i))) for i in range(SHARDS)}
        process = multiprocessing.get_context("fork").Process(target=serve, args=(servers, there), daemon=True)
        process.start()
        try:
            port = here.recv()
            print(f"longest turn of the loop; aim {AIM_S * 1000:g} ms of work, {options.arguments:,} arguments at most")
            asyncio.run(measure(port, here, options.arguments))
        finally:
            here.send("end")
            process.join(10)
            process.kill()


if __name__ == "__main__":
    main()
