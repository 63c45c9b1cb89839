"""The SQLite file behind the store: everything here blocks and belongs to one thread, but for `keep_alive`."""

from __future__ import annotations

import math
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from helios.errors import Conflict, StoreError, WatchLost
from helios.ports.store import Compare, Entry, Event, Put, Snapshot
from helios.ports.store import Delete as DeleteKey
from helios.stores.change_notifier import ring
from helios.stores.watching import lease_lost

_APPLICATION_ID = 0x48454C53  # "HELS", in the file's header
_SCHEMA_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WAL_BYTES = 4 * 1024 * 1024
_NAMED = 200  # keys, at most, by a glance
_CHECKPOINT_WAIT_S = 0.2
_LOCK_LOOK_S = 0.001

_SCHEMA = """
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, forgotten INTEGER NOT NULL);
INSERT INTO head VALUES (1, 1, 0);
CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, lease TEXT) WITHOUT ROWID;
CREATE INDEX entries_of_lease ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE leases (id TEXT PRIMARY KEY, ttl_s REAL NOT NULL, boot TEXT NOT NULL, deadline REAL NOT NULL);
CREATE TABLE changes (revision INTEGER, place INTEGER, key BLOB NOT NULL, value BLOB, PRIMARY KEY (revision, place));
"""

# A lease counts only in the boot that granted it: the monotonic clock starts over with each.
_ALIVE = "(lease IS NULL OR lease IN (SELECT id FROM leases WHERE boot = :boot AND deadline > :now))"

# Closing any descriptor of a file ends all of this process's POSIX locks on it, so while one handle creates the
# file (which opens and closes it outside SQLite), no other of this process may already have it open.
_creating = threading.Lock()


@dataclass(frozen=True, slots=True)
class Glance:
    """The revision, the keys that have changed (None: too many to name), and in how long the first lease ends."""

    revision: int
    changed: tuple[str, ...] | None
    due_s: float


