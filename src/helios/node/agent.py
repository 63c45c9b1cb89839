"""The agent of a node: its data server, its routers, its heartbeat, its candidate for coordinator."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from helios.errors import StartError, StoreError
from helios.model.ids import Address, check_id, leader_id
from helios.model.sections import AofFsync
from helios.model.topology import NodeKind
from helios.node.backoff import Backoff
from helios.node.files import DataFolder, read_json, write_json
from helios.node.locks import LockHeld, RunLock, holder_of
from helios.node.member import MemberServer, MemberSpec
from helios.node.ports import Reservation, taken
from helios.node.process import Process, in_words
from helios.node.waiting import drop, together, unless
from helios.node.workers import STOP_S, Worker, WorkerSpec
from helios.ports.clock import Clock
from helios.ports.records import (
    AGENTS,
    MEMBERS,
    SESSIONS,
    AgentRecord,
    SessionRecord,
    list_records,
    put_record,
)
from helios.ports.store import Compare, Delete, Store
from helios.ports.topologies import read_topology

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
CHILD = "child"  # in the note of the agent's lock: whether it ends with its parent
HANG_S = 60.0  # a data server that says nothing for so long is ended, and so started again
_LOOK_S = 2.0
_GOODBYE_S = 2.0
_NEWS = 8  # sentences that a record holds: nobody who follows it misses more of them at once


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent is told. `listen` is where it takes clients, `address` how others reach that.

    `reserved`: whoever started it keeps the port for it, and has seen that nobody else listens there. With
    `leave_running` its end leaves the data server and the routers to the next agent.
    """

    node_id: str
    listen: Address
    address: Address
    zone: str = ""
    workers: int = 1
    fsync: AofFsync = AofFsync.INTERVAL
    maxmemory_bytes: int = 0
    server: str = ""
    version: str = ""
    reserved: bool = False
    leave_running: bool = False
    hang_s: float = HANG_S


