"""Electing one coordinator: a lease for who it is now, a term that only grows."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from dataclasses import dataclass

from helios.control.silence import Lapse
from helios.errors import Conflict, LeaseLost, StoreError
from helios.model.codec import decode
from helios.ports.clock import Clock
from helios.ports.following import next_change
from helios.ports.pulse import rest
from helios.ports.records import AGENTS, COORDINATOR, TERM, CoordinatorRecord, put_record
from helios.ports.store import Compare, Entry, Put, Store

_LOOK_AGAIN_S = 60.0  # beside the watch, which tells of an end at once
_STAGGER_S = 0.05  # within which candidates reach for a place that has become free


@dataclass(frozen=True, slots=True)
class Leadership:
    """A won election: valid as long as the lease lives, and nobody has a higher term.

    `lapse` tells of the node that coordinated before, if its lease has ended without its doing.
    """

    term: int
    term_version: int
    lease: str
    lease_s: float
    until_s: float  # by the clock that goes on while the machine is suspended, from before the lease was asked for
    lapse: Lapse | None = None


async def campaign(store: Store, clock: Clock, node: str, lease_s: float) -> Leadership:
    """Wait for the place to be free and take it. Raises StoreError.

    All candidates hear of it at the same time. Each has a moment of its own to reach for it, as the first of a hundred
    could else not renew its lease for all that the others write in vain.
    """
    turn_s = _STAGGER_S * zlib.crc32(node.encode()) / 2**32
    former: CoordinatorRecord | None = None
    while True:
        snapshot = await store.list(COORDINATOR)
        if snapshot.entries:
            former = decode(CoordinatorRecord, snapshot.entries[0].value)
            await next_change(store, COORDINATOR, snapshot.revision, _LOOK_AGAIN_S)
            await asyncio.sleep(turn_s)
        elif (leadership := await _take(store, clock, node, lease_s, former)) is not None:
            return leadership


async def resign(store: Store, leadership: Leadership) -> None:
    """Let the next one take over at once, and not think that this node had fallen silent. Raises StoreError."""
    term = await store.get(TERM)
    if term is not None and int(term.value) == leadership.term:
        following = [Put(TERM, str(leadership.term + 1).encode())]
        with contextlib.suppress(Conflict):
            await store.commit(following, compares=[Compare(TERM, term.version)])
    await store.revoke(leadership.lease)


async def _take(
    store: Store, clock: Clock, node: str, lease_s: float, former: CoordinatorRecord | None
) -> Leadership | None:
    before = await store.get(TERM)
    lapse = await _lapse(store, node, former, before)
    term = 1 if before is None else int(before.value) + 1
    until_s = clock.boottime() + lease_s
    lease = await store.grant(lease_s)
    operations = [
        put_record(COORDINATOR, CoordinatorRecord(node, term, lease_s), lease),
        Put(TERM, str(term).encode()),
    ]
    compares = [Compare(COORDINATOR, 0), Compare(TERM, 0 if before is None else before.version)]
    try:
        version = await store.commit(operations, compares=compares)
    except (Conflict, LeaseLost):
        await store.revoke(lease)
        return None
    return Leadership(term, version, lease, lease_s, until_s, lapse)


async def _lapse(store: Store, node: str, former: CoordinatorRecord | None, term: Entry | None) -> Lapse | None:
    """What the end of a lease tells of who had it; nothing where that one, or another after it, has resigned."""
    if former is None or former.node == node or not former.lease_s:
        return None
    if term is None or int(term.value) != former.term:
        return None
    heartbeat = await store.get(AGENTS + former.node)
    return Lapse(former.node, former.lease_s, 0 if heartbeat is None else heartbeat.version)


async def keep(store: Store, clock: Clock, leadership: Leadership) -> None:
    """Renew the lease for ever. Raises LeaseLost, or StoreError when it could not be renewed for its whole time."""
    until_s = leadership.until_s
    while True:
        await rest(leadership.lease_s / 3)
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
            until_s = asked_at_s + leadership.lease_s
