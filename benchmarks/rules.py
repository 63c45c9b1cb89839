"""What placement rules cost: `python -m benchmarks.rules [--quick]`.

For 0, 10, 100 and 1,000 rules on three nodes: a look-up from Python and what it adds to one without rules, one more
move by pattern, finding the pairs of nodes that it concerns, and building the table that routers look keys up in.
Times are processor time, the best of several runs. `--quick` shows in a second that everything runs; its figures
mean nothing.
"""

from __future__ import annotations

import argparse
import platform
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.ring import ids, processor, record

from helios.model.topology import Placement, Rule
from helios.placement.change import moved
from helios.placement.plan import pairs_between
from helios.placement.table import PlacementTable, table_of


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried."""

    runs: int = 25
    look_ups: int = 20_000
    rules: tuple[int, ...] = (0, 10, 100, 1000)


QUICK = Effort(runs=1, look_ups=100, rules=(0, 10))


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="What placement rules cost.")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    effort = QUICK if parser.parse_args(words).quick else Effort()
    print(f"{platform.platform()}, {processor()}")
    print(f"Python {platform.python_version()}, 3 nodes; a rule moves one tenant's keys (`tenant7:*`) to another node")
    look_ups(effort)
    changes(effort)
    gathering(effort)


def with_rules(count: int, pattern: str = "tenant{}:*") -> Placement:
    """Three nodes and rules that share no keys."""
    nodes = ids(3)
    tried = tuple(Rule(nodes[n % 3], nodes[(n + 1) % 3], (pattern.format(n),)) for n in range(count))
    return record(3, tried)


def best(work: Callable[[], object], effort: Effort) -> float:
    """The shortest time of several runs, in seconds of the processor."""
    return min(timeit.repeat(work, timer=time.process_time, number=1, repeat=effort.runs))


def look_ups(effort: Effort) -> None:
    """A look-up of keys that a rule may take, and of keys that no rule speaks of, beside one without rules."""
    ruled = [f"tenant{n % 1000}:user:{n}".encode() for n in range(effort.look_ups)]
    others = [f"session:{n}".encode() for n in range(effort.look_ups)]
    print("\nlook-up       keys of tenants      other keys       rules `*:tenant7`: no beginning to find them by")
    none: list[float] = []
    for count in effort.rules:
        by_beginning, by_ending = with_rules(count), with_rules(count, "*:tenant{}")
        took = [one(by_beginning, ruled, effort), one(by_beginning, others, effort), one(by_ending, ruled, effort)]
        none = none or took
        shown = [f"{t:5.0f} ns {t - before:+5.0f} ns" for t, before in zip(took, none, strict=True)]
        print(f"{count:5} rules  {shown[0]}   {shown[1]}   {shown[2]}")


def one(placement: Placement, keys: Sequence[bytes], effort: Effort) -> float:
    """The nanoseconds of one look-up."""
    owner = PlacementTable(placement).owner

    def work() -> None:
        for key in keys:
            owner(key)

    return best(work, effort) / len(keys) * 1e9


def changes(effort: Effort) -> None:
    """What a coordinator and the routers do when one more pattern moves."""
    print("\n              one more move   its pairs    the table")
    for count in effort.rules:
        placement = with_rules(count)
        change = partial(moved, placement, "shard-1", "shard-3", "another:*")
        following = change()
        table_of(placement), table_of(following)
        took = [
            best(change, effort),
            best(partial(pairs_between, placement, following), effort),
            best(partial(PlacementTable, following), effort),
        ]
        print(f"{count:5} rules  {took[0] * 1e3:11.1f} ms {took[1] * 1e3:8.1f} ms {took[2] * 1e3:9.1f} ms")


def gathering(effort: Effort) -> None:
    """How many rules are left of rounds of moves by pattern over three nodes, each with two patterns of its own."""
    print("\nrounds    moves   rules left")
    nodes, placement = ids(3), record(3)
    for turn in range(min(5, max(effort.rules))):
        for place, source in enumerate(nodes):
            for n in (1, 2):
                placement = moved(placement, source, nodes[(place + 1) % 3], f"t{place + 1}{n}{turn}:*")
        print(f"{turn + 1:6}   {(turn + 1) * 6:6}   {len(placement.rules):10}")


if __name__ == "__main__":
    main()
