"""Agents of one node with real data servers, a store in memory and a stand-in for the router."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.leftovers import running_with
from tests.ports import free_ports
from tests.waiting import until

from helios.model.ids import Address, founder_id
from helios.model.topology import Member, Node, Shard, Topology
from helios.node.agent import Agent, AgentSpec, lock_node
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.member_state import member_of, members_of
from helios.node.probe import ask
from helios.node.process import ProcessId
from helios.node.workers import WorkerSpec
from helios.ports.records import (
    AGENTS,
    MEMBERS,
    TOPOLOGY,
    AgentRecord,
    MemberRecord,
    put_record,
    read_record,
)
from helios.ports.topologies import read_topology
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

# Does what a router worker does towards its agent, and nothing else.
STAND_IN = """
import sys, time, pathlib
from helios.node.locks import RunLock
lock = RunLock.acquire(pathlib.Path(sys.argv[1]), {"ready": "yes", "fingerprint": sys.argv[2]})
time.sleep(600)
"""


class AgentLab:
    """A data folder with a store, in which agents of one node can be run one after the other."""

    def __init__(self, root: Path, node_id: str = "shard-1", store: MemoryStore | None = None) -> None:
        self.node_id = node_id
        self.data = DataFolder(root)
        self.data.prepare()
        self.folder = self.data.node(node_id)
        self.store = store or MemoryStore()
        self.port = free_ports(1)
        self.fingerprint = "a"
        self.coordinating = 0

    def agent(self, workers: int = 1, **options: Any) -> Agent:
        listen = Address("127.0.0.1", self.port)
        return Agent(
            AgentSpec(self.node_id, listen, listen, workers=workers, version="1", **options),
            self.data,
            self.store,
            SystemClock(),
            worker=self._worker,
            coordinate=self._coordinate,
        )

    def _worker(self, number: int) -> WorkerSpec:
        lock = self.folder.router_lock(number)
        argv = [sys.executable, "-c", STAND_IN, str(lock), self.fingerprint]
        return WorkerSpec(argv, lock, self.data.log(f"router-{number}"), self.fingerprint)

    async def _coordinate(self) -> None:
        self.coordinating += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.coordinating -= 1

    @asynccontextmanager
    async def running(self, agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
        """Run the agent until the end of the block, and see that it comes up."""
        stop, ready = asyncio.Event(), asyncio.Event()

        async def mark() -> None:
            ready.set()

        lock = lock_node(self.data, self.node_id)
        task = asyncio.create_task(agent.run(stop, mark))
        try:
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if task.done():
                await task
            yield task
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            lock.release()

    async def abandon(self, task: asyncio.Task[None], agent: Agent) -> None:
        """Leave the agent's processes running, as its violent death would."""
        agent._acting = False
        task.cancel()
        await asyncio.wait({task})

    def member(self) -> ProcessId:
        found = member_of(self.folder.founder)
        assert found is not None
        return found.id

    def router(self, number: int = 0) -> ProcessId | None:
        holder = holder_of(self.folder.router_lock(number))
        return holder.process if holder else None

    async def command(self, *words: str) -> object:
        record = await read_record(self.store, MemberRecord, MEMBERS + founder_id(self.node_id))
        assert record is not None
        value = record.value
        return (await ask(value.address, [words], user=value.user, password=value.password))[-1]

    async def ready(self) -> bool:
        record = await read_record(self.store, AgentRecord, AGENTS + self.node_id)
        return record is not None and record.value.ready

    async def count_on_it(self) -> None:
        record = await read_record(self.store, MemberRecord, MEMBERS + founder_id(self.node_id))
        assert record is not None
        member = Member("shard-1.0", "shard-1", record.value.address)
        node = Node("shard-1", Address("127.0.0.1", self.port))
        topology = Topology(1, nodes=(node,), shards=(Shard("shard-1", "shard-1.0", (member,)),))
        await self.store.commit([put_record(TOPOLOGY, topology)])

    async def place(self, *members: Member) -> None:
        """Publish a shard of these members beside what the topology has."""
        topology = await read_topology(self.store)
        shard = Shard("shard-2", members[0].id, members)
        placed = replace(topology, epoch=topology.epoch + 1, shards=(*topology.shards, shard))
        await self.store.commit([put_record(TOPOLOGY, placed)])

    def leftovers(self) -> list[str]:
        """The command lines of processes that belong to this folder."""
        return list(running_with(str(self.data.root)).values())

    async def end(self) -> None:
        """Kill whatever an agent may have left, and see that it is gone."""
        for process in members_of(self.folder):
            process.id.send(signal.SIGKILL)
        for _, path in self.folder.router_locks():
            holder = holder_of(path)
            if holder:
                holder.process.send(signal.SIGKILL)
        await until(lambda: self.leftovers() == [])
