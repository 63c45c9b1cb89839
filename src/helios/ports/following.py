"""Following what stands in the store, as it is and as it changes, and waiting for a store that is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from helios.errors import StoreError, StoreUnreachable, WatchLost
from helios.model.codec import decode
from helios.ports.store import Event, Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Update:
    """What has changed under a prefix up to `revision`; when `complete`, all that stands there: the rest is gone."""

    events: tuple[Event, ...]
    complete: bool
    revision: int


async def once_answered(work: Callable[[], Awaitable[T]], tell: Callable[[str], None] | None) -> T:
    """What the work gives, as soon as the store answers: it is begun anew until then.

    That it waits, and that it goes on, is told once each. Without `tell` it does not wait.
    """
    told = False
    while True:
        try:
            result = await work()
        except StoreUnreachable as error:
            if tell is None:
                raise
            if not told:
                tell(f"waiting for the store: {error}")
            told = True
            await asyncio.sleep(_RETRY_S)
        else:
            if told and tell is not None:
                tell("the store answers: going on")
            return result


async def updates(store: Store, prefix: str) -> AsyncGenerator[Update, None]:
    """What stands under `prefix`, then every change in order; lists again where changes were lost.

    Ends when the store is closed. Raises StoreError when the store does not answer.
    """
    while True:
        snapshot = await store.list(prefix)
        entries = tuple(Event(entry.key, entry.value, entry.version) for entry in snapshot.entries)
        yield Update(entries, complete=True, revision=snapshot.revision)
        try:
            async with aclosing(store.watch(prefix, snapshot.revision)) as watch:
                async for events in watch:
                    yield Update(events, complete=False, revision=events[0].version)
            return
        except WatchLost:
            continue


async def next_change(store: Store, prefix: str, after: int, timeout_s: float) -> None:
    """Return when something under `prefix` has changed since the revision `after`, or the time is over.

    Changes that were lost count as a change. Raises StoreError when the store does not answer.
    """
    try:
        async with asyncio.timeout(max(timeout_s, 0.001)), aclosing(store.watch(prefix, after)) as watch:
            await anext(watch, None)
    except (TimeoutError, WatchLost):
        pass


async def lasting_updates(store: Store, prefix: str, retry_s: float = _RETRY_S) -> AsyncGenerator[Update, None]:
    """The same, whatever happens to the store meanwhile: lists again once it answers. That it does not is logged."""
    while True:
        try:
            async with aclosing(updates(store, prefix)) as following:
                async for update in following:
                    yield update
            return
        except StoreError as error:
            logger.warning("store not followed for now: prefix=%s error=%s", prefix, error)
        await asyncio.sleep(retry_s)


async def followed(store: Store, kind: type[T], key: str, retry_s: float = _RETRY_S) -> AsyncGenerator[T, None]:
    """The record at `key` as it stands, and again each time it changes, whatever happens to the store meanwhile.

    Ends when the store is closed. Values that follow each other closely may be left out, the last one never. What
    cannot be read is logged.
    """
    seen = 0
    async with aclosing(lasting_updates(store, key, retry_s)) as following:
        async for update in following:
            events = [event for event in update.events if event.key == key]
            if not events or events[-1].value is None or events[-1].version == seen:
                continue
            seen = events[-1].version
            try:
                record = decode(kind, events[-1].value)
            except StoreError as error:
                logger.warning("record not understood: key=%s error=%s", key, error)
                continue
            yield record
