"""What every home of the store needs around commits and watches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from helios.errors import InvalidInput, LeaseLost, TooBig
from helios.ports.store import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    MAX_RECORD_BYTES,
    Compare,
    Delete,
    Put,
    size_of,
)


class Signal:
    """Tells waiting coroutines of one event loop that there may be news; a call between two waits is not lost.

    Read `count` before looking, look, then `wait` with what was read. An abandoned waiter leaves nothing behind.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiters: dict[asyncio.Future[None], None] = {}  # A dict, so that waking keeps the order of waiting.

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    def fire(self) -> None:
        """Wake all who wait."""
        self.count += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, seen: int) -> None:
        """Return once `fire` has been called since `count` was `seen`."""
        if self.count != seen:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            del self._waiters[waiter]


def check_commit(operations: Sequence[Put | Delete], compares: Sequence[Compare]) -> None:
    """Raise TooBig beyond the limits of the store.

    Raise InvalidInput if a key is named twice: no order of the two would be right in every home of the store.
    """
    seen: set[str] = set()
    size = 0
    for operation in operations:
        if operation.key in seen:
            raise InvalidInput(f"one commit names the key {operation.key!r} twice; name it once")
        seen.add(operation.key)
        size += size_of(operation)
        if isinstance(operation, Put) and len(operation.value) > MAX_RECORD_BYTES:
            raise TooBig(f"the record {operation.key!r} has {len(operation.value):,} bytes, of {MAX_RECORD_BYTES:,}")
    count = len(operations) + len(compares)
    if count > MAX_OPERATIONS:
        raise TooBig(f"a commit has {count} operations and compares, of {MAX_OPERATIONS}: write in several")
    if size > MAX_COMMIT_BYTES:
        raise TooBig(f"a commit has {size:,} bytes, of {MAX_COMMIT_BYTES:,}: write in several")


def check_ttl(ttl_s: float) -> None:
    """Raise InvalidInput unless a lease can live that long."""
    if not ttl_s > 0:
        raise InvalidInput(f"a lease cannot live for {ttl_s} seconds; give a positive number")


def lease_lost(lease: str) -> LeaseLost:
    """The error for a lease that is gone."""
    return LeaseLost(f"the lease {lease} has expired or was revoked; grant a new one")