class Agent:
    """Runs one node until told to stop. What serves data goes on serving if this process is killed."""

    def __init__(
        self,
        spec: AgentSpec,
        data: DataFolder,
        store: Store,
        clock: Clock,
        *,
        worker: Callable[[int], WorkerSpec],
        coordinate: Callable[[], Awaitable[None]],
    ) -> None:
        self.spec = spec
        self._data = data
        self._folder = data.node(spec.node_id)
        self._store = store
        self._clock = clock
        self._coordinate = coordinate
        member_id = leader_id(spec.node_id)
        self._member = MemberServer(
            MemberSpec(member_id, spec.node_id, spec.listen, spec.fsync, spec.maxmemory_bytes, spec.server),
            self._folder,
            data.log(member_id),
        )
        self._workers = [Worker(f"{spec.node_id}/{number}", worker(number)) for number in range(spec.workers)]
        self._ready = False
        self._acting = False
        self._came_up = False
        self._reservation: Reservation | None = None
        self._news: deque[str] = deque(maxlen=_NEWS)
        self._news_count = 0

    @property
    def server(self) -> str:
        """The data server's program and address, for people."""
        return str(self._member)

    def serves(self) -> bool:
        """Whether the data server and the routers have come up and the data server runs."""
        return self._ready

    async def retune(self, fsync: AofFsync, maxmemory_bytes: int) -> None:
        """Let the data server write its log and use memory in this way from now on."""
        await self._member.retune(fsync, maxmemory_bytes)

    async def run(
        self,
        stop: asyncio.Event,
        ready: Callable[[], Awaitable[None]],
        beside: Sequence[Coroutine[Any, Any, None]] = (),
    ) -> None:
        """Start, call `ready`, serve until `stop` is set, then end everything in order.

        Once it has started, what stands `beside` is done too, and must not end by itself. The caller holds the
        node's lock. Raises StartError or StoreError if it cannot start; nothing is left running then.
        """
        try:
            if await unless(stop, self._start()):
                await ready()
                await self._serve(stop, beside)
        finally:
            for job in beside:
                job.close()
            await self._stop()

    async def _start(self) -> None:
        await self._end_surplus_workers()
        if not self.spec.reserved and not any(holder_of(path) for _, path in self._folder.router_locks()):
            reason = taken(self.spec.listen.host, self.spec.listen.port)
            if reason:
                raise StartError(f"{reason}: choose another one for {self.spec.node_id}, or end that process")
        self._acting = True
        self._reservation = Reservation(self.spec.listen)
        write_json(
            self._folder.agent,
            {
                "node": self.spec.node_id,
                "listen": str(self.spec.listen),
                "address": str(self.spec.address),
                "zone": self.spec.zone,
            },
        )
        await together([self._start_member(), *(worker.start() for worker in self._workers)])
        self._ready = self._came_up = True
        await self._beat()

    async def _start_member(self) -> None:
        await self._member.start(needed=await self._needed())
        await self._announce_member()

    async def _end_surplus_workers(self) -> None:
        for number, path in self._folder.router_locks():
            holder = holder_of(path)
            if holder is not None and number >= self.spec.workers:
                logger.info("router surplus: router=%s/%d pid=%d", self.spec.node_id, number, holder.process.pid)
                await Process(holder.process).stop(STOP_S)

    async def _needed(self) -> bool:
        """Whether the topology counts on this member's data."""
        topology = await read_topology(self._store)
        return any(member.id == self._member.spec.id for shard in topology.shards for member in shard.members)

    async def _announce_member(self) -> None:
        record = self._member.record()
        await self._store.commit([put_record(MEMBERS + record.id, record)])

    async def _beat(self) -> None:
        record = AgentRecord(
            node=self.spec.node_id,
            address=self.spec.address,
            kind=NodeKind.SUPERVISED,
            seen_at=self._clock.wall(),
            ready=self._ready,
            pid=os.getpid(),
            version=self.spec.version,
            news=tuple(self._news),
            news_count=self._news_count,
        )
        await self._store.commit([put_record(AGENTS + self.spec.node_id, record)])

    async def _serve(self, stop: asyncio.Event, beside: Sequence[Coroutine[Any, Any, None]]) -> None:
        jobs: list[Coroutine[Any, Any, None]] = [
            self._heartbeats(),
            self._watch_member(),
            self._watch_hang(),
            *(self._watch_worker(worker) for worker in self._workers),
            self._candidate(),
            *beside,
        ]
        tasks = [asyncio.create_task(job) for job in jobs]
        stopped: asyncio.Task[Any] = asyncio.create_task(stop.wait())
        try:
            # None of the jobs ends by itself: one that does has a defect, and the agent ends so that this shows.
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._ready = False
            await drop([stopped, *tasks])

    async def _heartbeats(self) -> None:
        while True:
            try:
                await self._beat()
            except StoreError as error:
                logger.warning("heartbeat failed: node=%s error=%s", self.spec.node_id, error)
            await asyncio.sleep(HEARTBEAT_S)

    async def _watch_member(self) -> None:
        backoff = Backoff()
        started_at = self._clock.monotonic()
        while True:
            assert self._member.process is not None, "the server was started"
            status = await self._member.process.wait()
            self._ready = False
            logger.error("member died: member=%s status=%s", self._member.spec.id, status)
            await self._tell(f"its data server died ({in_words(status)}); starting it again")
            told = ""
            while not self._ready:
                await asyncio.sleep(backoff.next(self._clock.monotonic() - started_at))
                started_at = self._clock.monotonic()
                try:
                    # A server that had come up has data, whatever the topology says of it: never start it empty.
                    await self._member.start(needed=True)
                    await self._announce_member()
                    self._ready = True
                    await self._tell("its data server is back")
                except StoreError as error:
                    logger.warning("member not announced: member=%s error=%s", self._member.spec.id, error)
                    await self._member.stop()
                except StartError as error:
                    logger.warning("member not restarted: member=%s error=%s", self._member.spec.id, error)
                    if str(error) != told:
                        told = str(error)
                        await self._tell(f"its data server did not come back: {error}")
                    await self._member.stop()

    async def _watch_hang(self) -> None:
        """End a data server that says nothing for too long: one that is stopped, or whose disk does not answer."""
        answered_at = self._clock.monotonic()
        while True:
            await asyncio.sleep(min(_LOOK_S, self.spec.hang_s / 4))
            process = self._member.process
            if not self._ready or process is None or await self._member.answers():
                answered_at = self._clock.monotonic()
                continue
            silent_s = self._clock.monotonic() - answered_at
            if silent_s < self.spec.hang_s:
                continue
            logger.error("member hangs: member=%s pid=%d", self._member.spec.id, process.pid)
            why = "it was stopped by a signal" if process.id.stopped() else "its log may say why"
            await self._tell(f"its data server has said nothing for {silent_s:.0f} s ({why}); ending it")
            process.id.send(signal.SIGKILL)
            answered_at = self._clock.monotonic()

    async def _tell(self, sentence: str) -> None:
        """Let people know, in the next heartbeat, which comes at once."""
        self._news.append(sentence)
        self._news_count += 1
        try:
            await self._beat()
        except StoreError as error:
            logger.warning("heartbeat failed: node=%s error=%s", self.spec.node_id, error)

    async def _watch_worker(self, worker: Worker) -> None:
        backoff = Backoff()
        started_at = self._clock.monotonic()
        while True:
            status = await worker.process.wait() if worker.process is not None else None
            logger.error("router died: router=%s status=%s", worker.name, status)
            await self._tell(f"its router {worker.name} died ({in_words(status)}); starting it again")
            await self._end_sessions(self._workers.index(worker))
            await asyncio.sleep(backoff.next(self._clock.monotonic() - started_at))
            started_at = self._clock.monotonic()
            try:
                await worker.start()
            except StartError as error:
                logger.warning("router not restarted: router=%s error=%s", worker.name, error)
                await worker.stop()
            else:
                await self._tell(f"its router {worker.name} is back")

    async def _end_sessions(self, number: int) -> None:
        """A router that is dead sends nothing: whoever waits for its sessions need not wait for their leases to end."""
        try:
            for record in await list_records(self._store, SessionRecord, SESSIONS):
                if (record.value.router, record.value.worker) == (self.spec.node_id, number):
                    await self._store.commit([Delete(record.key)], compares=[Compare(record.key, record.version)])
        except StoreError as error:
            logger.warning("session left to its lease: node=%s router=%d error=%s", self.spec.node_id, number, error)

    async def _candidate(self) -> None:
        """Keep a candidate for coordinator standing; a defect in it costs its turn, not the node."""
        backoff = Backoff(first_s=0.5)
        while True:
            began = self._clock.monotonic()
            task = asyncio.ensure_future(self._coordinate())
            try:
                await asyncio.wait({task})
            finally:
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})
            error = None if task.cancelled() else task.exception()
            logger.error("coordinator ended: node=%s", self.spec.node_id, exc_info=error)
            await asyncio.sleep(backoff.next(self._clock.monotonic() - began))

    async def _stop(self) -> None:
        """Routers first, so that nothing is served that the server could not answer; then the server."""
        if not self._acting:
            return
        if self.spec.leave_running and self._came_up:
            logger.info("left running: node=%s", self.spec.node_id)
            if self._reservation is not None:
                self._reservation.release()
            return
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        # Routers of an earlier agent that a start which failed has not come to adopt.
        left = [holder for _, path in self._folder.router_locks() if (holder := holder_of(path))]
        await asyncio.gather(*(Process(holder.process).stop(STOP_S) for holder in left))
        await self._member.stop()
        if self._reservation is not None:
            self._reservation.release()
        try:
            await asyncio.wait_for(self._beat(), _GOODBYE_S)
        except (StoreError, TimeoutError) as error:
            logger.warning(
                "goodbye failed: node=%s error=%s", self.spec.node_id, str(error) or "the store did not answer"
            )


def lock_node(data: DataFolder, node_id: str, *, child: bool = False) -> RunLock:
    """The right to run this node, for this process alone. Raises InvalidInput or StartError naming who has it."""
    check_id("node", node_id)
    folder = data.node(node_id)
    try:
        folder.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return RunLock.acquire(folder.lock, {CHILD: "yes" if child else "no"})
    except OSError as error:
        raise StartError(f"cannot write in {folder.root}: {error.strerror}") from error
    except LockHeld as held:
        who = f"process {held.holder.process.pid}" if held.holder else "another process"
        raise StartError(f"node {node_id} is already run by {who} on {data.root}; a node is started once") from held


def last_listen(data: DataFolder, node_id: str) -> tuple[Address, str] | None:
    """Where a node listened when it was last started here, and its zone; None if it never was."""
    value = read_json(data.node(node_id).agent)
    return None if value is None else (Address.parse(str(value["listen"])), str(value.get("zone", "")))
