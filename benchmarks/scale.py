"""Many nodes on one machine, under load: `python -m benchmarks.scale [--nodes N] [--minutes M] [--store etcd]`.

A cluster of N nodes but two, each an agent, a router and a data server. A process beside it sends GETs and SETs at a
steady rate to all of them, for as many minutes as are given. When a tenth of these is over the last two nodes join,
one after the other, and then the second node is drained. What has not ended when the minutes are over is told and not
waited for. Printed: what clients saw in each part of the run, the pauses of all pairs, and how much of the processor
and of the memory each kind of process took, at rest and under load.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hiredis
from benchmarks.moves import Finish, Load, Window, at_rest, fill, get, show, store_settings, under
from tests.cluster import Cluster, HeliosProcess, running_cluster
from tests.ports import free_ports

POLL_S = 1.0
IDLE_S = 20.0
# When so little of a core is used nothing is left to do of what a start brings about.
RESTING_CORES = 0.5
LOOK_S = 5.0
CONNECTIONS_A_PORT = 2
QUIET = {"HELIOS_SHARDING__MIGRATION_RATE": "0", "HELIOS_SHARDING__AUTO_REBALANCE": "true"}
# Fifty nodes share a core: one that waits for it is slow, not lost.
PATIENT = {"HELIOS_COORDINATOR__LEASE_TTL": "10s", "HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT": "3s"}
# A hundred nodes start in minutes on two cores; so long nobody gives up.
START_S = 1800.0
KINDS = {"agents": b"\0node\0", "routers": b"\0router\0", "data servers": b"valkey-server", "gateway": b"\0gateway\0"}
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
TICKS_A_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Use:
    """What processes of a kind have used; of memory that several share each counts its part (PSS)."""

    processes: int
    processor_s: float
    shared_mb: float


def used(cluster: Cluster) -> dict[str, Use]:
    """By kind of process."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for pid in cluster.leftovers():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            memory = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        kind = next((kind for kind, word in KINDS.items() if word in words), None)
        if kind is not None:
            share_kb = next(int(row.split()[1]) for row in memory.splitlines() if row.startswith("Pss:"))
            found[kind].append(((int(times[11]) + int(times[12])) / TICKS_A_S, share_kb / 1024))
    return {kind: Use(len(all_), sum(s for s, _ in all_), sum(mb for _, mb in all_)) for kind, all_ in found.items()}


def moving(cluster: Cluster, name: str, until_s: float, *verb: str) -> Window:
    """Carry out a verb that moves keys; returns when its migrations have ended, or the run is over."""
    known = {one["id"] for one in get(cluster, "/api/v1/shards/migrations")["migrations"]}
    from_s = time.monotonic()
    while isinstance(reply := cluster.command(*verb, timeout_s=120), hiredis.ReplyError):
        print(f"{' '.join(verb)}: {reply}", flush=True)  # by a server, say, that has waited too long for a processor
        if time.monotonic() > until_s:
            raise SystemExit(f"{' '.join(verb)}: refused until the end")
        time.sleep(POLL_S)
    while True:
        time.sleep(POLL_S)
        mine = [one for one in get(cluster, "/api/v1/shards/migrations")["migrations"] if one["id"] not in known]
        left = [one for one in mine if one["status"] in ("pending", "in_progress")]
        if mine and not left:
            break
        if time.monotonic() > until_s:
            name += f", {len(left)} of {len(mine)} pairs left"
            break
    bad = [one for one in mine if one["status"] in ("failed", "cancelled")]
    if bad:
        raise SystemExit(f"{name}: {bad}")
    keys = sum(int(one["keys_moved"]) for one in mine)
    return Window(
        name,
        from_s,
        time.monotonic(),
        keys,
        tuple(float(one["pause_ms"]) for one in mine if one["pause_ms"] is not None),
    )


def used_between(before: dict[str, Use], after: dict[str, Use], length_s: float) -> str:
    """How much of a core each kind of process took, and the memory that it has now."""
    parts = []
    for kind, now in after.items():
        cores = (now.processor_s - before[kind].processor_s) / length_s
        each = max(1, now.processes)
        parts.append(
            f"{now.processes} {kind}: {cores:.2f} cores ({100 * cores / each:.2f} % each), "
            f"{now.shared_mb:,.0f} MB ({now.shared_mb / each:.0f} each)"
        )
    return "; ".join(parts)


