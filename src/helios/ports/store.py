"""The store of topology, sessions, migrations and leases: a small versioned key-value store with watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value; `version` is the revision of the commit that wrote it."""

    key: str
    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Entries in key order as they all stood at `revision`; watch from that revision to miss nothing."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """A key was written, or (value None) deleted or expired, by the commit `version`."""

    key: str
    value: bytes | None
    version: int


@dataclass(frozen=True, slots=True)
class Compare:
    """The commit goes through only if `key` is at this version; 0 means that it does not exist."""

    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`; with a lease, the key goes when the lease does. Without one, an earlier binding ends."""

    key: str
    value: bytes
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the key; nothing happens where it does not exist."""

    key: str


class Store(Protocol):
    """One interface, several homes. Every method may raise StoreError when the store does not answer.

    Revisions are positive, grow by at least one with each commit that changes something, and never go
    back, also over a restart.
    """

    async def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None."""

    async def list(self, prefix: str) -> Snapshot:
        """All entries whose keys begin with `prefix`."""

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        """Do all operations as one, durably, and give the revision they got.

        Raises Conflict, and does nothing, if a compare does not hold; LeaseLost if a Put names a lease that is
        gone. After any other StoreError the outcome is unknown: read again.
        """

    def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        """Every change under `prefix` with a revision greater than `after`, in order, as they come.

        One commit's events come together. Raises WatchLost if the changes since `after` are no longer known.
        """

    async def grant(self, ttl_s: float) -> str:
        """A new lease that lives for `ttl_s` seconds unless kept alive."""

    async def keep_alive(self, lease: str) -> None:
        """Extend the lease to its full time from now; raises LeaseLost if it is gone."""

    async def revoke(self, lease: str) -> None:
        """End the lease and delete what is bound to it; nothing happens if it is gone."""

    async def close(self) -> None:
        """Let go of everything; running watches end."""
