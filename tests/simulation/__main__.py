"""Runs lives by seed: `SEED=123` alone replays one and tells everything, a range is spread over processes.

python -m tests.simulation --seed 123
python -m tests.simulation --count 1000 [--first 0] [--jobs 2] [--plant NAME] [--replicated]
python -m tests.simulation --nodes 1000
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

from tests.simulation.life import live
from tests.simulation.many import live_as_many
from tests.simulation.planted import PLANTS
from tests.simulation.replicated import choose_replicated
from tests.simulation.report import Outcome, Tally, to_line
from tests.simulation.scenario import WAITING, Edge, choose


def main() -> int:
    """0 if every life went well."""
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings differs from process to process unless this is fixed.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    if not options.verbose:
        logging.disable(logging.CRITICAL)
    WAITING.difference_update(list(Edge) if "all" in options.edges else map(Edge, options.edges))
    if options.nodes:
        return live_as_many(options.nodes)
    with PLANTS[options.plant]():
        if options.seed is not None:
            return _replay(options.seed, replicated=options.replicated)
        return _live_many(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one life")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--step", type=int, default=1, help="only each so manieth seed; 5 keeps to one danger")
    parser.add_argument("--nodes", type=int, default=0, help="one calm life of so many nodes, two more and one less")
    parser.add_argument("--replicated", action="store_true", help="lives in which shards have several members")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="with a bug")
    parser.add_argument("--only", choices=sorted(Edge), default="", help="those lives alone that have this edge")
    parser.add_argument(
        "--with",
        dest="edges",
        choices=[*sorted(WAITING), "all"],
        nargs="*",
        default=[],
        help="edges that show what is not mended yet",
    )
    parser.add_argument("--stop-at-first", action="store_true", help="end with the first failure")
    parser.add_argument("--verbose", action="store_true", help="with the log of the processes")
    parser.add_argument("--lines", action="store_true", help="tell of each life in a line of JSON")
    return parser.parse_args()


def _replay(seed: int, *, replicated: bool) -> int:
    outcome = live(seed, replicated=replicated)
    print("\n".join(outcome.trace))
    print(f"seed {seed}: digest {outcome.digest}, {outcome.virtual_s:.1f} virtual seconds, {outcome.steps} steps")
    print(f"FAILED: {outcome.failure}" if outcome.failure else "everything held")
    return 1 if outcome.failure else 0


def _live_many(options: argparse.Namespace) -> int:
    tally = Tally(options.plant, replicated=options.replicated)
    began = time.monotonic()
    seeds = range(options.first, options.first + options.count * options.step, options.step)
    # Forked, so that nobody imports anything again, and the bug is planted in all of them.
    with ProcessPoolExecutor(options.jobs, get_context("fork")) as pool:
        for outcome in pool.map(partial(_outcome, options.replicated, options.only), seeds):
            if outcome is None:
                continue
            tally.add(outcome)
            if options.lines:
                print(to_line(outcome), flush=True)
            if options.stop_at_first and tally.failed:
                pool.shutdown(cancel_futures=True)
                break
    print(tally.summary(time.monotonic() - began))
    return 1 if tally.failed else 0


def _outcome(replicated: bool, only: str, seed: int) -> Outcome | None:
    """How a life went, without its trace; None where it has not the edge that is asked for."""
    if only and only not in (choose_replicated if replicated else choose)(seed).edges:
        return None
    return replace(live(seed, replicated=replicated), trace=())


if __name__ == "__main__":
    sys.exit(main())
