"""The SQLite file behind the store: everything here blocks and belongs to one thread, but for `keep_alive`."""

from __future__ import annotations

import math
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from helios.errors import Conflict, WatchLost
from helios.ports.store import Compare, Entry, Event, Put, Snapshot
from helios.ports.store import Delete as DeleteKey
from helios.stores.sqlite_commit import NOW, NotSimple, Operation, asking
from helios.stores.sqlite_connection import SqliteConnection, to_blob, to_text
from helios.stores.watching import lease_lost

_NAMED = 200  # keys, at most, by a glance

# A lease counts only in the boot that granted it: the monotonic clock starts over with each.
_ALIVE = "(lease IS NULL OR lease IN (SELECT id FROM leases WHERE boot = :boot AND deadline > :now))"


@dataclass(frozen=True, slots=True)
class Glance:
    """The revision, the keys that have changed (None: too many to name), and in how long the first lease ends."""

    revision: int
    changed: tuple[str, ...] | None
    due_s: float


class SqliteFile(SqliteConnection):
    """What the store does in its file. Every method raises StoreError where SQLite fails."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float],
        keep_commits: int,
        busy_timeout_s: float,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            path,
            monotonic=monotonic,
            busy_timeout_s=busy_timeout_s,
            before_commit=before_commit,
        )
        self.keep_commits = keep_commits

    def glance(self, by: sqlite3.Connection, after: int) -> Glance:
        """What has happened since the revision `after`; cheap enough for an event loop. `by` is a `watcher`."""
        with self._explained("looked at"):
            self._check_in_place()
            revision, forgotten, due_s = by.execute(
                "SELECT revision, forgotten,"
                " (SELECT MIN(CASE boot WHEN :boot THEN deadline - :now ELSE 0.0 END) FROM leases) FROM head",
                self._alive(),
            ).fetchone()
            due_s = math.inf if due_s is None else due_s
            if revision == after:
                return Glance(revision, (), due_s)
            changes = by.execute(
                "SELECT key FROM changes WHERE revision > ? LIMIT ?",
                (after, _NAMED + 1),
            ).fetchall()
        named = after >= forgotten and len(changes) <= _NAMED
        return Glance(
            revision,
            tuple(to_text(key) for (key,) in changes) if named else None,
            due_s,
        )

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None."""
        with self._reading():
            row = self._connection.execute(
                f"SELECT value, version FROM entries WHERE key = :key AND {_ALIVE}",
                {"key": to_blob(key), **self._alive()},
            ).fetchone()
        return None if row is None else Entry(key, row[0], row[1])

    def snapshot(self, prefix: str) -> Snapshot:
        """All entries whose keys begin with `prefix`."""
        with self._reading():
            revision, _ = self._head()
            rows = self._connection.execute(
                "SELECT key, value, version FROM entries"
                f" WHERE key >= :first AND key < :last AND {_ALIVE} ORDER BY key",
                {**_range(prefix), **self._alive()},
            ).fetchall()
        return Snapshot(
            tuple(Entry(to_text(key), value, version) for key, value, version in rows),
            revision,
        )

    def events_after(self, prefix: str, after: int) -> tuple[list[tuple[Event, ...]], int]:
        """The commits after the revision `after` that touched `prefix`, and the revision up to which that is all.

        Raises WatchLost if not all of them are known any more.
        """
        with self._reading():
            revision, forgotten = self._head()
            if after < forgotten:
                raise WatchLost(f"{self.path} knows the changes after {forgotten} only, not after {after}; list again")
            rows = self._connection.execute(
                "SELECT revision, key, value FROM changes WHERE revision > :after AND key >= :first AND key < :last"
                " ORDER BY revision, place",
                {**_range(prefix), "after": after},
            ).fetchall()
        commits = [
            tuple(Event(to_text(key), value, version) for _, key, value in group)
            for version, group in groupby(rows, key=lambda row: int(row[0]))
        ]
        return commits, max(after, revision)

    def commit(self, operations: Sequence[Put | DeleteKey], compares: Sequence[Compare]) -> int:
        """Do all operations as one; raises Conflict or LeaseLost, having done nothing."""
        durable = any(map(_is_durable, operations))
        if len({operation.key for operation in operations}) == len(operations):
            wanted = [_wanted(operation) for operation in operations]
            compared = [(to_blob(compare.key), compare.version) for compare in compares]
            with suppress(NotSimple):
                return self._commit_at_once(wanted, compared, self.keep_commits, durable=durable)
        with self._writing(durable=durable):
            self._end_expired()
            for compare in compares:
                row = self._connection.execute(
                    "SELECT version FROM entries WHERE key = ?",
                    (to_blob(compare.key),),
                ).fetchone()
                version = 0 if row is None else row[0]
                if version != compare.version:
                    raise Conflict(f"{compare.key!r} is at version {version}, not {compare.version}; read it again")
            for operation in operations:
                if isinstance(operation, Put) and operation.lease is not None:
                    self._check_lease(operation.lease)
            return self._apply(operations)

    def grant(self, ttl_s: float) -> str:
        """A new lease."""
        lease = secrets.token_hex(8)

        def attempt() -> None:
            row = (lease, ttl_s, self._boot, self._monotonic() + ttl_s)
            self._connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", row)

        with self._committing(durable=False):
            self._patiently(attempt)
        return lease

    def keep_alive(self, lease: str) -> None:
        """Extend the lease to its full time from now; raises LeaseLost if it is gone. For any one thread.

        SQLite itself waits for the lock here: this thread needs no turn of the interpreter while it does.
        """
        with self._explained("written"):
            self._check_in_place()
            extended = self._renewals.execute(
                f"UPDATE leases SET deadline = {NOW} + ttl_s WHERE id = :lease AND boot = :boot AND deadline > {NOW}",
                {"lease": lease, "boot": self._boot, **asking(self._monotonic)},
            )
            with suppress(sqlite3.Error, OSError):
                self._bound_wal(self._renewals)
        if extended.rowcount == 0:
            raise lease_lost(lease)

    def revoke(self, lease: str) -> None:
        """End the lease and delete what is bound to it."""
        with self._writing(durable=False):
            self._end_expired()
            self._end(lease)

    def expire(self) -> None:
        """Delete what is bound to expired leases. Costs one look where there is nothing to do."""
        with self._reading():
            due = self._expired()
        if due:
            with self._writing(durable=False):
                self._end_expired()

    # What follows runs inside a transaction.

    def _expired(self) -> list[str]:
        rows = self._connection.execute(
            "SELECT id FROM leases WHERE boot != :boot OR deadline <= :now ORDER BY deadline, id",
            self._alive(),
        )
        return [row[0] for row in rows.fetchall()]

    def _end_expired(self) -> None:
        for lease in self._expired():
            self._end(lease)

    def _end(self, lease: str) -> None:
        rows = self._connection.execute("SELECT key FROM entries WHERE lease = ? ORDER BY key", (lease,)).fetchall()
        self._apply([DeleteKey(to_text(row[0])) for row in rows])
        self._connection.execute("DELETE FROM leases WHERE id = ?", (lease,))

    def _check_lease(self, lease: str) -> None:
        # Expired leases are gone by now, so that one which is there is alive.
        if self._connection.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is None:
            raise lease_lost(lease)

    def _apply(self, operations: Sequence[Put | DeleteKey]) -> int:
        revision, forgotten = self._head()
        version = revision + 1
        changes: list[tuple[int, int, bytes, bytes | None]] = []
        for operation in operations:
            key = to_blob(operation.key)
            if isinstance(operation, Put):
                row = (key, operation.value, version, operation.lease)
                self._connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)
                changes.append((version, len(changes), key, operation.value))
            elif self._connection.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount:
                changes.append((version, len(changes), key, None))
        if not changes:
            return revision
        self._changed += [key for _, _, key, _ in changes]
        forgotten = max(forgotten, version - self.keep_commits)
        self._connection.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", changes)
        self._connection.execute("DELETE FROM changes WHERE revision <= ?", (forgotten,))
        self._connection.execute("UPDATE head SET revision = ?, forgotten = ?", (version, forgotten))
        return version

    def _head(self) -> tuple[int, int]:
        revision, forgotten = self._connection.execute("SELECT revision, forgotten FROM head").fetchone()
        return revision, forgotten

    def _alive(self) -> dict[str, object]:
        return {"boot": self._boot, "now": self._monotonic()}


def _range(prefix: str) -> dict[str, bytes]:
    """The bounds of the keys that begin with `prefix`; no byte of UTF-8 is above 0xF4."""
    first = to_blob(prefix)
    return {"first": first, "last": first + b"\xff"}


def _wanted(operation: Put | DeleteKey) -> Operation:
    if isinstance(operation, Put):
        return to_blob(operation.key), operation.value, operation.lease
    return to_blob(operation.key), None, None


def _is_durable(operation: Put | DeleteKey) -> bool:
    return not isinstance(operation, Put) or (operation.durable and operation.lease is None)
