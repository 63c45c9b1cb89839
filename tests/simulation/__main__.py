"""Runs lives by seed: `SEED=123` alone replays one and tells everything, a range is spread over processes.

python -m tests.simulation --seed 123
python -m tests.simulation --count 1000 [--first 0] [--jobs 2] [--plant NAME] [--replicated]
python -m tests.simulation --nodes 1000
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.simulation.life import live
from tests.simulation.many import live_as_many
from tests.simulation.planted import PLANTS
from tests.simulation.replicated import choose_replicated
from tests.simulation.report import Tally, read_line, to_line
from tests.simulation.scenario import WAITING, Edge, choose

# Lives of one process: to start it takes as long as several of them.
_MIN_CHUNK, _MAX_CHUNK = 20, 250


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
        if options.worker:
            seeds = range(options.first, options.first + options.count, options.step)
            chosen_for = choose_replicated if options.replicated else choose
            chosen = [seed for seed in seeds if not options.only or options.only in chosen_for(seed).edges]
            return _work(chosen, replicated=options.replicated, stop_at_first=options.stop_at_first)
    return _spread(options)


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
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _replay(seed: int, *, replicated: bool) -> int:
    outcome = live(seed, replicated=replicated)
    print("\n".join(outcome.trace))
    print(f"seed {seed}: digest {outcome.digest}, {outcome.virtual_s:.1f} virtual seconds, {outcome.steps} steps")
    print(f"FAILED: {outcome.failure}" if outcome.failure else "everything held")
    return 1 if outcome.failure else 0


def _work(seeds: Iterable[int], *, replicated: bool, stop_at_first: bool) -> int:
    failed = 0
    for seed in seeds:
        outcome = live(seed, replicated=replicated)
        failed += outcome.failure is not None
        print(to_line(outcome), flush=True)
        if failed and stop_at_first:
            break
    return 1 if failed else 0


def _spread(options: argparse.Namespace) -> int:
    tally = Tally(options.plant, replicated=options.replicated)
    began = time.monotonic()
    end = options.first + options.count * options.step
    chunk_lives = max(_MIN_CHUNK, min(_MAX_CHUNK, options.count // (4 * options.jobs)))
    starts = range(options.first, end, chunk_lives * options.step)

    def chunk(start: int) -> None:
        if options.stop_at_first and tally.failed:
            return
        count = min(chunk_lives * options.step, end - start)
        arguments = ["--first", str(start), "--count", str(count), "--step", str(options.step)]
        command = [sys.executable, "-m", "tests.simulation", "--worker", *arguments, "--plant", options.plant]
        command += ["--replicated"] if options.replicated else []
        command += ["--stop-at-first"] if options.stop_at_first else []
        command += ["--with", *options.edges, *(["--only", options.only] if options.only else [])]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        for line in run.stdout.splitlines():
            tally.add(read_line(line))
        if run.returncode not in (0, 1):
            raise RuntimeError(f"a worker ended with {run.returncode} in the seeds from {start} on")

    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(chunk, starts):
            pass
    print(tally.summary(time.monotonic() - began))
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
