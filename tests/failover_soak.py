"""Failovers without end: leaders, replicas, agents, routers and coordinators die and freeze, one and two at a time.

`python -m tests.failover_soak --faults 300 --seed 1` runs a cluster with three copies of each key as real processes,
under clients that note all they see through every router: registers, counters, lists and sets. Where writes are
acknowledged by a majority and reads are linearizable nothing may contradict anything. With `--async` what is lost is
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from tests.cluster import Cluster, running_cluster
from tests.reckoning import assert_checked, at_rest, opened, topology_of, verb
from tests.replicated_cluster import fields
from tests.shards import topology_in
from tests.waiting import until
from tests.witnesses import Witnesses

from helios.model.topology import Member, Topology
from helios.node.process import ProcessId
from helios.placement.routing import Routes
from helios.ports.records import COORDINATOR, MEMBERS, CoordinatorRecord, MemberRecord, read_record
from helios.ports.store import Store

FACTOR = 3
FAILOVER_S = 2.0  # how long a member may be silent
SAFE = {"HELIOS_REPLICATION__DURABILITY": "quorum", "HELIOS_REPLICATION__READS": "linearizable"}
LOSSY = {"HELIOS_REPLICATION__DURABILITY": "async", "HELIOS_REPLICATION__READS": "leader"}
ENVIRONMENT = {
    "HELIOS_SHARDING__AUTO_REBALANCE": "false",
    "HELIOS_COORDINATOR__LEASE_TTL": "1.0",
    "HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT": "0.3",
    "HELIOS_ROUTER__SESSION_TTL": "1.5",
    "HELIOS_REPLICATION__FAILOVER_TIMEOUT": str(FAILOVER_S),
    # All of a shard's members may die at once here, which costs what they had not yet written to their disks.
    "HELIOS_ATLAS__AOF_FSYNC": "every",
}
LONG_S = 120.0
_FAULTS_A_ROUND = 3
_CLIENTS = 6
_NEVER = Retry(NoBackoff(), 0)


class FailoverSoak:
    """One run. All choices come from the seed; what the machine makes of them does not."""

    def __init__(self, cluster: Cluster, seed: int, say: Callable[[str], None], *, safe: bool) -> None:
        self.done: Counter[str] = Counter()
        self.operations = 0
        self.refused: Counter[str] = Counter()
        self.lost = 0
        self.pauses_s: defaultdict[str, list[float]] = defaultdict(list)
        self._cluster = cluster
        self._seed = seed
        self._say = say
        self._safe = safe
        self._chooser = random.Random(seed)
        self._frozen: dict[ProcessId, asyncio.Task[None]] = {}
        self._began = time.monotonic()
        self._beats: dict[str, str] = {}  # a key of each shard
        self._turn = itertools.cycle(cluster.resp_ports)

    @property
    def faults(self) -> int:
        """How many processes were killed or frozen, each by itself."""
        return sum(self.done.values())

    async def run(self, faults: int, limit_s: float) -> None:
        """Break so many things, but for no longer than that; then rest and reckon."""
        await self._whole()
        routes = Routes(await topology_of(self._cluster))
        for number in itertools.count():
            self._beats.setdefault(routes.owner(b"beat:%d" % number), f"beat:{number}")
            if len(self._beats) == self._cluster.shards:
                break
        number = 0
        while self.faults < faults and time.monotonic() < self._began + limit_s:
            await self._round(number, min(_FAULTS_A_ROUND, faults - self.faults))
            number += 1
        self._note(f"{self.faults} faults and {self.operations} operations")
        await self._whole()
        await self._assert_copied()
        await assert_checked(self._cluster)

    def end(self) -> None:
        """Thaw what is frozen."""
        for process in self._frozen:
            process.send(signal.SIGCONT)

    def _note(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.2f} {text}")

    # Rounds: fresh keys each, so that every history stays short enough to be checked

    async def _round(self, number: int, deeds: int) -> None:
        seed = self._seed * 10_000 + number
        witnesses = Witnesses(self._cluster.resp_ports, str(number), seed=seed)
        witnesses.start(_CLIENTS)
        try:
            for _ in range(deeds):
                await asyncio.sleep(self._chooser.uniform(0.05, 0.6))
                await self._break_something()
            await self._thawed()
            await self._served()
        finally:
            await witnesses.stop()
        self.operations += witnesses.operations
        self.refused += witnesses.refused
        if self._safe:
            await witnesses.check()
            return
        for key, gone in (await witnesses.lost()).items():
            self.lost += gone
            self._note(f"{key}: {gone} acknowledged elements are lost")

    # What is broken

    async def _break_something(self) -> None:
        how_many = self._chooser.choice((1, 1, 1, 2))
        victims = await self._victims()
        kinds = self._chooser.sample(sorted(victims), min(how_many, len(victims)))
        began = time.monotonic()
        for kind in kinds:
            name, processes = self._chooser.choice(victims[kind])
            if self._chooser.random() < 0.6:
                for process in processes:
                    process.send(signal.SIGKILL)
                self._told(f"{kind} killed", name)
            else:
                duration_s = self._chooser.choice((0.3, 1.0, 2.0 * FAILOVER_S + 1.0))
                self._freeze(processes, duration_s)
                self._told(f"{kind} frozen", f"{name} for {duration_s:g} s")
        if self._chooser.random() < 0.75:
            await self._served()
            what = " and ".join(kinds)
            self.pauses_s[what].append(time.monotonic() - began)
            self._note(f"served again {self.pauses_s[what][-1]:.2f} s after {what}")

    def _told(self, deed: str, what: str) -> None:
        self.done[deed] += 1
        self._note(f"{deed}: {what}")

    async def _victims(self) -> Mapping[str, list[tuple[str, list[ProcessId]]]]:
        """By kind those that can be hit, each with its processes."""
        async with opened(self._cluster) as store:
            topology = await topology_in(store)
            coordinator = await read_record(store, CoordinatorRecord, COORDINATOR)
        cluster = self._cluster
        found: defaultdict[str, list[tuple[str, list[ProcessId]]]] = defaultdict(list)
        for shard in topology.shards:
            for member in shard.servers:
                if process := cluster.server(member):
                    kind = "leader" if member.id == shard.leader else "replica"
                    found[kind].append((member.id, [process]))
        for node in topology.nodes:
            agent, routers = cluster.agent(node.id), cluster.routers(node.id)
            if agent is not None:
                leads = coordinator is not None and coordinator.value.node == node.id
                found["coordinator" if leads else "agent"].append((f"agent of {node.id}", [agent]))
            found["router"] += [(f"router of {node.id}", [router]) for router in routers]
            everything = [*([agent] if agent else []), *routers, *_servers(cluster, topology, node.id)]
            found["node"].append((node.id, everything))
        return {kind: those for kind, those in found.items() if those}

    def _freeze(self, processes: list[ProcessId], duration_s: float) -> None:
        for process in processes:
            if process not in self._frozen and process.send(signal.SIGSTOP):
                self._frozen[process] = asyncio.create_task(self._thaw(process, duration_s))

    async def _thaw(self, process: ProcessId, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
        finally:
            process.send(signal.SIGCONT)
            del self._frozen[process]

    async def _thawed(self) -> None:
        if self._frozen:
            await asyncio.wait(list(self._frozen.values()))

    # What must come back

    async def _served(self) -> None:
        """Return when a key of each shard was written by a command that began after this was called."""
        waiting = [asyncio.create_task(self._beat(shard, key)) for shard, key in self._beats.items()]
        await asyncio.gather(*waiting)

    async def _beat(self, shard: str, key: str) -> None:
        async def written() -> bool:
            with suppress(RedisError):
                async with redis.asyncio.Redis(port=next(self._turn), socket_timeout=3, retry=_NEVER) as client:
                    return bool(await client.set(key, b"%f" % time.monotonic()))
            return False

        await until(written, f"{shard} takes writes", limit_s=LONG_S)

    async def _whole(self) -> None:
        """Return when nothing is missing."""

        async def complete() -> bool:
            with suppress(OSError):
                said = await verb(self._cluster, "CHECK")
                return isinstance(said, list) and bool(fields(said)[b"clean"])
            return False

        await until(complete, "the cluster's check is clean", limit_s=LONG_S)
        await at_rest(self._cluster, timeout_s=LONG_S)

    async def _assert_copied(self) -> None:
        """Soon, every shard has its members, and these have what its leader has."""
        different: list[str] = []

        async def alike() -> bool:
            different.clear()
            async with opened(self._cluster) as store:
                for shard in (await topology_in(store)).shards:
                    if len(shard.members) != FACTOR:
                        different.append(f"{shard.id} has {len(shard.members)} members")
                    leading = await self._contents(store, shard.leading)
                    for member in shard.members:
                        same = leading is not None and await self._contents(store, member) == leading
                        different.extend([] if same else [f"{member.id} differs from {shard.leader}"])
            return not different

        try:
            await until(alike, "every member has what its leader has", limit_s=LONG_S)
        except AssertionError:
            raise AssertionError(different) from None

    async def _contents(self, store: Store, member: Member) -> dict[bytes, object] | None:
        """All that a member has; None while it does not say, as one does that does not follow yet."""
        record = await read_record(store, MemberRecord, MEMBERS + member.id)
        if record is None:
            return None
        with suppress(RedisError):
            return await _contents_of(record.value)
        return None


async def _contents_of(member: MemberRecord) -> dict[bytes, object]:
    """All that a server has, read from itself."""
    contents: dict[bytes, object] = {}
    async with redis.asyncio.Redis(
        host=member.address.host, port=member.address.port, username=member.user, password=member.password
    ) as server:
        keys: list[bytes] = await server.execute_command("KEYS", "*")
        for key in keys:
            match await server.execute_command("TYPE", key):
                case b"string":
                    contents[key] = await server.execute_command("GET", key)
                case b"list":
                    contents[key] = await server.execute_command("LRANGE", key, "0", "-1")
                case b"set":
                    contents[key] = frozenset(await server.execute_command("SMEMBERS", key))
    return contents


def _servers(cluster: Cluster, topology: Topology, node: str) -> list[ProcessId]:
    members = [member for shard in topology.shards for member in shard.servers if member.node == node]
    return [process for member in members if (process := cluster.server(member)) is not None]


def failover_soak(
    folder: Path,
    seed: int,
    faults: int,
    limit_s: float,
    *,
    safe: bool = True,
    say: Callable[[str], None] = print,
) -> FailoverSoak:
    """Run a cluster through it; fails with what is wrong."""
    env = {**ENVIRONMENT, **(SAFE if safe else LOSSY)}
    with running_cluster(folder, 3, env, ["--replication-factor", str(FACTOR)]) as cluster:
        run = FailoverSoak(cluster, seed, say, safe=safe)
        try:
            asyncio.run(run.run(faults, limit_s))
        finally:
            run.end()
        return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.failover_soak", description=__doc__)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=60.0, help="end after this, however many faults there were")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--async", dest="lossy", action="store_true", help="acknowledge at once, and count the loss")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10_000)
    mode = " --async" if options.lossy else ""
    with tempfile.TemporaryDirectory(prefix="helios-failover-") as folder:
        print(f"seed {seed}: python -m tests.failover_soak --faults {options.faults} --seed {seed}{mode}", flush=True)
        run = failover_soak(
            Path(folder),
            seed,
            options.faults,
            options.minutes * 60,
            safe=not options.lossy,
            say=lambda text: print(text, flush=True),
        )
    print(f"{run.faults} faults, {run.operations} operations answered, {run.lost} acknowledged elements lost")
    print("broken: " + ", ".join(f"{deed} {count}" for deed, count in sorted(run.done.items())))
    print("refused: " + (", ".join(f"{code} {count}" for code, count in sorted(run.refused.items())) or "nothing"))
    for what, pauses_s in sorted(run.pauses_s.items()):
        median_s = statistics.median(pauses_s)
        print(f"every shard writes again after {what}: median {median_s:.2f} s, longest {max(pauses_s):.2f} s")


if __name__ == "__main__":
    main()
