"""A data server of a node, kept serving: started, restarted when it dies or hangs."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace

from helios.errors import Conflict, StartError, StoreError
from helios.model.ids import founder_id, is_replica
from helios.model.topology import Topology
from helios.node.backoff import Backoff
from helios.node.member import EndedWhileStarting, MemberServer
from helios.node.process import in_words
from helios.node.standing import standing_of
from helios.ports.clock import Clock
from helios.ports.following import once_answered
from helios.ports.pulse import rest
from helios.ports.records import MEMBERS, MemberRecord, put_record
from helios.ports.store import Compare, Store
from helios.ports.topologies import read_topology

logger = logging.getLogger(__name__)

HANG_S = 60.0  # a data server that says nothing for so long is ended, and so started again
_LOOK_S = 5.0
_CROWDED_LOOK_S = 0.1  # strangers that are ended may come again

Tell = Callable[[str], Awaitable[None]]


class MemberKeeper:
    """Keeps one data server serving, and its record in the store true.

    `solo`: it is the only member of its shard, and nobody wishes for another. Then it comes back without a look into
    the store, which may be away.
    """

    def __init__(self, server: MemberServer, store: Store, clock: Clock, tell: Tell, *, hang_s: float = HANG_S) -> None:
        self.server = server
        self.ready = False
        self.came_up = False
        self.solo = False
        self.trouble = ""  # why it could not be started the last time
        self._topology = Topology(epoch=0)
        self._store = store
        self._clock = clock
        self._tell = tell
        self._hang_s = hang_s
        founds = self._id == founder_id(server.spec.node)
        self._name = "its data server" if founds else f"its data server {self._id}"

    @property
    def _id(self) -> str:
        return self.server.spec.id

    async def start(self, topology: Topology, *, again: bool = False) -> None:
        """Start or adopt the server as what it is in the topology, and announce it; `again`: it has come up before.

        Raises StartError or StoreError.
        """
        standing = standing_of(self._id, topology)
        self._topology, self.solo = topology, standing.leads
        # A server that had come up has data, whatever the topology says of it: never start it empty.
        needed = standing.needed or (again and standing.leads)
        try:
            await self.server.start(needed=needed, leads=standing.leads)
        except EndedWhileStarting as error:
            if needed or standing.leads:
                raise
            await self._start_anew(error)
        if is_replica(self._id):
            self.server.remember_epoch(topology.epoch)
        await once_answered(lambda: self._announce(self.server.record()), logger.warning)
        self.ready = self.came_up = True
        self.trouble = ""

    async def _start_anew(self, error: EndedWhileStarting) -> None:
        """Start the server without its files: those that its leader has are no fewer."""
        await self.server.stop()
        if not self.server.has_data() or self.server.port_taken():
            raise error
        logger.error("member discarded: member=%s error=%s", self._id, error)
        await self._tell(
            f"{self._name} could not load its files, which are deleted: it is given a copy of its leader's"
        )
        await self.server.discard()
        await self.server.start(needed=False, leads=False)

    async def carry(self) -> None:
        """Start the server, however often that takes, and keep it. Never ends by itself."""
        await self._bring_up(Backoff(), again=False)
        await self.keep()

    async def keep(self) -> None:
        """Start the server again each time it dies, and end it when it hangs. Never ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._restart_when_dead())
            tasks.create_task(self._end_when_silent())

    async def _restart_when_dead(self) -> None:
        backoff = Backoff()
        started_at = self._clock.monotonic()
        while True:
            assert self.server.process is not None, "the server was started"
            status = await self.server.process.wait()
            self.ready = False
            logger.error("member died: member=%s status=%s", self._id, status)
            await self._announce_death()
            await self._tell(f"{self._name} died ({in_words(status)}); starting it again")
            await asyncio.sleep(backoff.next(self._clock.monotonic() - started_at))
            started_at = await self._bring_up(backoff, again=True)
            await self._tell(f"{self._name} is back")

    async def _announce_death(self) -> None:
        """Have the coordinator know at once."""
        try:
            await self._announce(replace(self.server.record(), dead=True))
        except StoreError as error:
            logger.warning("death not announced: member=%s error=%s", self._id, error)

    async def _announce(self, record: MemberRecord) -> None:
        """Write down what the server is now. What was written before and comes late changes nothing any more."""
        key = MEMBERS + self._id
        while True:
            known = await self._store.get(key)
            compares = [Compare(key, 0 if known is None else known.version)]
            try:
                await self._store.commit([put_record(key, record)], compares=compares)
            except Conflict:
                continue
            return

    async def announce_leaving(self) -> None:
        """Have the coordinator let others lead. Raises StoreError."""
        if self.ready:
            await self._announce(replace(self.server.record(), leaving=True))

    async def _bring_up(self, backoff: Backoff, *, again: bool) -> float:
        """Start the server, however often that takes; when the last start began."""
        told = ""
        while True:
            started_at = self._clock.monotonic()
            try:
                # Unless it is alone, others may lead by now.
                topology = self._topology if self.solo else await read_topology(self._store)
                await self.start(topology, again=again)
            except StoreError as error:
                # A server that runs already may be followed, and have what was acknowledged since: it is let run.
                logger.warning("member not announced: member=%s error=%s", self._id, error)
            except StartError as error:
                logger.warning("member not started: member=%s error=%s", self._id, error)
                self.trouble = f"{self._id} cannot be started: {error}"
                if str(error) != told:
                    told = str(error)
                    await self._tell(f"{self._name} did not come {'back' if again else 'up'}: {error}")
                await self.server.stop()
            else:
                return started_at
            await asyncio.sleep(backoff.next(self._clock.monotonic() - started_at))

    async def _end_when_silent(self) -> None:
        """End a data server that says nothing for too long: one that is stopped, or whose disk does not answer.

        Each look keeps it from being crowded by strangers, too.
        """
        answered_at = self._clock.monotonic()
        while True:
            await rest(_CROWDED_LOOK_S if self.server.crowded else min(_LOOK_S, self._hang_s / 4))
            process = self.server.process
            if not self.ready or process is None or await self.server.answers():
                answered_at = self._clock.monotonic()
                continue
            silent_s = self._clock.monotonic() - answered_at
            if silent_s < self._hang_s:
                continue
            logger.error("member hangs: member=%s pid=%d", self._id, process.pid)
            why = "it was stopped by a signal" if process.id.stopped() else "its log may say why"
            await self._tell(f"{self._name} has said nothing for {silent_s:.0f} s ({why}); ending it")
            process.id.send(signal.SIGKILL)
            answered_at = self._clock.monotonic()
