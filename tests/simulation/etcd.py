"""The store as etcd has it: leases of whole seconds that an election renews, no answers while nobody leads it.

What `stores/etcd.py` does on top is done here, too: a write without a compare is compared with what was there a moment
before, and what only reads is asked again. So a write that was given up and is carried out later changes nothing newer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from random import Random
from typing import Any, TypeVar

from tests.simulation.loop import SimLoop
from tests.simulation.store import OnCommit, SimStore

from helios.errors import Conflict, StoreError, WatchLost
from helios.ports.store import Compare, Delete, Entry, Event, Put, Snapshot
from helios.stores.memory import MemoryStore

T = TypeVar("T")
_TIMEOUT_S = 8.0
_LEAST_TTL_S = 2
_LEASE_LATE_S = 0.5
_RENEW_S = 0.5
_SURVIVES = 0.5  # how often a request is carried out that came while nobody led


class SimEtcd:
    """The cluster behind the handles of all processes."""

    def __init__(self, inner: MemoryStore, loop: SimLoop, random: Random) -> None:
        self.inner = inner
        self.revision = 0  # of the last commit
        self.compacted = 0  # of what was before, nothing is known any more
        self._loop = loop
        self._random = random
        self._leader: asyncio.Future[None] | None = None  # while it is awaited
        self.broken: asyncio.Future[None] = loop.create_future()  # done when the watches of today break

    @property
    def led(self) -> bool:
        """Whether it answers."""
        return self._leader is None

    def lose_leader(self) -> None:
        """Answer nothing, and end all watches, until `elect`."""
        if self._leader is not None:
            return
        self._leader = self._loop.create_future()
        self.broken.set_result(None)
        self.broken = self._loop.create_future()
        self._keep_leases()

    def elect(self) -> None:
        """Have a leader again, who gives every lease its full time."""
        leader, self._leader = self._leader, None
        self.inner.renew_leases()
        if leader is not None:
            leader.set_result(None)

    def compact(self, revision: int) -> None:
        """Forget what was before: watches that begin there are lost, those that go on are not."""
        self.compacted = max(self.compacted, revision)

    def longest_lease_s(self, ttl_s: float) -> float:
        """How long a lease may live that is not renewed."""
        return max(math.ceil(ttl_s), _LEAST_TTL_S) + _LEASE_LATE_S

    async def passes(self) -> bool:
        """Wait for a leader; whether a request that came meanwhile is carried out."""
        if self._leader is None:
            return True
        await asyncio.shield(self._leader)
        return self._random.random() < _SURVIVES

    def _keep_leases(self) -> None:
        """Nobody ends a lease while nobody leads."""
        if self._leader is not None:
            self.inner.renew_leases()
            self._loop.send_later(_RENEW_S, self._keep_leases)


class SimEtcdStore(SimStore):
    """A process's handle of it."""

    timeout_s = _TIMEOUT_S

    def __init__(self, etcd: SimEtcd, loop: SimLoop, random: Random, late: float, on_commit: OnCommit) -> None:
        super().__init__(etcd.inner.open(), loop, random, late, on_commit)
        self._etcd = etcd

    async def get(self, key: str) -> Entry | None:
        return await self._read(lambda: self._inner.get(key))

    async def list(self, prefix: str) -> Snapshot:
        return await self._read(lambda: self._inner.list(prefix))

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        blind = [] if compares else [operation.key for operation in operations]
        while True:
            present = await self._ask(lambda: self._versions(blind)) if blind else []
            try:
                return await self._ask(lambda: self._commit(operations, [*compares, *present]))  # noqa: B023
            except Conflict as conflict:
                if not any(repr(key) in str(conflict) for key in blind):
                    raise

    async def grant(self, ttl_s: float) -> str:
        whole_s = max(math.ceil(ttl_s), _LEAST_TTL_S) + self._random.uniform(0, _LEASE_LATE_S)
        return await self._ask(lambda: self._inner.grant(whole_s))

    async def compact(self, revision: int) -> None:
        async def compact() -> None:
            self._etcd.compact(revision)

        await self._ask(compact)

    async def _watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        etcd = self._etcd
        if not etcd.led:
            await asyncio.sleep(self._delay_s())
            raise StoreError("etcd has no leader")
        if after + 1 < etcd.compacted:
            raise WatchLost(f"changes after {after} are known from {etcd.compacted} on only; list again")
        broken = etcd.broken
        async with aclosing(super()._watch(prefix, after)) as watch:
            while True:
                coming = asyncio.ensure_future(anext(watch, None))
                either: set[asyncio.Future[Any]] = {coming, broken}
                try:
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        raise StoreError("the watch broke: etcd has no leader")
                    events = coming.result()
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.wait({coming})
                if events is None:
                    return
                yield events

    async def _read(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await self._ask(act)
        except StoreError:
            return await self._ask(act)

    async def _versions(self, keys: Sequence[str]) -> Sequence[Compare]:
        entries = [await self._inner.get(key) for key in keys]
        return [Compare(key, 0 if entry is None else entry.version) for key, entry in zip(keys, entries, strict=True)]

    async def _commit(self, operations: Sequence[Put | Delete], compares: Sequence[Compare]) -> int:
        self._etcd.revision = await super()._commit(operations, compares)
        return self._etcd.revision

    async def _carry_out(self, work: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
        if await self._etcd.passes():
            await super()._carry_out(work, answer)
        else:
            work.close()
