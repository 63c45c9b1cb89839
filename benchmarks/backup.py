"""What a backup costs: `python -m benchmarks.backup --keys 200000`.

The same keys in a cluster of three nodes and in one server: `helios-cli backup` of the cluster, beside `redis-cli
--rdb` of the server and the server's own BGSAVE. In turns, so that what else the machine does strikes all alike;
medians of the turns are compared. The pause is for how long commands were held, as the backup tells.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import redis
from tests.cluster import running_cluster
from tests.programs import find_program
from tests.servers import start_valkey

_CLI = (sys.executable, "-P", "-c", "from helios.cli.client import main; main()")


def _fill(port: int, keys: int, size: int) -> None:
    random, client = Random(1), redis.Redis(port=port)
    for start in range(0, keys, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(start, min(start + 1000, keys)):
            pipe.set(f"key:{number}", random.randbytes(size))
        pipe.execute()


def _saved(client: Any) -> None:
    """Return when the server saves no more."""
    while client.info("persistence")["rdb_bgsave_in_progress"]:
        time.sleep(0.005)


def _backup(port: int, folder: Path) -> float:
    """For how many milliseconds commands were held."""
    words = [*_CLI, "-p", str(port), "--json", "backup", str(folder)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["pause_ms"])


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=200, help="Bytes of each value, which cannot be packed.")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args(argv)
    program = find_program("redis-cli")
    took: dict[str, list[float]] = {"helios-cli backup": [], "redis-cli --rdb": [], "BGSAVE": []}
    pauses: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            running_cluster(folder / "cluster", 3) as cluster,
            start_valkey(
                folder / "plain",
                config={"repl-diskless-sync-delay": "0"},  # as in all that Helios runs
            ) as server,
        ):
            port = cluster.resp_ports[0]
            _fill(port, given.keys, given.size)
            _fill(server.port, given.keys, given.size)
            plain = redis.Redis(port=server.port)
            for turn in range(given.turns):
                began = time.perf_counter()
                pauses.append(_backup(port, folder / f"backup-{turn}"))
                took["helios-cli backup"].append(time.perf_counter() - began)
                shutil.rmtree(folder / f"backup-{turn}")
                if program is not None:
                    began = time.perf_counter()
                    rdb = [program, "-p", str(server.port), "--rdb", str(folder / "copy.rdb")]
                    subprocess.run(rdb, check=True, capture_output=True)
                    took["redis-cli --rdb"].append(time.perf_counter() - began)
                _saved(plain)
                began = time.perf_counter()
                plain.bgsave()
                _saved(plain)
                took["BGSAVE"].append(time.perf_counter() - began)
    print(f"{given.keys:,} keys of {given.size} bytes, {given.turns} turns, medians")
    mine = statistics.median(took["helios-cli backup"])
    for what, times in took.items():
        if times:
            middle = statistics.median(times)
            print(f"{what:<18} {middle:6.2f} s   backup / this: {mine / middle:5.2f}")
    print(f"commands were held for {statistics.median(pauses):.0f} ms, at most {max(pauses):.0f} ms")


if __name__ == "__main__":
    main()
