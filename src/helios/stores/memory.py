"""The store in one process's memory: for tests and simulations, where every process has a handle of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from helios.errors import Conflict, StoreError, WatchLost
from helios.ports.clock import Clock
from helios.ports.store import Compare, Delete, Entry, Event, Put, Snapshot
from helios.stores.watching import Signal, check_commit, check_ttl, lease_lost

_MIN_WAIT_S = 0.001  # Timers may fire a hair early; waiting at least this long lets a virtual clock go on.


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    deadline: float


class _Watcher:
    """One watch: what it is about, and the revision up to which it has seen everything."""

    def __init__(self, prefix: str, after: int) -> None:
        self.prefix = prefix
        self.after = after
        self.signal = Signal()

    def committed(self, events: Sequence[Event], version: int) -> None:
        """Wake the watch by a commit that touches it. Another is passed over, so that nobody wakes for nothing."""
        if any(event.key.startswith(self.prefix) for event in events):
            self.signal.fire()
        elif self.after == version - 1:
            self.after = version


class _Shared:
    """The state behind all handles. Nothing in here awaits, so every method is atomic."""

    def __init__(self, clock: Clock | None, keep_commits: int) -> None:
        self._clock = clock
        self._keep_commits = keep_commits
        self._entries: dict[str, Entry] = {}
        self._bound: dict[str, str] = {}  # key → the lease it goes with
        self._leases: dict[str, _Lease] = {}
        self._leases_granted = 0
        self.logger: deque[tuple[Event, ...]] = deque()
        self._forgotten = 0  # the last revision that is no longer in the log
        self._timer: asyncio.TimerHandle | None = None
        self.revision = 1
        self.watchers: dict[_Watcher, None] = {}

    def get(self, key: str) -> Entry | None:
        self.expire()
        return self._entries.get(key)

    def snapshot(self, prefix: str) -> Snapshot:
        self.expire()
        keys = sorted(key for key in self._entries if key.startswith(prefix))
        return Snapshot(tuple(self._entries[key] for key in keys), self.revision)

    def commit(self, operations: Sequence[Put | Delete], compares: Sequence[Compare]) -> int:
        self.expire()
        for compare in compares:
            entry = self._entries.get(compare.key)
            version = 0 if entry is None else entry.version
            if version != compare.version:
                raise Conflict(f"{compare.key!r} is at version {version}, not {compare.version}; read it again")
        for operation in operations:
            if isinstance(operation, Put) and operation.lease is not None and operation.lease not in self._leases:
                raise lease_lost(operation.lease)
        return self._apply(operations)

    def events_after(self, revision: int) -> list[tuple[Event, ...]]:
        self.expire()
        if revision < self._forgotten:
            raise WatchLost(f"changes after {revision} are known from {self._forgotten} on only; list again")
        fresh: list[tuple[Event, ...]] = []
        for events in reversed(self.logger):
            if events[0].version <= revision:
                break
            fresh.append(events)
        fresh.reverse()
        return fresh

    def grant(self, ttl_s: float) -> str:
        self._leases_granted += 1
        lease = f"lease-{self._leases_granted}"
        self._leases[lease] = _Lease(ttl_s, self._now() + ttl_s)
        self._arm()
        return lease

    def keep_alive(self, lease: str) -> None:
        self.expire()
        found = self._leases.get(lease)
        if found is None:
            raise lease_lost(lease)
        found.deadline = self._now() + found.ttl_s

    def revoke(self, lease: str) -> None:
        self.expire()
        if self._leases.pop(lease, None) is not None:
            self._apply([Delete(key) for key in sorted(self._bound) if self._bound[key] == lease])

    def renew_all(self) -> None:
        for lease in self._leases.values():
            lease.deadline = self._now() + lease.ttl_s

    def expire(self) -> None:
        """End every lease whose time has come, the earliest first, each in a commit of its own."""
        now = self._now()
        due = sorted((lease.deadline, name) for name, lease in self._leases.items() if lease.deadline <= now)
        for _, name in due:
            del self._leases[name]
            self._apply([Delete(key) for key in sorted(self._bound) if self._bound[key] == name])

    def _apply(self, operations: Sequence[Put | Delete]) -> int:
        version = self.revision + 1
        events: list[Event] = []
        for operation in operations:
            key = operation.key
            if isinstance(operation, Put):
                self._entries[key] = Entry(key, operation.value, version)
                self._bound.pop(key, None)
                if operation.lease is not None:
                    self._bound[key] = operation.lease
                events.append(Event(key, operation.value, version))
            elif self._entries.pop(key, None) is not None:
                self._bound.pop(key, None)
                events.append(Event(key, None, version))
        if events:
            self.revision = version
            self.logger.append(tuple(events))
            if len(self.logger) > self._keep_commits:
                self._forgotten = self.logger.popleft()[0].version
            for watcher in self.watchers:
                watcher.committed(events, version)
        return self.revision

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self._clock is None else self._clock.monotonic()

    def _arm(self) -> None:
        """Have a timer at or before the earliest deadline, and none where there is no lease."""
        if not self._leases:
            return
        wait_s = max(min(lease.deadline for lease in self._leases.values()) - self._now(), _MIN_WAIT_S)
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + wait_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()
        self._arm()


class MemoryStore:
    """A `ports.store.Store` that ends with its process. `open` gives further handles of the same content.

    Time is `clock.monotonic` or else the event loop's. Of past changes the last `keep_commits` commits are
    kept for watches. Every call lets other tasks run once before it takes effect.
    """

    def __init__(self, clock: Clock | None = None, *, keep_commits: int = 10_000) -> None:
        self._attach(_Shared(clock, keep_commits))

    def open(self) -> MemoryStore:
        """Another handle; closing one leaves the others alone. Also a closed handle can open another."""
        handle = MemoryStore.__new__(MemoryStore)
        handle._attach(self._shared)
        return handle

    def _attach(self, shared: _Shared) -> None:
        self._shared = shared
        self._watchers: dict[_Watcher, None] = {}
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None."""
        await self._turn()
        return self._shared.get(key)

    async def list(self, prefix: str) -> Snapshot:
        """All entries whose keys begin with `prefix`. Costs a pass over all keys."""
        await self._turn()
        return self._shared.snapshot(prefix)

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        """Do all operations as one and give the revision they got, or the present one if they changed nothing."""
        check_commit(operations, compares)
        await self._turn()
        return self._shared.commit(operations, compares)

    def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        """Every change under `prefix` with a revision greater than `after`, in order, as they come."""
        self._check_open()
        return self._watch(prefix, after)

    async def _watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        watcher = _Watcher(prefix, after)
        self._shared.watchers[watcher] = None
        self._watchers[watcher] = None
        try:
            while not self._ended():
                seen = watcher.signal.count
                for events in self._shared.events_after(watcher.after):
                    watcher.after = events[0].version
                    matching = tuple(event for event in events if event.key.startswith(prefix))
                    if matching:
                        yield matching
                    if self._ended():
                        return
                await watcher.signal.wait(seen)
        finally:
            self._shared.watchers.pop(watcher, None)
            self._watchers.pop(watcher, None)

    async def grant(self, ttl_s: float) -> str:
        """A new lease that lives for `ttl_s` seconds unless kept alive."""
        check_ttl(ttl_s)
        await self._turn()
        return self._shared.grant(ttl_s)

    async def keep_alive(self, lease: str) -> None:
        """Extend the lease to its full time from now; raises LeaseLost if it is gone."""
        await self._turn()
        self._shared.keep_alive(lease)

    async def revoke(self, lease: str) -> None:
        """End the lease and delete what is bound to it; nothing happens if it is gone."""
        await self._turn()
        self._shared.revoke(lease)

    async def compact(self, revision: int) -> None:
        """Does nothing: of what was changed the last commits are kept in any case, and none before."""
        self._check_open()

    def renew_leases(self) -> None:
        """Give every lease that has not ended its full time again, at once, as etcd does when it elects a leader."""
        self._shared.renew_all()

    async def close(self) -> None:
        """End this handle and its watches; its leases live on until they expire."""
        self._closed = True
        for watcher in self._watchers:
            watcher.signal.fire()

    async def _turn(self) -> None:
        self._check_open()
        await asyncio.sleep(0)
        self._check_open()

    def _ended(self) -> bool:
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("this handle of the in-memory store is closed; open another")
