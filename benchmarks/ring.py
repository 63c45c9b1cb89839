"""What the ring costs and how evenly it spreads: `python benchmarks/ring.py [FILE]`.

FILE holds one key a line, or what stands before the first tab of each line; `.gz` is read too. Without
one, the keys of the tests are used. Times are the best of several runs, as the others measure the machine's
other work.
"""

from __future__ import annotations

import argparse
import gzip
import platform
import timeit
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import fmean, pstdev

from uhashring import HashRing

from helios.placement.ring import Ring

TEST_KEYS = Path(__file__).parent.parent / "tests" / "data" / "keys.txt.gz"
VIRTUAL_NODES = 150
RUNS = 5
LOOK_UPS = 20_000


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="What the ring costs and how evenly it spreads.")
    parser.add_argument("file", nargs="?", type=Path, default=TEST_KEYS, help="keys, one a line")
    path = parser.parse_args().file
    keys = read_keys(path)
    print(f"{platform.platform()}, {processor()}")
    print(f"Python {platform.python_version()}, uhashring {version('uhashring')}")
    print(f"{len(keys):,} keys of {path.name}, {VIRTUAL_NODES} points a node")
    look_ups(keys)
    building()
    balance(keys)
    other_ids()
    growing(keys)


def read_keys(path: Path) -> list[bytes]:
    """The keys of a file."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [line.split(b"\t", 1)[0] for line in content.splitlines()]


def processor() -> str:
    """The name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def ids(nodes: int) -> list[str]:
    """The ids that `helios up` gives to its nodes."""
    return [f"shard-{n}" for n in range(1, nodes + 1)]


def ring(nodes: int) -> Ring:
    """A ring of nodes of weight 1."""
    return Ring(dict.fromkeys(ids(nodes), 1.0), VIRTUAL_NODES)


def peer(nodes: int) -> HashRing:
    """The ring of uhashring with as many points a node; it hashes with MD5 too and keeps all 128 bits."""
    return HashRing(ids(nodes), vnodes=VIRTUAL_NODES)


def best(work: Callable[[], object]) -> float:
    """The shortest time of several runs, in seconds."""
    return min(timeit.repeat(work, number=1, repeat=RUNS))


def look_ups(keys: Sequence[bytes]) -> None:
    """Look-up times of both, over keys of the file."""
    some = keys[:LOOK_UPS]
    # Each gets its keys as it takes them: bytes here, text there.
    texts = [key.decode("utf-8", "replace") for key in some]
    print("\nlook-up             helios    uhashring   ratio")
    for nodes in (3, 10, 100, 1000):
        owner, get = ring(nodes).owner, peer(nodes).get_node

        def ours(owner: Callable[[bytes], object] = owner) -> None:
            for key in some:
                owner(key)

        def theirs(get: Callable[[str], object] = get) -> None:
            for text in texts:
                get(text)

        mine, other = best(ours) / len(some), best(theirs) / len(some)
        print(f"{nodes:5} nodes    {mine * 1e9:7.0f} ns   {other * 1e9:7.0f} ns   {other / mine:5.2f}")


def building() -> None:
    """Time and memory of building a ring."""
    print("\nbuild               helios    uhashring   ratio   helios/node   uhashring/node")
    for nodes in (3, 100, 1000):
        mine, other = best(lambda nodes=nodes: ring(nodes)), best(lambda nodes=nodes: peer(nodes))  # type: ignore[misc]
        ours, theirs = memory(lambda nodes=nodes: ring(nodes)), memory(lambda nodes=nodes: peer(nodes))  # type: ignore[misc]
        print(
            f"{nodes:5} nodes    {mine * 1e3:7.1f} ms   {other * 1e3:7.1f} ms   {other / mine:5.2f}"
            f"   {ours / nodes / 1024:7.1f} KiB   {theirs / nodes / 1024:7.1f} KiB"
        )


def memory(build: Callable[[], object]) -> int:
    """The bytes that what was built holds on to."""
    tracemalloc.start()
    built = build()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del built
    return held


def balance(keys: Sequence[bytes]) -> None:
    """How many keys each of ten nodes has, beside its share of the ring."""
    ten = ring(10)
    counts, shares = Counter(map(ten.owner, keys)), ten.shares()
    print("\n10 nodes        keys   off the mean   share of the ring off the mean")
    for shard in ids(10):
        off = counts[shard] / len(keys) * 10 - 1
        print(f"{shard:10} {counts[shard]:9,}   {off:+12.1%}   {shares[shard] * 10 - 1:+30.1%}")
    worst = max(abs(counts[shard] / len(keys) * 10 - 1) for shard in ids(10))
    print(f"farthest off: {worst:.1%}")


def other_ids() -> None:
    """How even the ring is by its exact shares for nodes of other names, of which the points are made."""
    random, sets = Random(1), 300
    print(f"\n{sets} sets of ids    standard deviation   farthest off: median   95 %   sets within 20 %")
    for nodes in (3, 10, 20):
        off: list[list[float]] = []
        for _ in range(sets):
            prefix = random.randrange(10**9)
            weights = {f"node-{prefix}-{n}": 1.0 for n in range(nodes)}
            off.append([share * nodes - 1 for share in Ring(weights, VIRTUAL_NODES).shares().values()])
        farthest = sorted(max(map(abs, one)) for one in off)
        print(
            f"{nodes:5} nodes    {fmean(pstdev(one) for one in off):22.1%}   {farthest[sets // 2]:20.1%}"
            f"   {farthest[sets * 95 // 100]:4.0%}   {sum(one <= 0.2 for one in farthest) / sets:17.0%}"
        )


def growing(keys: Sequence[bytes]) -> None:
    """How many keys move to a new node, and whether any other key moves."""
    print("\na new node        keys that move    1/N   between others")
    for nodes in (3, 9, 99):
        before, after, joiner = ring(nodes), ring(nodes + 1), f"shard-{nodes + 1}"
        moved = [after.owner(key) for key in keys if before.owner(key) != after.owner(key)]
        others = sum(owner != joiner for owner in moved)
        print(
            f"{nodes:3} → {nodes + 1:<4}        {len(moved) / len(keys):14.2%}   {1 / (nodes + 1):4.1%}   {others:14}"
        )


if __name__ == "__main__":
    main()
