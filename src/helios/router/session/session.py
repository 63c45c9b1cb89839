"""One lease of a router in the store, and the epochs that it applies and acknowledges meanwhile."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from helios.errors import Conflict, HeliosError, LeaseLost, StoreError, Unavailable, causes
from helios.model.fences import Fence
from helios.model.topology import Topology
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.following import lasting_updates
from helios.ports.records import BIG_KEYS, SESSIONS, BigKeysRecord, SessionRecord, put_record, read_record
from helios.ports.store import Compare, Delete, Store
from helios.ports.topologies import TopologyReader
from helios.router.options import RouterOptions
from helios.router.session.users import MemberUsers
from helios.router.stats.big_keys import BigKeys

logger = logging.getLogger(__name__)
RETRY_S = 0.1
_REVOKED = "it was revoked or its lease has ended"
_UNHURRIED_S = 0.25
_BIG_KEYS_EVERY_S = 5.0


class Settling(Protocol):
    """A connection on which something has been asked for."""

    async def settled(self, mark: int) -> None:
        """Wait until what was asked for up to `mark` can change nothing any more."""


Mark: TypeAlias = tuple[Settling, int]


@dataclass(frozen=True, slots=True)
class Pending:
    """What stands between an epoch and its acknowledgement.

    Without `subscriptions` messages may be missed after a switch: it waits for them. That they come late is the fault
    of a server, and no reason to end the session.
    """

    commands: Sequence[Mark] = ()
    subscriptions: Sequence[Mark] = ()


class SessionHost(Protocol):
    """The router as its session sees it. All of it is called from the event loop and does not wait."""

    big_keys: BigKeys

    def record(self, session_id: str) -> SessionRecord:
        """What the store is to say of a session of this router."""

    def apply(self, topology: Topology) -> Pending:
        """Route by `topology` from now on; gives what must be answered before its epoch may be acknowledged."""

    def serve_until(self, deadline: float) -> None:
        """Commands may be sent until then (the clock's seconds since boot)."""

    def session_over(self, reason: str) -> None:
        """Send nothing more and close the connections to the members."""


class SessionOver(Unavailable):
    """The session has ended and the router needs a new one."""


class Session:
    """One lease: from its grant to its end. Its id, its users at the members, and the tasks that keep it."""

    def __init__(
        self, store: Store, connector: Connector, clock: Clock, options: RouterOptions, host: SessionHost
    ) -> None:
        self.id = secrets.token_hex(8)
        self.topology = Topology(epoch=0)
        self.users = MemberUsers(self.id, connector, self)
        self._store = store
        self._topologies = TopologyReader(store)
        self._clock = clock
        self._options = options
        self._host = host
        self._key = SESSIONS + self.id
        self._lease = ""
        self._record = host.record(self.id)
        self._version = 0
        self._writing = asyncio.Lock()
        self._deadline = 0.0
        self.longest_gap_s = 0.0  # from when a renewal was sent until the next had been confirmed
        self._pending = Pending()
        self._applied = asyncio.Event()
        self._settled_fences: frozenset[Fence] = frozenset()  # those that stand and were acknowledged

    async def live(self) -> None:
        """Open the session and keep it until it ends, which the exception tells: a HeliosError says why."""
        options = self._options
        sent = self._clock.boottime()
        self._lease = await self._store.grant(options.session_ttl_s)
        self._deadline = sent + options.session_ttl_s - options.session_margin_s
        # Before the topology is read: whoever publishes a fence and then lists the sessions must find this one.
        self._version = await self._store.commit([put_record(self._key, self._record, self._lease)])
        record = await self._topologies.read()
        self._apply(Topology(epoch=0) if record is None else record.value)
        self._host.serve_until(self._deadline)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew())
                tasks.create_task(self._follow_topology())
                tasks.create_task(self._watch_self())
                tasks.create_task(self._acknowledge())
                tasks.create_task(self._name_big_keys())
        except* HeliosError as group:
            raise SessionOver("; ".join(map(str, causes(group)))) from group

    # --- the lease ---

    async def _renew(self) -> None:
        options, clock = self._options, self._clock
        # From when the last one was sent, not confirmed: a slow store has the time until the lease ends for the next.
        due = clock.boottime() + options.session_ttl_s / 3
        while True:
            await asyncio.sleep(max(min(due, self._deadline) - clock.boottime(), 0.001))
            sent = clock.boottime()
            try:
                async with asyncio.timeout(max(self._deadline - sent, 0.001)):
                    await self._store.keep_alive(self._lease)
            except LeaseLost as error:
                raise SessionOver(f"the lease is lost: {error}") from error
            except (StoreError, TimeoutError) as error:
                if clock.boottime() >= self._deadline:
                    why = str(error) or "the store did not answer"
                    raise SessionOver(f"the lease could not be renewed in time: {why}") from error
                due = clock.boottime() + options.session_ttl_s / 30
                continue
            due = sent + options.session_ttl_s / 3
            renewed = self._deadline - options.session_ttl_s + options.session_margin_s
            self.longest_gap_s = max(self.longest_gap_s, clock.boottime() - renewed)
            self._deadline = sent + options.session_ttl_s - options.session_margin_s
            self._host.serve_until(self._deadline)

    async def _watch_self(self) -> None:
        async with aclosing(lasting_updates(self._store, self._key, RETRY_S)) as following:
            async for update in following:
                values = [event.value for event in update.events if event.key == self._key]
                if values[-1] is None if values else update.complete:
                    raise SessionOver(_REVOKED)

    async def confirm(self) -> int:
        """The version of the session's record; raises a HeliosError if the session is over, by the store's word."""
        record = await read_record(self._store, SessionRecord, self._key)
        if record is None:
            raise SessionOver(_REVOKED)
        return record.version

    # --- the topology ---

    def _apply(self, topology: Topology) -> None:
        self.topology = topology
        self._settled_fences &= frozenset(topology.fences)
        self.users.apply(topology)
        self._pending = self._host.apply(topology)
        self._applied.set()

    async def _follow_topology(self) -> None:
        async with aclosing(self._topologies.followed(RETRY_S)) as following:
            async for topology in following:
                if topology.epoch > self.topology.epoch:
                    self._apply(topology)

    async def _acknowledge(self) -> None:
        """Write the epoch into the session's record once nothing issued before it is under way."""
        while True:
            await self._applied.wait()
            self._applied.clear()
            # Behind a fence clients wait for the acknowledgement, but for one that was acknowledged before, as where
            # another of several pairs has switched. Nobody waits for another; who starts us waits for the first.
            is_awaited = not self._record.acked_epoch or any(
                fence.whole or fence not in self._settled_fences for fence in self.topology.fences
            )
            if not is_awaited and await self._is_followed():
                continue
            epoch, pending, fences = self.topology.epoch, self._pending, self.topology.fences
            if not await self._settled(pending.commands):
                continue  # A newer epoch has come; it is acknowledged instead.
            if pending.subscriptions:
                await self._write(acked_epoch=epoch, deaf=True)
                if not await self._settled(pending.subscriptions):
                    continue
            await self._write(acked_epoch=epoch, deaf=False)
            self._settled_fences = frozenset(fences) & frozenset(self.topology.fences)

    async def _is_followed(self) -> bool:
        """Whether another epoch comes soon: routers that all write at once keep each other waiting."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_UNHURRIED_S):
                await self._applied.wait()
        return self._applied.is_set()

    async def _settled(self, marks: Sequence[Mark]) -> bool:
        """Whether all marks were reached before another epoch came."""
        settling = asyncio.gather(*(link.settled(mark) for link, mark in marks))
        newer = asyncio.ensure_future(self._applied.wait())
        try:
            await asyncio.wait((settling, newer), return_when=asyncio.FIRST_COMPLETED)
            return settling.done() and not self._applied.is_set()
        finally:
            settling.cancel()
            newer.cancel()

    async def acts_as_default(self, members: Iterable[str]) -> None:
        """Say in the store of which members the router is the default user."""
        await self._write(as_default=tuple(sorted(members)))

    async def _write(self, **changes: Any) -> None:
        """Change the session's record in the store."""
        async with self._writing:
            record = replace(self._record, **changes)
            stale = False  # whether somebody else may have written the record
            while True:
                try:
                    if stale:
                        self._version = await self.confirm()
                        stale = False
                    put = put_record(self._key, record, self._lease)
                    self._version = await self._store.commit([put], compares=[Compare(self._key, self._version)])
                    self._record = record
                    return
                except Conflict:
                    stale = True
                except LeaseLost as error:
                    raise SessionOver(f"the lease is lost: {error}") from error
                except StoreError as error:
                    # Whether it was written is unknown: a Conflict next time tells, and the version is read again.
                    logger.warning("the session's record cannot be written yet: %s", error)
                    await asyncio.sleep(RETRY_S)

    # --- what it has seen ---

    async def _name_big_keys(self) -> None:
        """Write down which keys have just had big values, now and then, for the coordinator to look at."""
        written: tuple[bytes, ...] = ()
        key = BIG_KEYS + self.id
        while True:
            keys = await self._host.big_keys.other_than(written)
            try:
                await self._store.commit(
                    [put_record(key, BigKeysRecord.of(keys), self._lease) if keys else Delete(key)]
                )
                written = keys
            except StoreError as error:
                logger.info("big keys not named: %s", error)
            await asyncio.sleep(_BIG_KEYS_EVERY_S)

    # --- its end ---

    async def end(self, *, revoke: bool) -> None:
        """Remove the users, and give the lease back if `revoke` says so, as far as store and members answer."""
        try:
            if self._lease and revoke:
                await self._store.revoke(self._lease)
        except StoreError as error:
            logger.info("the session's lease was left to expire: %s", error)
        await self.users.remove()
