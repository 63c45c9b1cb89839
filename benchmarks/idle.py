"""What a cluster takes at rest: `python -m benchmarks.idle [--nodes N] [--seconds S] [--store etcd]`.

Printed for each of its processes: how much of a core it takes while no client asks for anything, and its memory: RSS,
where every page counts whole, and PSS, where what several processes share counts in parts. One more node, `alone`, is
started by `helios node`.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.moves import get, store_settings
from tests.cluster import Cluster, running_cluster
from tests.ports import free_ports

SETTLED_S = 20.0  # what follows a start is over
TICKS_A_S = os.sysconf("SC_CLK_TCK")
KINDS = ("node", "router", "gateway", "valkey-server", "up")


@dataclass(frozen=True, slots=True)
class Use:
    """What one process has used."""

    name: str
    processor_s: float
    rss_mb: float
    pss_mb: float


def uses(cluster: Cluster) -> dict[int, Use]:
    """By process id."""
    found = {}
    for pid in cluster.leftovers():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        memory = {row.split()[0]: int(row.split()[1]) / 1024 for row in rollup.splitlines()[1:]}
        processor_s = (int(times[11]) + int(times[12])) / TICKS_A_S
        found[pid] = Use(named(words), processor_s, memory["Rss:"], memory["Pss:"])
    return found


def named(words: list[str]) -> str:
    """What a process is, by its command line: its kind, and the node that it is of."""
    kind = next((kind for kind in KINDS if any(Path(word).name == kind for word in words)), Path(words[0]).name)
    node = words[words.index("--id") + 1] if "--id" in words else ""
    return f"{kind} {node}".strip()


def measure(cluster: Cluster, length_s: float) -> None:
    """Look twice, and print what lies between."""
    time.sleep(SETTLED_S)
    before, began_s = uses(cluster), time.monotonic()
    time.sleep(length_s)
    after, took_s = uses(cluster), time.monotonic() - began_s
    coordinator = f"node {get(cluster, '/api/v1/shards/stats')['coordinator']}"
    print(f"{'':24}{'% of a core':>12}{'RSS MB':>10}{'PSS MB':>10}")
    for pid, use in sorted(after.items(), key=lambda item: item[1].name):
        share = 100 * (use.processor_s - before[pid].processor_s) / took_s if pid in before else float("nan")
        name = use.name + (" (coordinates)" if use.name == coordinator else "")
        print(f"{name:24}{share:12.2f}{use.rss_mb:10.1f}{use.pss_mb:10.1f}")


def main() -> None:
    """Start, wait, measure, print."""
    parser = argparse.ArgumentParser(description="What a cluster takes at rest.")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--store", choices=["sqlite", "etcd"], default="sqlite")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with (
        tempfile.TemporaryDirectory(prefix="helios-bench-") as folder,
        store_settings(options.store, Path(folder) / "etcd") as settings,
        running_cluster(Path(folder), options.nodes, settings, checked=False) as cluster,
    ):
        address = f"127.0.0.1:{free_ports(1)}"
        cluster.helios("node", "--id", "alone", "--listen", address).wait_ready()
        cluster.command("ADDNODE", "alone", address)
        measure(cluster, options.seconds)


if __name__ == "__main__":
    main()
