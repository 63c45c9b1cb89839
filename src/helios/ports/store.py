"""The store of topology, sessions, migrations and leases: a small versioned key-value store with watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

# What every home of the store takes, so that what works in one works in all: etcd, as it comes, has the narrowest
# bounds, 1.5 MB a request and 128 operations a transaction.
MAX_RECORD_BYTES = 1 << 20
MAX_COMMIT_BYTES = 1_400_000  # keys and values together
MAX_OPERATIONS = 100  # in one commit, compares included


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
    """Write `value`; with a lease, the key goes when the lease does. Without one, an earlier binding ends.

    What is soon written anew need not be `durable`: a machine that loses its power may lose it, and a store may spare
    the wait for its disk. With a lease, which no reboot of the store's machine outlives, nothing is.
    """

    key: str
    value: bytes
    lease: str | None = None
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the key; nothing happens where it does not exist."""

    key: str


Operation: TypeAlias = Put | Delete


def size_of(operation: Operation) -> int:
    """The bytes that an operation counts with in a commit."""
    return len(operation.key.encode()) + (len(operation.value) if isinstance(operation, Put) else 0)


def fits(operations: Sequence[Operation], compares: int = 0) -> bool:
    """Whether one commit takes all of these, beside as many compares."""
    return len(operations) + compares <= MAX_OPERATIONS and sum(map(size_of, operations)) <= MAX_COMMIT_BYTES


def batches(operations: Sequence[Operation], compares: int = 0) -> Iterator[Sequence[Operation]]:
    """The operations in their order, in commits that have room for as many compares each."""
    start = size = 0
    for end, operation in enumerate(operations):
        more = size_of(operation)
        if end > start and (end - start + compares >= MAX_OPERATIONS or size + more > MAX_COMMIT_BYTES):
            yield operations[start:end]
            start, size = end, 0
        size += more
    if start < len(operations):
        yield operations[start:]


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
        gone; TooBig beyond the limits above. After any other StoreError, or if it is cancelled, the outcome is
        unknown, and what was sent may even be carried out later, though never behind a commit that has changed a key
        which it compares, nor, without compares, one that it writes. Read again.
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

    async def compact(self, revision: int) -> None:
        """Nobody needs to watch from before `revision` any more: a store that keeps all changes may forget them."""

    async def close(self) -> None:
        """Let go of everything; running watches end."""
