"""The agent of a node: its data servers, its routers, its heartbeat, its candidate for coordinator."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from helios.errors import StartError, StoreError
from helios.model.ids import Address, check_id, founder_id
from helios.model.sections import AofFsync
from helios.node.backoff import Backoff
from helios.node.files import DataFolder, read_json, write_json
from helios.node.heartbeat import Heartbeat
from helios.node.keeper import HANG_S, MemberKeeper
from helios.node.locks import LockHeld, RunLock, holder_of
from helios.node.member import MemberServer, MemberSpec
from helios.node.members import Members
from helios.node.ports import MEMBER_PORT_OFFSET, Reservation, taken
from helios.node.process import Process, in_words
from helios.node.server import NO_TLS, ServerTls
from helios.node.waiting import drop, together, unless
from helios.node.workers import STOP_S, Worker, WorkerSpec
from helios.ports.clock import Clock
from helios.ports.following import once_answered
from helios.ports.records import SESSIONS, SessionRecord, list_records
from helios.ports.store import Compare, Delete, Store

logger = logging.getLogger(__name__)

CHILD = "child"  # in the note of the agent's lock: whether it ends with its parent
_GOODBYE_S = 2.0
_HAND_OVER_S = 5.0


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent is told. `listen` is where it takes clients, `address` how others reach that.

    Its data servers listen on `data_host` and are reached by `data_reached_by`; their passwords come of the cluster's
    `key`, where it has one; `tls` and `known_servers` are as in a MemberSpec. `reserved`: whoever started it keeps the
    port for it, and has seen that nobody else listens there. With `leave_running` its end leaves the data servers and
    the routers to the next agent.
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
    data_host: str = "127.0.0.1"
    data_reached_by: str = "127.0.0.1"
    key: bytes = field(default=b"", repr=False)
    tls: ServerTls = NO_TLS
    known_servers: Callable[[], ssl.SSLContext] = ssl.create_default_context


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
        self._heartbeat = Heartbeat(
            spec.node_id,
            spec.address,
            spec.version,
            store,
            clock,
            ready=self.serves,
            trouble=lambda: self._members.trouble,
        )
        self._members = Members(self._folder, store, self._member)
        self._workers = [Worker(f"{spec.node_id}/{number}", worker(number)) for number in range(spec.workers)]
        self._acting = False
        self._came_up = False
        self._serving = False
        self._reservation: Reservation | None = None

    def _member(self, member_id: str) -> MemberKeeper:
        spec = self.spec
        # The port beside the node's own is the founder's: members that start at once would both find it free.
        port = spec.listen.port + MEMBER_PORT_OFFSET if member_id == founder_id(spec.node_id) else 0
        server = MemberServer(
            MemberSpec(
                member_id,
                spec.node_id,
                port,
                spec.fsync,
                spec.maxmemory_bytes,
                spec.server,
                spec.data_host,
                spec.data_reached_by,
                spec.address,
                spec.key,
                spec.tls,
                spec.known_servers,
            ),
            self._folder.member(member_id),
            self._data.log(member_id),
        )
        return MemberKeeper(server, self._store, self._clock, self._heartbeat.tell, hang_s=spec.hang_s)

    @property
    def plain(self) -> str:
        """The data server for people, if it was to speak TLS and cannot; else empty."""
        return self._members.plain if self.spec.tls.cert is not None else ""

    @property
    def servers(self) -> str:
        """The data servers' programs and addresses, for people."""
        return str(self._members)

    def serves(self) -> bool:
        """Whether the data servers and the routers have come up and the data servers run."""
        return self._serving and self._members.ready

    async def retune(self, fsync: AofFsync, maxmemory_bytes: int) -> None:
        """Let the data servers write their logs and use memory in this way from now on."""
        await self._members.retune(fsync, maxmemory_bytes)

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
        await together([self._members.start(), *(worker.start() for worker in self._workers)])
        self._serving = self._came_up = True
        await once_answered(self._heartbeat.beat, logger.warning)

    async def _end_surplus_workers(self) -> None:
        for number, path in self._folder.router_locks():
            holder = holder_of(path)
            if holder is not None and number >= self.spec.workers:
                logger.info("router surplus: router=%s/%d pid=%d", self.spec.node_id, number, holder.process.pid)
                await Process(holder.process).stop(STOP_S)

    async def _serve(self, stop: asyncio.Event, beside: Sequence[Coroutine[Any, Any, None]]) -> None:
        jobs: list[Coroutine[Any, Any, None]] = [
            self._heartbeat.run(),
            self._members.keep(),
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
            await self._hand_over()
        finally:
            self._serving = False
            await drop([stopped, *tasks])

    async def _hand_over(self) -> None:
        """Let others lead, so that clients do not notice the end of the data servers.

        Who ends together with its parent ends with all the others, and has nobody to hand over to.
        """
        if self.spec.reserved or self.spec.leave_running:
            return
        try:
            async with asyncio.timeout(_HAND_OVER_S):
                await self._members.hand_over()
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "it takes too long"
            logger.warning("not handed over, ends all the same: node=%s reason=%s", self.spec.node_id, reason)

    async def _watch_worker(self, worker: Worker) -> None:
        backoff = Backoff()
        started_at = self._clock.monotonic()
        while True:
            status = await worker.process.wait() if worker.process is not None else None
            logger.error("router died: router=%s status=%s", worker.name, status)
            await self._heartbeat.tell(f"its router {worker.name} died ({in_words(status)}); starting it again")
            await self._end_sessions(self._workers.index(worker))
            await asyncio.sleep(backoff.next(self._clock.monotonic() - started_at))
            started_at = self._clock.monotonic()
            try:
                await worker.start()
            except StartError as error:
                logger.warning("router not restarted: router=%s error=%s", worker.name, error)
                await worker.stop()
            else:
                await self._heartbeat.tell(f"its router {worker.name} is back")

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
        """Routers first, so that nothing is served that the server could not answer; then the servers."""
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
        await self._members.stop()
        if self._reservation is not None:
            self._reservation.release()
        try:
            await asyncio.wait_for(self._heartbeat.beat(), _GOODBYE_S)
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
    except LockHeld as error:
        who = f"process {error.holder.process.pid}" if error.holder else "another process"
        raise StartError(f"node {node_id} is already run by {who} on {data.root}; a node is started once") from error


def last_listen(data: DataFolder, node_id: str) -> tuple[Address, str] | None:
    """Where a node listened when it was last started here, and its zone; None if it never was."""
    value = read_json(data.node(node_id).agent)
    return None if value is None else (Address.parse(str(value["listen"])), str(value.get("zone", "")))
