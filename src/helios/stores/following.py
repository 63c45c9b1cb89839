"""Following one record for as long as a process lives, whatever happens to the store meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from helios.errors import StoreError, WatchLost
from helios.model.codec import decode
from helios.ports.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

_RETRY_S = 0.5


async def followed(store: Store, kind: type[T], key: str) -> AsyncGenerator[T, None]:
    """The record at `key` as it stands, and again each time it changes; ends when the store is closed.

    Values that follow each other closely may be left out, the last one never. What cannot be read is logged.
    """
    seen = 0
    while True:
        try:
            snapshot = await store.list(key)
            for entry in snapshot.entries:
                if entry.key == key and entry.version != seen:
                    seen = entry.version
                    yield decode(kind, entry.value)
            async with aclosing(store.watch(key, snapshot.revision)) as watch:
                async for events in watch:
                    for event in events:
                        if event.key == key and event.value is not None:
                            seen = event.version
                            yield decode(kind, event.value)
            return
        except WatchLost:
            continue
        except StoreError as error:
            log.warning("record not followed: key=%s error=%s", key, error)
        await asyncio.sleep(_RETRY_S)