class SqliteFile:
    """One connection that reads and writes, and one for leases. Every method raises StoreError where SQLite fails."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float],
        keep_commits: int,
        busy_timeout_s: float,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self._before_commit = before_commit
        self._monotonic = monotonic
        self.keep_commits = keep_commits
        self._busy_timeout_s = busy_timeout_s
        self._durable = True
        self._changed: list[str] = []  # the keys that the transaction which runs has changed
        self._boot = ""
        self._inode = (0, 0)
        self._wal = path.with_name(path.name + "-wal")
        self._checkpoint_at_bytes = _WAL_BYTES
        with self._explained("opened"):
            self._boot = _BOOT_ID.read_text().strip()
            _create_private(path)
            self._connection = self._connect()
        try:
            with self._explained("opened"):
                self._prepare()
                self._inode = _inode(path)
                self._renewals = self._connect()
                self._renewals.create_function("monotonic", 0, monotonic)
                self._renewals.execute("PRAGMA synchronous = NORMAL")
                self._renewals.execute("PRAGMA wal_autocheckpoint = 0")
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the connections; the last one of all processes also writes the log back into the file."""
        with self._explained("closed"):
            self._renewals.close()
            self._connection.close()

    def watcher(self) -> sqlite3.Connection:
        """A second connection that never waits for a lock, to `glance` by from any thread."""
        with self._explained("opened"):
            connection = self._connect()
            connection.execute("SELECT * FROM head").fetchall()  # What the first look has to open is opened here.
            connection.execute("PRAGMA busy_timeout = 0")
            return connection

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
            changes = by.execute("SELECT key FROM changes WHERE revision > ? LIMIT ?", (after, _NAMED + 1)).fetchall()
        named = after >= forgotten and len(changes) <= _NAMED
        return Glance(revision, tuple(_to_text(key) for (key,) in changes) if named else None, due_s)

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None."""
        with self._reading():
            row = self._connection.execute(
                f"SELECT value, version FROM entries WHERE key = :key AND {_ALIVE}",
                {"key": _to_blob(key), **self._alive()},
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
        return Snapshot(tuple(Entry(_to_text(key), value, version) for key, value, version in rows), revision)

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
            tuple(Event(_to_text(key), value, version) for _, key, value in group)
            for version, group in groupby(rows, key=lambda row: int(row[0]))
        ]
        return commits, max(after, revision)

    def commit(self, operations: Sequence[Put | DeleteKey], compares: Sequence[Compare]) -> int:
        """Do all operations as one; raises Conflict or LeaseLost, having done nothing."""
        with self._writing(durable=not all(isinstance(one, Put) and one.lease is not None for one in operations)):
            self._end_expired()
            for compare in compares:
                row = self._connection.execute(
                    "SELECT version FROM entries WHERE key = ?", (_to_blob(compare.key),)
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
        with self._writing(durable=False):
            self._connection.execute(
                "INSERT INTO leases VALUES (?, ?, ?, ?)", (lease, ttl_s, self._boot, self._monotonic() + ttl_s)
            )
        return lease

    def keep_alive(self, lease: str) -> None:
        """Extend the lease to its full time from now; raises LeaseLost if it is gone. For any one thread.

        It is one statement: a busy interpreter lets other threads in only now and then, and each statement more asks
        it once more. SQLite itself waits for the lock here, and the clock is read when it has it.
        """
        with self._explained("written"):
            self._check_in_place()
            extended = self._renewals.execute(
                "UPDATE leases SET deadline = monotonic() + ttl_s"
                " WHERE id = :lease AND boot = :boot AND deadline > monotonic()",
                {"lease": lease, "boot": self._boot},
            )
            with suppress(sqlite3.Error, OSError):
                self._bound_wal(self._renewals)
        if extended.rowcount == 0:
            raise lease_lost(lease)

    def revoke(self, lease: str) -> None:
        """End the lease and delete what is bound to it."""
        with self._writing():
            self._end_expired()
            self._end(lease)

    def expire(self) -> None:
        """Delete what is bound to expired leases. Costs one look where there is nothing to do."""
        with self._reading():
            due = self._expired()
        if due:
            with self._writing():
                self._end_expired()

    # What follows runs inside a transaction.

    def _expired(self) -> list[str]:
        rows = self._connection.execute(
            "SELECT id FROM leases WHERE boot != :boot OR deadline <= :now ORDER BY deadline, id", self._alive()
        )
        return [row[0] for row in rows.fetchall()]

    def _end_expired(self) -> None:
        for lease in self._expired():
            self._end(lease)

    def _end(self, lease: str) -> None:
        rows = self._connection.execute("SELECT key FROM entries WHERE lease = ? ORDER BY key", (lease,)).fetchall()
        self._apply([DeleteKey(_to_text(row[0])) for row in rows])
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
            key = _to_blob(operation.key)
            if isinstance(operation, Put):
                row = (key, operation.value, version, operation.lease)
                self._connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)
                changes.append((version, len(changes), key, operation.value))
            elif self._connection.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount:
                changes.append((version, len(changes), key, None))
        if not changes:
            return revision
        self._changed += [_to_text(key) for _, _, key, _ in changes]
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

    # Transactions and the opening of the file.

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._explained("read"):
            self._check_in_place()
            with self._transaction("BEGIN"):
                yield

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[None]:
        """A write transaction. Leases and what goes with them need not be durable: none outlives its boot."""
        with self._explained("written"):
            self._check_in_place()
            if durable != self._durable:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._changed = []
            with self._impatient(), self._transaction("BEGIN IMMEDIATE"):
                yield
                if self._before_commit is not None:
                    self._before_commit()
            # The commit is done: what fails from here on must not make it look as if it were not. Listeners also
            # look by themselves, and if the log cannot be written back now, a later commit sees to it.
            with suppress(sqlite3.Error, OSError):
                if self._changed:
                    ring(self.path, self._changed)
                self._bound_wal(self._connection)

    def _bound_wal(self, connection: sqlite3.Connection) -> None:
        """Write the log back into the file and empty it where it has grown.

        SQLite's own automatic checkpoints are off: they run beside other processes' commits, where releases
        before 3.51.3 can, rarely, lose commits. In the mode TRUNCATE a checkpoint keeps writers out. A reader that
        stands still makes it wait a little, and then it is tried again only when the log has grown further.
        """
        size = self._wal.stat().st_size
        if size < self._checkpoint_at_bytes:
            return
        self._checkpoint_at_bytes = size + _WAL_BYTES
        connection.execute(f"PRAGMA busy_timeout = {round(_CHECKPOINT_WAIT_S * 1000)}")
        try:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout_s * 1000)}")
        if not busy:
            self._checkpoint_at_bytes = _WAL_BYTES

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """Inside, SQLite does not wait for locks by itself.

        It would look ever more seldom, up to ten times a second. Routers acknowledge a fence all at once, and clients
        wait for the last of them.
        """
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):  # by now the commit may be done, and must not look as if it were not
                self._connection.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout_s * 1000)}")

    def _execute_patiently(self, statement: str) -> sqlite3.Cursor:
        """Try again for as long as a lock may take, where SQLite itself does not wait for it."""
        give_up_at = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                return self._connection.execute(statement)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= give_up_at:
                    raise
                time.sleep(_LOCK_LOOK_S)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._execute_patiently(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                # The first error is the one to tell; a rollback that fails has been done by SQLite itself.
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the store file {self.path} cannot be {what}: {error}{_advice(error)}") from error

    def _check_in_place(self) -> None:
        if _inode(self.path) != self._inode:
            raise StoreError(f"the store file {self.path} was replaced while it was open; restart this process")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )

    def _prepare(self) -> None:
        with self._transaction("BEGIN"):  # One look, as another process may be making the file ready just now.
            self._is_ready()  # Before anything is written: it may be another program's file.
        if self.path.stat().st_mode & 0o077:
            self.path.chmod(0o600)
        self._enter_wal_mode()
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        with self._transaction("BEGIN IMMEDIATE"):
            if not self._is_ready():
                for statement in _SCHEMA.strip().splitlines():
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _is_ready(self) -> bool:
        """Whether the tables are there; raises StoreError where it is not a file for this release of Helios."""
        application_id, version = self._pragma("application_id"), self._pragma("user_version")
        if application_id == _APPLICATION_ID:
            if version != _SCHEMA_VERSION:
                raise StoreError(f"{self.path} has format {version}, this release of Helios knows {_SCHEMA_VERSION}")
            return True
        if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreError(f"{self.path} is a database of another program; give Helios a folder of its own")
        return False

    def _enter_wal_mode(self) -> None:
        """Switch to WAL; SQLite does not wait for the lock that this needs where several processes begin at once."""
        if self._execute_patiently("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"the file system of {self.path} cannot share memory (needed for SQLite's WAL)")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])


def _create_private(path: Path) -> None:
    """Make sure that the file is there; only its owner may read it, and SQLite's side files take over its mode."""
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if not path.is_file():
        raise StoreError(f"the store file {path} is not a file")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _to_blob(key: str) -> bytes:
    # As UTF-8, SQLite orders keys as Python does; lone surrogates, which no text should have, pass too.
    return key.encode("utf-8", "surrogatepass")


def _to_text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _range(prefix: str) -> dict[str, bytes]:
    """The bounds of the keys that begin with `prefix`; no byte of UTF-8 is above 0xF4."""
    first = _to_blob(prefix)
    return {"first": first, "last": first + b"\xff"}


def _is_busy(error: BaseException) -> bool:
    # The low byte is the primary code: there are several kinds of busy.
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def _advice(error: BaseException) -> str:
    if isinstance(error, OSError):
        return ""
    if _is_busy(error):
        return " (another process has been writing to it for long; try again, or look for one that is stopped)"
    return _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "")


_ADVICE = {
    sqlite3.SQLITE_FULL: " (make room on its disk)",
    sqlite3.SQLITE_CORRUPT: " (it is damaged; stop Helios and bring back a copy)",
    sqlite3.SQLITE_NOTADB: " (it is damaged or another program's; stop Helios and bring back a copy)",
    sqlite3.SQLITE_CANTOPEN: " (look at its owner, its mode and its folder)",
    sqlite3.SQLITE_PERM: " (look at its owner, its mode and its folder)",
    sqlite3.SQLITE_READONLY: " (look at its owner, its mode and its folder)",
    sqlite3.SQLITE_IOERR: " (its disk fails)",
}
