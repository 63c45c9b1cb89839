"""What placing keys costs and how evenly it spreads them: `python benchmarks/ring.py [FILE] [--quick]`.

FILE holds one key a line, or what stands before the first tab of each line; `.gz` is read too. Without
one, the keys of the tests are used. Times are the best of several runs, as the others measure the machine's
other work. Look-ups and building are measured beside uhashring, in the same run. `--quick` shows in a second
that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gzip
import platform
import timeit
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from math import log2
from pathlib import Path
from random import Random
from statistics import fmean, pstdev

from uhashring import HashRing

from helios.control.mutations import Fence, begin
from helios.model.balancing import Measure, Strategy
from helios.model.codec import encode
from helios.model.ids import Address
from helios.model.topology import Member, Node, Pair, Placement, Rule, Shard, Topology
from helios.placement.balance import plan
from helios.placement.change import with_weights, without_shard
from helios.placement.load import Load, ShardLoad, estimate
from helios.placement.plan import pairs_between
from helios.placement.ring import Ring
from helios.placement.table import table_of
from helios.ports.store import Put
from helios.ports.topology_records import stored

TEST_KEYS = Path(__file__).parent.parent / "tests" / "data" / "keys.txt.gz"
VIRTUAL_NODES = 150


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried."""

    runs: int = 5
    look_ups: int = 20_000
    nodes: tuple[int, ...] = (3, 10, 100, 1000, 10_000)
    plans: tuple[int, ...] = (10, 100, 1000)
    phases: tuple[int, ...] = (100, 1000)
    id_sets: int = 300
    points: tuple[int, ...] = (50, 100, 150, 300, 500, 1000)


QUICK = Effort(runs=1, look_ups=100, nodes=(3, 10), plans=(3,), phases=(3, 10), id_sets=3, points=(20, 40))


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="What placing keys costs and how evenly it spreads them.")
    parser.add_argument("file", nargs="?", type=Path, default=TEST_KEYS, help="keys, one a line")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    chosen = parser.parse_args(words)
    effort = QUICK if chosen.quick else Effort()
    keys = read_keys(chosen.file)
    print(f"{platform.platform()}, {processor()}")
    print(f"Python {platform.python_version()}, uhashring {version('uhashring')}")
    print(f"{len(keys):,} keys of {chosen.file.name}, {VIRTUAL_NODES} points a node")
    look_ups(keys, effort)
    building(effort)
    planning(effort)
    phases(effort)
    balance(keys)
    other_ids(effort)
    points(effort)
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


def best(work: Callable[[], object], effort: Effort) -> float:
    """The shortest time of several runs, in seconds."""
    return min(timeit.repeat(work, number=1, repeat=effort.runs))


def look_ups(keys: Sequence[bytes], effort: Effort) -> None:
    """Look-up times of both, over keys of the file. A look-up takes one MD5 and log2(points) comparisons."""
    some = keys[: effort.look_ups]
    # Each gets its keys as it takes them: bytes here, text there.
    texts = [key.decode("utf-8", "replace") for key in some]
    print("\nlook-up             helios    uhashring   ratio   log2(points)")
    for nodes in effort.nodes:
        owner, get = ring(nodes).owner, peer(nodes).get_node

        def ours(owner: Callable[[bytes], object] = owner) -> None:
            for key in some:
                owner(key)

        def theirs(get: Callable[[str], object] = get) -> None:
            for text in texts:
                get(text)

        mine, other = best(ours, effort) / len(some), best(theirs, effort) / len(some)
        print(
            f"{nodes:5} nodes    {mine * 1e9:7.0f} ns   {other * 1e9:7.0f} ns   {other / mine:5.2f}"
            f"   {log2(nodes * VIRTUAL_NODES):12.1f}"
        )


def building(effort: Effort) -> None:
    """Time and memory of building a ring. The record is what processes hand each other, in compact JSON."""
    print("\nbuild               helios    uhashring   ratio   helios/node   uhashring/node   record/node")
    for nodes in effort.nodes:

        def ours(nodes: int = nodes) -> object:
            return ring(nodes)

        def theirs(nodes: int = nodes) -> object:
            return peer(nodes)

        mine, other = best(ours, effort), best(theirs, effort)
        held, other_held = memory(ours), memory(theirs)
        print(
            f"{nodes:5} nodes    {mine * 1e3:7.1f} ms   {other * 1e3:7.1f} ms   {other / mine:5.2f}"
            f"   {held / nodes / 1024:7.1f} KiB   {other_held / nodes / 1024:10.1f} KiB"
            f"   {len(encode(topology(nodes))) / nodes:9.0f} B"
        )


