"""A long run of everything at once: nodes come and go, keys move, moves are cancelled, processes die and freeze.

`python -m tests.soak --minutes 10 --seed 1` runs on real processes and ends with the reckoning: nothing that was
acknowledged is lost, what clients saw of each key has an order, every key lies once, on its owner.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import hiredis
from tests.cluster import Cluster, HeliosProcess, running_cluster
from tests.crashes import SETTINGS, RestWriter
from tests.histories import Recorder
from tests.ledger import Ledger
from tests.ports import free_ports
from tests.reckoning import (
    assert_checked,
    assert_each_key_once,
    assert_no_users_left,
    at_rest,
    opened,
    verb,
)
from tests.shards import topology_in
from tests.waiting import until

from helios.model.migration import Migration
from helios.node.locks import holder_of
from helios.node.process import ProcessId
from helios.ports.records import MIGRATIONS, list_records

# Written to disk once a second, as usual: moves wait for that, and so there is more of each to be disturbed.
ENVIRONMENT = {
    **SETTINGS,
    "HELIOS_SHARDING__AUTO_REBALANCE": "true",
    "HELIOS_SHARDING__REBALANCE_INTERVAL": "4",
    "HELIOS_SHARDING__REBALANCE_REST": "0",
    "HELIOS_ATLAS__AOF_FSYNC": "interval",
}
FOUNDERS = 3
GUEST = "shard-4"
PATTERNS = ("*", "user:*", "order:*", "*:list:*", "*:counter:?", "session:[a-m]*")
REST_S = 120.0
_ROUND_S = 10.0


class Soak:
    """One run. All choices come from the seed; what the machine makes of them does not."""

    def __init__(self, cluster: Cluster, seed: int, say: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self.histories = 0
        self.ledger = Ledger(cluster.resp_ports, seed=seed, keys=8, pause_s=0.01)
        self._cluster = cluster
        self._seed = seed
        self._say = say
        self._chooser = random.Random(seed)
        self._guest_port = free_ports(1)
        self._guest: HeliosProcess | None = None
        self._frozen: dict[ProcessId, asyncio.Task[None]] = {}
        self._began = time.monotonic()

    async def run(self, duration_s: float) -> None:
        """Disturb the cluster for so long, then let it rest and reckon."""
        rest = RestWriter(self._cluster.api)
        self.ledger.start(writers=6)
        others = [asyncio.create_task(rest.run()), asyncio.create_task(self._keep_guest())]
        recording = asyncio.create_task(self._record(duration_s))
        try:
            await self._disturb(self._began + duration_s)
            await recording
            await self._come_to_rest()
        finally:
            for task in (recording, *others):
                task.cancel()
            await asyncio.wait((recording, *others))
            await self.ledger.stop()
        self._note(f"reckoning after {self.ledger.operations} operations")
        await self.ledger.check()
        await rest.check(self._cluster)
        await assert_each_key_once(self._cluster)
        await assert_no_users_left(self._cluster)
        await assert_checked(self._cluster)

    def end(self) -> None:
        """Thaw what is frozen and end the guest."""
        for process in self._frozen:
            process.send(signal.SIGCONT)
        if self._guest is not None:
            self._guest.kill()

    def _note(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._began:7.2f} {text}")

    # What is done to the cluster

    async def _disturb(self, until: float) -> None:
        deeds: list[tuple[int, Callable[[], Awaitable[str]]]] = [
            (5, self._move),
            (3, self._change_members),
            (1, self._rebalance),
            (2, self._cancel),
            (3, self._kill),
            (2, self._freeze),
        ]
        # On a slow machine it takes longer, for a run in which nothing was moved or killed would show nothing.
        while time.monotonic() < until or not (self.done["MIGRATE"] and self.done["killed"]):
            [(_, deed)] = self._chooser.choices(deeds, weights=[weight for weight, _ in deeds])
            self._note(await deed())
            await asyncio.sleep(self._chooser.uniform(0.1, 1.5))

    async def _ask(self, *words: str) -> str:
        """A verb at some node; how it was answered, in a few words."""
        said = " ".join(words)
        try:
            reply = await verb(self._cluster, *words, port=self._chooser.choice(self._cluster.resp_ports))
        except OSError as error:
            self.done[f"{words[0]} lost"] += 1
            return f"{said}: {error}"
        if isinstance(reply, hiredis.ReplyError):
            self.done[f"{words[0]} refused"] += 1
            return f"{said}: {reply}"
        self.done[words[0]] += 1
        return said

    async def _nodes(self) -> list[str]:
        async with opened(self._cluster) as store:
            return [node.id for node in (await topology_in(store)).nodes]

    async def _move(self) -> str:
        source, target = self._chooser.sample(await self._nodes(), 2)
        return await self._ask("MIGRATE", source, target, self._chooser.choice(PATTERNS))

    async def _change_members(self) -> str:
        nodes = await self._nodes()
        if GUEST in nodes:
            return await self._ask("REMOVENODE", GUEST)
        return await self._ask("ADDNODE", GUEST, f"localhost:{self._guest_port}")

    async def _rebalance(self) -> str:
        return await self._ask("REBALANCE")

    async def _cancel(self) -> str:
        async with opened(self._cluster) as store:
            records = await list_records(store, Migration, MIGRATIONS)
        active = [record.value.id for record in records if not record.value.status.ended]
        if not active:
            return "nothing to cancel"
        return await self._ask("CANCELMIGRATION", self._chooser.choice(active))

    def _processes(self) -> dict[str, ProcessId]:
        cluster = self._cluster
        found: dict[str, ProcessId | None] = {}
        for node in (*(f"shard-{number + 1}" for number in range(FOUNDERS)), GUEST):
            found[f"agent of {node}"] = cluster.agent(node)
            found[f"server of {node}"] = cluster.member(node)
            found |= {f"router of {node}": process for process in cluster.routers(node)}
        holder = holder_of(cluster.data.gateway_lock)
        found["gateway"] = holder.process if holder else None
        return {name: process for name, process in found.items() if process is not None}

    def _victim(self) -> tuple[str, ProcessId]:
        return self._chooser.choice(sorted(self._processes().items()))

    async def _kill(self) -> str:
        name, process = self._victim()
        process.send(signal.SIGKILL)
        self.done["killed"] += 1
        return f"killed the {name}"

    async def _freeze(self) -> str:
        name, process = self._victim()
        if self._frozen:
            return "one process is frozen already"
        duration_s = self._chooser.uniform(0.2, 4.0)
        process.send(signal.SIGSTOP)
        self._frozen[process] = asyncio.create_task(self._thaw(process, duration_s))
        self.done["frozen"] += 1
        return f"froze the {name} for {duration_s:.1f} s"

    async def _thaw(self, process: ProcessId, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
        finally:
            process.send(signal.SIGCONT)
            del self._frozen[process]

    async def _keep_guest(self) -> None:
        """The guest is no child of `helios up`: if its agent dies it is started again here."""
        words = ("node", "--id", GUEST, "--listen", f"localhost:{self._guest_port}")
        while True:
            if self._guest is None or self._guest.process.poll() is not None:
                self._guest = await asyncio.to_thread(self._cluster.helios, *words)
            await asyncio.sleep(0.2)

    # What is watched

    async def _record(self, duration_s: float) -> None:
        """Histories of fresh keys, one after the other, so that each stays short enough to be checked."""
        rounds = max(1, round(duration_s / _ROUND_S))
        for number in range(rounds):
            keys = [f"{space}:history:{number}:{key}" for key in range(2) for space in ("user", "order", "session")]
            recorder = Recorder(self._cluster.resp_ports, keys, seed=self._seed + number, pause_s=0.01)
            recorder.start(clients=6)
            await asyncio.sleep(duration_s / rounds)
            await recorder.stop()
            await asyncio.to_thread(recorder.check)
            self.histories += recorder.operations

    async def _come_to_rest(self) -> None:
        self._note("no more disturbances")
        for task in list(self._frozen.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        async def served() -> bool:
            ports = self._cluster.resp_ports
            with suppress(OSError):
                return all([isinstance(await verb(self._cluster, "DBSIZE", port=port), int) for port in ports])
            return False

        async def steered_by_hand() -> bool:
            words = ("SETTING", "sharding.auto_rebalance", "false")
            return await self._ask(*words) == " ".join(words)

        await until(served, "every router serves", limit_s=REST_S)
        await until(steered_by_hand, "automatic rebalancing is off", limit_s=REST_S)
        await at_rest(self._cluster, timeout_s=REST_S)


def soak(folder: Path, duration_s: float, seed: int, say: Callable[[str], None] = print) -> Soak:
    """Run a cluster through it; fails with what is wrong."""
    with running_cluster(folder, FOUNDERS, ENVIRONMENT) as cluster:
        run = Soak(cluster, seed, say)
        try:
            asyncio.run(run.run(duration_s))
        finally:
            run.end()
        return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10_000)
    with tempfile.TemporaryDirectory(prefix="helios-soak-") as folder:
        print(f"seed {seed}: python -m tests.soak --minutes {options.minutes:g} --seed {seed}", flush=True)
        run = soak(Path(folder), options.minutes * 60, seed, lambda text: print(text, flush=True))
    deeds = ", ".join(f"{name} {count}" for name, count in sorted(run.done.items()))
    print(f"all is well after {run.ledger.operations} operations and {run.histories} in histories; {deeds}")


if __name__ == "__main__":
    main()
