"""The router's lease in the store, the epochs that it applies and acknowledges, and who it is at the members."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from helios.errors import Conflict, EngineDenied, HeliosError, LeaseLost, StoreError, Unavailable, WatchLost
from helios.model.codec import decode
from helios.model.topology import Member, NodeKind, Topology
from helios.ports.clock import Clock
from helios.ports.engine import SESSION_PREFIX, Connector, UserRole
from helios.ports.records import SESSIONS, TOPOLOGY, SessionRecord, put_record, read_record
from helios.ports.store import Compare, Store
from helios.router.options import RouterOptions
from helios.router.upstream.link import Credentials

logger = logging.getLogger(__name__)
_RETRY_S = 0.1
_UNHURRIED_S = 0.25


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

    def record(self, session_id: str) -> SessionRecord:
        """What the store is to say of a session of this router."""

    def apply(self, topology: Topology) -> Pending:
        """Route by `topology` from now on; gives what must be answered before its epoch may be acknowledged."""

    def serve_until(self, deadline: float) -> None:
        """Commands may be sent until then (the clock's monotonic seconds)."""

    def session_over(self, reason: str) -> None:
        """Send nothing more and close the connections to the members."""


class _SessionOver(Unavailable):
    """The session has ended and the router needs a new one."""


class Session:
    """One lease: from its grant to its end. Its id, its users at the members, and the tasks that keep it."""

    def __init__(
        self, store: Store, connector: Connector, clock: Clock, options: RouterOptions, host: SessionHost
    ) -> None:
        self.id = secrets.token_hex(8)
        self.topology = Topology(epoch=0)
        self._store = store
        self._connector = connector
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
        self._credentials: dict[str, Credentials | None] = {}
        self._making: dict[str, asyncio.Lock] = {}
        self._as_default: set[str] = set()
        self._pending = Pending()
        self._applied = asyncio.Event()

    async def live(self) -> None:
        """Open the session and keep it until it ends, which the exception tells: a HeliosError says why."""
        options = self._options
        sent = self._clock.monotonic()
        self._lease = await self._store.grant(options.session_ttl_s)
        self._deadline = sent + options.session_ttl_s - options.session_margin_s
        # Before the topology is read: whoever publishes a fence and then lists the sessions must find this one.
        self._version = await self._store.commit([put_record(self._key, self._record, self._lease)])
        snapshot = await self._store.list(TOPOLOGY)
        self._apply(decode(Topology, snapshot.entries[0].value) if snapshot.entries else Topology(epoch=0))
        self._host.serve_until(self._deadline)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._renew())
                tasks.create_task(self._follow_topology(snapshot.revision))
                tasks.create_task(self._watch_self(snapshot.revision))
                tasks.create_task(self._acknowledge())
        except* HeliosError as group:
            raise _SessionOver("; ".join(str(error) for error in group.exceptions)) from group

    # --- the lease ---

    async def _renew(self) -> None:
        options, clock = self._options, self._clock
        # From when the last one was sent, not confirmed: a slow store has the time until the lease ends for the next.
        due = clock.monotonic() + options.session_ttl_s / 3
        while True:
            await asyncio.sleep(max(min(due, self._deadline) - clock.monotonic(), 0.001))
            sent = clock.monotonic()
            try:
                async with asyncio.timeout(max(self._deadline - sent, 0.001)):
                    await self._store.keep_alive(self._lease)
            except LeaseLost as error:
                raise _SessionOver(f"the lease is lost: {error}") from error
            except (StoreError, TimeoutError) as error:
                if clock.monotonic() >= self._deadline:
                    why = str(error) or "the store did not answer"
                    raise _SessionOver(f"the lease could not be renewed in time: {why}") from error
                due = clock.monotonic() + options.session_ttl_s / 30
                continue
            due = sent + options.session_ttl_s / 3
            renewed = self._deadline - options.session_ttl_s + options.session_margin_s
            self.longest_gap_s = max(self.longest_gap_s, clock.monotonic() - renewed)
            self._deadline = sent + options.session_ttl_s - options.session_margin_s
            self._host.serve_until(self._deadline)

    async def _watch_self(self, revision: int) -> None:
        gap = False  # whether changes were missed, so that the record itself must be looked at
        while True:
            try:
                if gap:
                    revision = (await self._store.list(self._key)).revision
                    await self.confirm()
                    gap = False
                async with aclosing(self._store.watch(self._key, revision)) as watch:
                    async for events in watch:
                        if events[-1].value is None:
                            raise _SessionOver("it was revoked or its lease has ended")
                        revision = events[-1].version
            except WatchLost:
                gap = True
            except StoreError as error:
                logger.warning("the session's record cannot be watched: %s", error)
            await asyncio.sleep(_RETRY_S)

    async def confirm(self) -> int:
        """The version of the session's record; raises a HeliosError if the session is over, by the store's word."""
        record = await read_record(self._store, SessionRecord, self._key)
        if record is None:
            raise _SessionOver("it was revoked or its lease has ended")
        return record.version

    # --- the topology ---

    def _apply(self, topology: Topology) -> None:
        self.topology = topology
        # A member that has left may come back as another server, which knows no user of before.
        members = {member.id for shard in topology.shards for member in shard.members}
        self._credentials = {name: made for name, made in self._credentials.items() if name in members}
        self._pending = self._host.apply(topology)
        self._applied.set()

    async def _follow_topology(self, revision: int) -> None:
        gap = False
        while True:
            try:
                if gap:
                    snapshot = await self._store.list(TOPOLOGY)
                    self._read(snapshot.entries[0].value if snapshot.entries else None)
                    revision, gap = snapshot.revision, False
                async with aclosing(self._store.watch(TOPOLOGY, revision)) as watch:
                    async for events in watch:
                        self._read(events[-1].value)
                        revision = events[-1].version
            except WatchLost:
                gap = True
            except StoreError as error:
                logger.warning("the topology cannot be followed: %s", error)
            await asyncio.sleep(_RETRY_S)

    def _read(self, value: bytes | None) -> None:
        if value is not None:
            topology = decode(Topology, value)
            if topology.epoch > self.topology.epoch:
                self._apply(topology)

    async def _acknowledge(self) -> None:
        """Write the epoch into the session's record once nothing issued before it is under way."""
        while True:
            await self._applied.wait()
            self._applied.clear()
            # Behind a fence clients wait for the acknowledgement; nobody waits for another.
            # Who starts us waits for the first.
            if self._record.acked_epoch and not self.topology.fenced and await self._is_followed():
                continue
            epoch, pending = self.topology.epoch, self._pending
            if not await self._settled(pending.commands):
                continue  # A newer epoch has come; it is acknowledged instead.
            if pending.subscriptions:
                await self._write(acked_epoch=epoch, deaf=True)
                if not await self._settled(pending.subscriptions):
                    continue
            await self._write(acked_epoch=epoch, deaf=False)

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

    async def _write(self, **changes: Any) -> None:
        """Change the session's record in the store."""
        async with self._writing:
            record = replace(self._record, as_default=tuple(sorted(self._as_default)), **changes)
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
                    raise _SessionOver(f"the lease is lost: {error}") from error
                except StoreError as error:
                    # Whether it was written is unknown: a Conflict next time tells, and the version is read again.
                    logger.warning("the session's record cannot be written yet: %s", error)
                    await asyncio.sleep(_RETRY_S)

    # --- users at the members ---

    async def credentials(self, member: Member) -> Credentials | None:
        """The session's user at a member, made if need be; None for an external one that lets nobody make users.

        A user is used only after the session was read again and found alive: whoever forces a session
        off deletes its record first, so either the user is found and removed, or it is never used.
        """
        async with self._making.setdefault(member.id, asyncio.Lock()):
            if member.id not in self._credentials:
                self._credentials[member.id] = await self._made(member)
            return self._credentials[member.id]

    async def _made(self, member: Member) -> Credentials | None:
        made = Credentials(SESSION_PREFIX + self.id, secrets.token_urlsafe(24))
        engine = await self._connector.open(member)
        try:
            await engine.allow(made.user, made.password, UserRole.ROUTER)
        except EngineDenied:
            node = self.topology.node(member.node)
            if node is None or node.kind is not NodeKind.EXTERNAL:
                raise
            # Nobody can force the default user off, and whoever fences this member must know that before we are there.
            self._as_default.add(member.id)
            await self._write()
            return None
        finally:
            await engine.close()
        await self.confirm()
        return made

    def forget_credentials(self, member: Member) -> None:
        """The member has lost the user (it was restarted): it is made anew before the next connection."""
        self._credentials.pop(member.id, None)

    async def end(self, *, revoke: bool) -> None:
        """Remove the users, and give the lease back if `revoke` says so, as far as store and members answer."""
        try:
            if self._lease and revoke:
                await self._store.revoke(self._lease)
        except StoreError as error:
            logger.info("the session's lease was left to expire: %s", error)
        members = {member.id: member for shard in self.topology.shards for member in shard.members}
        users = [
            self._remove_user(members[name]) for name, made in self._credentials.items() if made and name in members
        ]
        await asyncio.gather(*users)

    async def _remove_user(self, member: Member) -> None:
        try:
            engine = await self._connector.open(member)
            try:
                await engine.force_off(SESSION_PREFIX + self.id)
            finally:
                await engine.close()
        except HeliosError as error:
            logger.info("the session's user was left on %s: %s", member.id, error)