def until_at_rest(cluster: Cluster, longest_s: float = 300.0) -> float:
    """Wait until the processes have done what a start brings about; how long that took."""
    began_s = time.monotonic()
    before = used(cluster)
    while (took_s := time.monotonic() - began_s) < longest_s:
        time.sleep(LOOK_S)
        after = used(cluster)
        cores = sum(after[kind].processor_s - before[kind].processor_s for kind in KINDS) / LOOK_S
        if cores < RESTING_CORES:
            break
        before = after
    return took_s


@contextmanager
def guests(cluster: Cluster, ports: dict[str, int]) -> Iterator[None]:
    """Nodes that run and are not in the cluster yet."""
    started: list[HeliosProcess] = []
    try:
        for name, port in ports.items():
            node = cluster.helios("node", "--id", name, "--listen", f"localhost:{port}")
            started.append(node)
            node.wait_ready()
        yield
    finally:
        for node in started:
            node.kill()


def measure(folder: Path, kind: str, nodes: int, minutes: float, rate: int, keys: int) -> None:
    """Start, load, move, print."""
    began_s = time.monotonic()
    with store_settings(kind, folder / "etcd") as settings:
        founders = nodes - 2
        with running_cluster(folder, founders, QUIET | PATIENT | settings, checked=False, start_s=START_S) as cluster:
            print(f"{founders} nodes serve after {time.monotonic() - began_s:.0f} s", flush=True)
            joining = {f"shard-{founders + number}": free_ports(1) for number in (1, 2)}
            with guests(cluster, joining):
                print(f"at rest {until_at_rest(cluster):.0f} s later", flush=True)
                before = used(cluster)
                time.sleep(IDLE_S)
                print(f"at rest: {used_between(before, used(cluster), IDLE_S)}", flush=True)
                fill(cluster.resp_ports, keys)
                load = Load(tuple(cluster.resp_ports), rate, keys, connections=CONNECTIONS_A_PORT)
                with under(load) as finish:
                    moves = [("ADDNODE", name, f"localhost:{port}") for name, port in joining.items()]
                    run(cluster, [*moves, ("REMOVENODE", "shard-2")], minutes * 60, rate, finish)


def run(cluster: Cluster, moves: Sequence[Sequence[str]], length_s: float, rate: int, finish: Finish) -> None:
    """The part under load."""
    windows, before, began_s = [], used(cluster), time.monotonic()
    until_s = began_s + length_s
    windows.append(at_rest("before", length_s / 10))
    for move in moves:
        if time.monotonic() < until_s:
            windows.append(moving(cluster, " ".join(move[:2]), until_s, *move))
            print(f"{windows[-1].name}: {windows[-1].until_s - windows[-1].from_s:.0f} s", flush=True)
    left_s = until_s - time.monotonic()
    if left_s > 0:
        windows.append(at_rest("after", left_s))
    print(f"under load: {used_between(before, used(cluster), time.monotonic() - began_s)}")
    seen, errors = finish()
    show(windows, seen, errors, rate)


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description="Many nodes on one machine, under load.")
    parser.add_argument("--nodes", type=int, default=100, help="at the end; two of them join meanwhile")
    parser.add_argument("--minutes", type=float, default=10, help="of load; the start comes before")
    parser.add_argument("--rate", type=int, default=5_000, help="requests a second that are offered")
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--store", choices=["sqlite", "etcd"], default="sqlite")
    options = parser.parse_args()
    # Whoever ends it by SIGTERM wants no cluster left, either.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit("ended"))
    if options.nodes < 5:
        parser.error("it takes five nodes: two join, and one leaves")
    watches = int(INOTIFY.read_text()) if INOTIFY.exists() else 0
    if options.store == "sqlite" and watches < 2 * options.nodes + 8:
        parser.error(
            f"{2 * options.nodes} processes want to be woken by inotify, which has room for {watches} of a user, and "
            f"the others would look all the time: sysctl -w fs.inotify.max_user_instances={8 * options.nodes}"
        )
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="helios-bench-") as folder:
        measure(Path(folder), options.store, options.nodes, options.minutes, options.rate, options.keys)


if __name__ == "__main__":
    main()
