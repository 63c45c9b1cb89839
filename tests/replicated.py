"""A shard whose leader has followers, in front of which a router of the test's own process stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis.asyncio
from tests.routers import RouterLab
from tests.servers import ADMIN_ONLY, ADMIN_PASSWORD, ADMIN_USER, Server, start_valkey
from tests.waiting import until

from helios.model.ids import Address
from helios.model.topology import Member, Term
from helios.router.options import RouterOptions

CONFIG = {
    "appendonly": "no",
    "repl-diskless-sync-delay": "0",
    "repl-backlog-ttl": "0",
    "replica-serve-stale-data": "no",
}
PATIENT_S = 60.0  # for what is to succeed: the machine may be slow
IMPATIENT_S = 1.0  # for what is to fail


@dataclass
class Replicated:
    """`lab` has a shard-1 of which `servers` are all, the leader first, and a shard-2 that has one server alone."""

    lab: RouterLab
    servers: list[Server]

    def member(self, number: int) -> Member:
        return Member(f"m{number}", f"node-{number}", Address("127.0.0.1", self.servers[number].port))

    def direct(self, number: int) -> Any:
        """A client of one of the servers."""
        return redis.asyncio.Redis(port=self.servers[number].port, username=ADMIN_USER, password=ADMIN_PASSWORD)

    async def history(self, number: int) -> str:
        async with self.direct(number) as direct:
            return str((await direct.info("replication"))["master_replid"])

    async def follow(self, number: int, leader: int) -> None:
        """Have a server follow another, and wait until it has everything."""
        async with self.direct(number) as follower:
            await follower.config_set("masteruser", ADMIN_USER)
            await follower.config_set("masterauth", ADMIN_PASSWORD)
            await follower.replicaof("127.0.0.1", self.servers[leader].port)

            async def follows() -> bool:
                # By its own word: its leader takes it for present before it has everything.
                return bool((await follower.info("replication"))["master_link_status"] == "up")

            await until(follows, "the follower has everything", 60)

    async def publish(
        self, members: tuple[int, ...], *, leader: int = 0, history: str | None = None, **changes: Any
    ) -> int:
        """Have shard-1 consist of these members; gives the epoch, once the router has applied it.

        Of `changes`, `outgoing` and `learners` are given by number, too.
        """
        outgoing, learners = (tuple(map(self.member, changes.pop(name, ()))) for name in ("outgoing", "learners"))
        before = self.lab.topology.shard("shard-1")
        assert before is not None
        present = history if history is not None else await self.history(leader)
        lineage = before.lineage
        if present and present not in [term.history for term in lineage]:
            lineage = (Term(present, 0), *lineage)
        shard = replace(
            before,
            leader=f"m{leader}",
            members=tuple(map(self.member, members)),
            outgoing=outgoing,
            learners=learners,
            lineage=lineage,
        )
        others = tuple(other for other in self.lab.topology.shards if other.id != "shard-1")
        epoch = await self.lab.publish(shards=(shard, *others), **changes)
        await until(lambda: self.lab.router.topology.epoch >= epoch, "the router has the topology")
        return epoch

    def configure(self, **options: Any) -> None:
        self.lab.router.configure(replace(self.lab.router.options, **options))

    def fail_soon(self) -> None:
        """What is asked from now on is to fail."""
        self.configure(ack_timeout_s=IMPATIENT_S)

    def be_patient(self) -> None:
        """What is asked from now on is to succeed."""
        self.configure(ack_timeout_s=PATIENT_S)


@asynccontextmanager
async def replicated(folder: Path, followers: int = 2, **options: Any) -> AsyncIterator[Replicated]:
    """With all members in the topology and in sync, and a router that is patient."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(start_valkey(folder / f"m{number}", users=ADMIN_ONLY, config=CONFIG))
            for number in range(followers + 1)
        ]
        alone = stack.enter_context(start_valkey(folder / "alone", users=ADMIN_ONLY, config=CONFIG))
        lab = RouterLab(
            {"shard-1": servers[0], "shard-2": alone},
            options=RouterOptions(
                node="shard-1", **{"ack_timeout_s": PATIENT_S, "hold_timeout_s": PATIENT_S} | options
            ),
        )
        made = Replicated(lab, servers)
        await asyncio.gather(*(made.follow(number, 0) for number in range(1, followers + 1)))
        async with lab.running():
            await made.publish(tuple(range(followers + 1)))
            yield made