def planning(effort: Effort) -> None:
    """How long it takes to find the pairs of nodes that a change concerns, and the points to give away for balance."""
    print("\nplan            a node joins    a node leaves   all within 2 %")
    for nodes in effort.plans:
        current = record(nodes)
        grown = with_weights(current, {**dict(current.weights), "shard-new": 1.0})
        load = Load({shard: ShardLoad(keys=1e6 * share) for shard, share in table_of(current).shares.items()})

        def joins(current: Placement = current, grown: Placement = grown) -> object:
            table_of.cache_clear()
            return pairs_between(current, grown)

        def leaves(current: Placement = current, grown: Placement = grown) -> object:
            table_of.cache_clear()
            return pairs_between(grown, without_shard(grown, "shard-new"))

        def evens(current: Placement = current, load: Load = load) -> object:
            table_of.cache_clear()
            return plan(estimate(load, current, current, Measure.KEYS), current, Strategy.UNIFORM)

        took = [best(work, effort) * 1e3 for work in (joins, leaves, evens)]
        print(f"{nodes:5} nodes   {took[0]:9.1f} ms   {took[1]:11.1f} ms   {took[2]:11.1f} ms")


def phases(effort: Effort) -> None:
    """The bytes that routers read from the store when one pair of a rebalance is fenced, and when it begins."""
    print("\na rebalance     pairs   a phase of a pair   as one record   its beginning")
    for nodes in effort.phases:
        current, following, pairs = rebalance(nodes)
        begun = begin(current, "0" * 26, following, pairs)
        fenced = Fence(pairs[0].source, pairs[0].target).apply(begun)
        before, _ = stored(current, None)
        at_first, objects = stored(begun, before)
        after, more = stored(fenced, at_first)
        phase = size(after.records(at_first)) + sum(size(one.puts) for one in more)
        beginning = size(at_first.records(before)) + sum(size(one.puts) for one in objects)
        print(f"{nodes:5} nodes   {len(pairs):7,} {phase:17,} B {len(encode(fenced)):13,} B {beginning:13,} B")


def rebalance(nodes: int) -> tuple[Topology, Placement, tuple[Pair, ...]]:
    """A cluster, a placement that gives a third of its points to others, and pairs between which keys move."""
    random, names, current = Random(1), ids(nodes), topology(nodes)
    given = sorted(random.sample(table_of(current.placement).ring.positions, nodes * VIRTUAL_NODES // 3))
    following = replace(current.placement, reassigned=tuple((point, random.choice(names)) for point in given))
    return current, following, tuple(Pair(one, other, f"{one:>026}") for one, other in pairwise(names))


def size(puts: Sequence[Put]) -> int:
    """The bytes of keys and values."""
    return sum(len(put.key) + len(put.value) for put in puts)


def record(nodes: int, tried: tuple[Rule, ...] = ()) -> Placement:
    """The placement of nodes of weight 1."""
    return Placement(VIRTUAL_NODES, tuple(sorted(dict.fromkeys(ids(nodes), 1.0).items())), (), tried)


def topology(nodes: int) -> Topology:
    """A topology as a cluster of that many nodes has it."""
    members = [Member(f"{shard}.0", shard, Address("10.0.0.1", 16379)) for shard in ids(nodes)]
    return Topology(
        1,
        tuple(Node(shard, Address("10.0.0.1", 6379)) for shard in ids(nodes)),
        tuple(Shard(member.node, member.id, (member,)) for member in members),
        record(nodes),
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


def other_ids(effort: Effort) -> None:
    """How even the ring is by its exact shares for nodes of other names, of which the points are made."""
    random, sets = Random(1), effort.id_sets
    print(f"\n{sets} sets of ids    standard deviation   farthest off: median   95 %   sets within 20 %")
    for nodes in (3, 10, 20):
        off = deviations(random, nodes, VIRTUAL_NODES, sets)
        farthest = sorted(max(map(abs, one)) for one in off)
        print(
            f"{nodes:5} nodes    {fmean(pstdev(one) for one in off):22.1%}   {farthest[sets // 2]:20.1%}"
            f"   {farthest[sets * 95 // 100]:4.0%}   {sum(one <= 0.2 for one in farthest) / sets:17.0%}"
        )


def deviations(random: Random, nodes: int, virtual_nodes: int, sets: int) -> list[list[float]]:
    """For each of so many sets of ids how far each node's exact share is off the mean."""
    found: list[list[float]] = []
    for _ in range(sets):
        prefix = random.randrange(10**9)
        weights = {f"node-{prefix}-{n}": 1.0 for n in range(nodes)}
        found.append([share * nodes - 1 for share in Ring(weights, virtual_nodes).shares().values()])
    return found


def points(effort: Effort) -> None:
    """What more or fewer points a node would give, for ten nodes, and what they would cost."""
    random, sets = Random(2), max(2, effort.id_sets // 3)
    print(f"\n10 nodes, {sets} sets of ids   standard deviation   farthest off: median   95 %   memory a node")
    for virtual_nodes in effort.points:
        off = deviations(random, 10, virtual_nodes, sets)
        farthest = sorted(max(map(abs, one)) for one in off)
        held = memory(lambda count=virtual_nodes: Ring(dict.fromkeys(ids(10), 1.0), count))  # type: ignore[misc]
        print(
            f"{virtual_nodes:5} points a node    {fmean(pstdev(one) for one in off):18.1%}"
            f"   {farthest[sets // 2]:20.1%}   {farthest[sets * 95 // 100]:4.0%}   {held / 10 / 1024:9.1f} KiB"
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