class SessionKeeper:
    """Has a session whenever the store lets it: a new one as soon as the one before is over."""

    def __init__(self, make: Callable[[], Session], host: SessionHost) -> None:
        self._make = make
        self._host = host
        self.session: Session | None = None
        self.sessions = 0
        self._longest_gap_s = 0.0

    @property
    def longest_gap_s(self) -> float:
        """The longest time between two renewals of a lease, of all sessions so far."""
        return max(self._longest_gap_s, self.session.longest_gap_s if self.session else 0.0)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._longest_gap_s = self.longest_gap_s
            self.session = session = self._make()
            self.sessions += 1
            try:
                await session.live()
            except HeliosError as error:
                logger.warning("session %s is over: %s", session.id, error)
                self._host.session_over(str(error))
            # One that has lived is followed by the next at once: clients wait for it.
            await asyncio.sleep(max(0.0, began + _RETRY_S - loop.time()))

    def current(self) -> Session:
        """The session that is open; raises Unavailable where there is none."""
        if self.session is None:
            raise Unavailable("this router has no session yet")
        return self.session

    async def end(self, timeout_s: float, *, revoke: bool) -> None:
        """End the session, for a stop; gives up after a while."""
        if self.session is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.session.end(revoke=revoke)
            except TimeoutError:
                logger.info("the session's end was not confirmed within %g s", timeout_s)
