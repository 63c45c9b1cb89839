"""Electing one coordinator: a lease for who it is now, a term that only grows."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from helios.errors import Conflict, LeaseLost, StoreError
from helios.ports.clock import Clock
from helios.ports.following import next_change
from helios.ports.records import COORDINATOR, TERM, CoordinatorRecord, put_record
from helios.ports.store import Compare, Put, Store

_LOOK_AGAIN_S = 5.0  # beside the watch, which tells of an end at once
_STAGGER_S = 0.05  # within which candidates reach for a place that has become free


@dataclass(frozen=True, slots=True)
class Leadership:
    """A won election: valid as long as the lease lives, and nobody has a higher term."""

    term: int
    term_version: int
    lease: str
    until_s: float  # by the clock that goes on while the machine is suspended, from before the lease was asked for


async def campaign(store: Store, clock: Clock, node: str, lease_ttl_s: float) -> Leadership:
    """Wait for the place to be free and take it. Raises StoreError.

    All candidates hear of it at the same time. Each has a moment of its own to reach for it, as the first of a hundred
    could else not renew its lease for all that the others write in vain.
    """
    turn_s = _STAGGER_S * zlib.crc32(node.encode()) / 2**32
    while True:
        leadership = await _try(store, clock, node, lease_ttl_s)
        if leadership is not None:
            return leadership
        await _await_vacancy(store)
        await asyncio.sleep(turn_s)


async def _try(store: Store, clock: Clock, node: str, lease_ttl_s: float) -> Leadership | None:
    if await store.get(COORDINATOR) is not None:
        return None
    before = await store.get(TERM)
    term = 1 if before is None else int(before.value) + 1
    until_s = clock.boottime() + lease_ttl_s
    lease = await store.grant(lease_ttl_s)
    operations = [
        put_record(COORDINATOR, CoordinatorRecord(node, term), lease),
        Put(TERM, str(term).encode()),
    ]
    compares = [Compare(COORDINATOR, 0), Compare(TERM, 0 if before is None else before.version)]
    try:
        version = await store.commit(operations, compares=compares)
    except (Conflict, LeaseLost):
        await store.revoke(lease)
        return None
    return Leadership(term, version, lease, until_s)


async def _await_vacancy(store: Store) -> None:
    snapshot = await store.list(COORDINATOR)
    if not snapshot.entries:
        return
    await next_change(store, COORDINATOR, snapshot.revision, _LOOK_AGAIN_S)


async def keep(store: Store, clock: Clock, leadership: Leadership, lease_ttl_s: float) -> None:
    """Renew the lease for ever. Raises LeaseLost, or StoreError when it could not be renewed for its whole time."""
    until_s = leadership.until_s
    while True:
        await asyncio.sleep(lease_ttl_s / 4)
        asked_at_s = clock.boottime()
        try:
            async with asyncio.timeout(max(until_s - asked_at_s, 0.001)):
                await store.keep_alive(leadership.lease)
        except LeaseLost:
            raise
        except (StoreError, TimeoutError) as error:
            if clock.boottime() >= until_s:
                raise LeaseLost(f"the coordinator's lease could not be renewed in time: {error}") from error
        else:
            until_s = asked_at_s + lease_ttl_s
