"""Whether routers keep their leases, whatever they are asked and whoever else wants the processor.

`python -m benchmarks.leases --minutes 10 --neighbours 20` gives a cluster of three nodes one kind of load after the
other, each so heavy that the router which it calls has no time left, while other processes with low priority keep the
machine's load at 20. A lost lease shows as a router's second session, and in what its clients are told. The longest
renewal gap is the longest time that any router's lease went without renewal: it ends after `router.session_ttl`.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.queues import Queue

import redis
import uvloop

import helios
from helios.resp.wire import ReplySplitter, encode_command
from helios.router.options import RouterOptions

CLIENTS = 50
PIPELINE = 16
KEYS = 10_000
LEASE_MS = round(RouterOptions().session_ttl_s * 1000)
RULES = 12
SPIN = "import os; os.nice(19)\nwhile True: pass"
Words = Sequence[bytes]


def loads(client: int) -> dict[str, list[Words]]:
    """What a client sends again and again, by the name of the load."""
    keys = [b"key:%d" % ((client * 977 + number * 31) % KEYS) for number in range(100)]
    value = b"v" * 1000
    return {
        "GET -P 16": [[b"GET", key] for key in keys[:PIPELINE]],
        "GET": [[b"GET", keys[0]]],
        "SET of 1,000 bytes -P 16": [[b"SET", key, value] for key in keys[:PIPELINE]],
        "MSET of 100 keys": [[b"MSET", *(word for key in keys for word in (key, b"v"))]],
        "MGET of 100 keys": [[b"MGET", *keys]],
        "a transaction": [[b"MULTI"], *([b"INCR", b"{count}%d" % n] for n in range(3)), [b"EXEC"]],
        "EVAL": [[b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", keys[0]]],
        "PUBLISH -P 16": [[b"PUBLISH", key, b"message"] for key in keys[:PIPELINE]],
        "SCAN": [[b"SCAN", b"0", b"COUNT", b"100"]],
        "COMMAND": [[b"COMMAND"]],
        "unknown commands -P 16": [[b"NOSUCH", key] for key in keys[:PIPELINE]],
    }


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that use all the time that nobody else wants."""
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
        for process in spinning:
            process.wait()


async def _call(port: int, frames: list[Words], until: float) -> tuple[int, int]:
    """One client; how many replies it got, and how many said that nobody serves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    batch = b"".join(encode_command(words) for words in frames)
    answered = refused = 0
    loop = asyncio.get_running_loop()
    splitter = ReplySplitter()
    while loop.time() < until:
        writer.write(batch)
        missing = len(frames)
        while missing > 0:
            replies = splitter.feed(await reader.read(1 << 18))
            missing -= len(replies)
            answered += len(replies)
            refused += sum(reply.startswith(b"-CLUSTERDOWN") for reply in replies)
    writer.close()
    return answered, refused


async def _generate(port: int, name: str, seconds: float) -> tuple[int, int]:
    until = asyncio.get_running_loop().time() + seconds
    counts = await asyncio.gather(*(_call(port, loads(client)[name], until) for client in range(CLIENTS)))
    return sum(answered for answered, _ in counts), sum(refused for _, refused in counts)


def generate(port: int, name: str, seconds: float, results: Queue[tuple[int, int]]) -> None:
    """The clients, in a process of their own."""
    results.put(uvloop.run(_generate(port, name, seconds)))


def sessions(ports: Sequence[int]) -> tuple[int, int]:
    """How many sessions all routers have had, and the longest renewal gap of any, in milliseconds."""
    total = longest_ms = 0
    for port in ports:
        with redis.Redis(port=port, socket_timeout=60) as client:
            said = client.info("helios")
        total += int(said["sessions_total"])
        longest_ms = max(longest_ms, int(said["lease_renewal_gap_max_ms"]))
    return total, longest_ms


def measure(port: int, ports: Sequence[int], name: str, seconds: float) -> int:
    """Give one kind of load and print a line; how many leases were lost."""
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[int, int]] = context.Queue()
    before, _ = sessions(ports)
    process = context.Process(target=generate, args=(port, name, seconds, results))
    process.start()
    answered, refused = results.get(timeout=seconds * 3 + 120)
    process.join()
    after, longest_ms = sessions(ports)
    lost, load = after - before, os.getloadavg()[0]
    print(
        f"{name:32} {answered / seconds:10,.0f}/s   load {load:5.1f}   {lost} lost, {refused} refused, "
        f"longest renewal gap so far {longest_ms:,} ms",
        flush=True,
    )
    return lost


def main() -> int:
    """1 if any lease was lost."""
    parser = argparse.ArgumentParser(description="Whether busy routers keep their leases.")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds of load together")
    parser.add_argument("--neighbours", type=int, default=20, help="processes of low priority that never rest")
    parser.add_argument("--loads", nargs="*", help="names of loads; all unless given")
    options = parser.parse_args()
    chosen = options.loads or list(loads(0))
    lost = 0
    with ExitStack() as stack:
        cluster = stack.enter_context(helios.LocalCluster(shards=3))
        ports = [int(node.address.rpartition(":")[2]) for node in cluster.admin.list_nodes()]
        for number in range(RULES):
            source, target = f"shard-{number % 3 + 1}", f"shard-{(number + 1) % 3 + 1}"
            cluster.admin.wait(cluster.admin.migrate(source, target, f"*t{number}*"))
        stack.enter_context(neighbours(options.neighbours))
        for name in chosen:
            lost += measure(cluster.port, ports, name, options.minutes * 60 / len(chosen))
        _, longest_ms = sessions(ports)
    print(f"{lost} leases lost; longest renewal gap {longest_ms:,} ms of {LEASE_MS:,} ms")
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
