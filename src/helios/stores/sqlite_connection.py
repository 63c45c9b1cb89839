"""A connection to the store's SQLite file: how the file is opened, and its transactions."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from helios.errors import StoreError
from helios.stores.change_notifier import ring
from helios.stores.sqlite_commit import CommitStatement, Operation

T = TypeVar("T")

_APPLICATION_ID = 0x48454C53  # "HELS", in the file's header
_SCHEMA_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WAL_BYTES = 4 * 1024 * 1024
_CHECKPOINT_WAIT_S = 0.2
_LOCK_LOOKS_S = (0.001, 0.03)  # at first, and after long
_LOCK_LOOK_PART = 1 / 8  # of what a process has waited so far, it waits until it looks again

_SCHEMA = """
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), revision INTEGER NOT NULL, forgotten INTEGER NOT NULL);
INSERT INTO head VALUES (1, 1, 0);
CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL, lease TEXT) WITHOUT ROWID;
CREATE INDEX entries_of_lease ON entries (lease) WHERE lease IS NOT NULL;
CREATE TABLE leases (id TEXT PRIMARY KEY, ttl_s REAL NOT NULL, boot TEXT NOT NULL, deadline REAL NOT NULL);
CREATE TABLE changes (revision INTEGER, place INTEGER, key BLOB NOT NULL, value BLOB, PRIMARY KEY (revision, place));
"""

# Closing any descriptor of a file ends all of this process's POSIX locks on it, so while one handle creates the
# file (which opens and closes it outside SQLite), no other of this process may already have it open.
_creating = threading.Lock()


class SqliteConnection:
    """One connection that reads and writes, and one for leases. Every method raises StoreError where SQLite fails."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float],
        busy_timeout_s: float,
        before_commit: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self._before_commit = before_commit
        self._monotonic = monotonic
        self._busy_timeout_s = busy_timeout_s
        self._durable = True
        self._changed: list[bytes] = []  # the keys that the transaction which runs has changed
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
                self._at_once = CommitStatement(self._connection, monotonic, before_commit)
                self._renewals = self._connect()
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

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._explained("read"):
            self._check_in_place()
            with self._transaction("BEGIN"):
                yield

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[None]:
        """A write transaction."""
        with self._committing(durable=durable), self._transaction("BEGIN IMMEDIATE"):
            yield
            if self._before_commit is not None:
                self._before_commit()

    def _commit_at_once(
        self,
        operations: Sequence[Operation],
        compares: Sequence[tuple[bytes, int]],
        keep_commits: int,
        *,
        durable: bool,
    ) -> int:
        """Commit by a single statement, and give the revision. Raises NotSimple."""
        with self._committing(durable=durable):
            self._at_once.prepare(operations, compares)
            revision, changed = self._patiently(lambda: self._at_once.carry_out(self._boot, keep_commits))
            if changed:
                self._changed = [key for key, *_ in operations]
        return revision

    @contextmanager
    def _committing(self, *, durable: bool) -> Iterator[None]:
        """Inside, something is committed, and `_changed` says what; who follows that is told afterwards.

        Leases and what goes with them need not be durable: none outlives its boot.
        """
        with self._explained("written"):
            self._check_in_place()
            if durable != self._durable:
                self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._changed = []
            with self._impatient():
                yield
            # The commit is done: what fails from here on must not make it look as if it were not. Listeners also
            # look by themselves, and if the log cannot be written back now, a later commit sees to it.
            with suppress(sqlite3.Error, OSError):
                if self._changed:
                    ring(self.path, map(to_text, self._changed))
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

        It would soon look only ten times a second. Routers acknowledge a fence all at once, and clients wait for the
        last of them.
        """
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):  # by now the commit may be done, and must not look as if it were not
                self._connection.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout_s * 1000)}")

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Try again for as long as a lock may take, where SQLite itself does not wait for it.

        Hundreds of processes that look every millisecond would leave no processor to the one that has the lock.
        """
        began_s = time.monotonic()
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                waited_s = time.monotonic() - began_s
                if not _is_busy(error) or waited_s >= self._busy_timeout_s:
                    raise
                often_s, seldom_s = _LOCK_LOOKS_S
                time.sleep(min(max(often_s, waited_s * _LOCK_LOOK_PART), seldom_s))

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._patiently(lambda: self._connection.execute(begin))
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
        application_id, version = (
            self._pragma("application_id"),
            self._pragma("user_version"),
        )
        if application_id == _APPLICATION_ID:
            if version != _SCHEMA_VERSION:
                raise StoreError(f"{self.path} has format {version}, this release of Helios knows {_SCHEMA_VERSION}")
            return True
        if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreError(f"{self.path} is a database of another program; give Helios a folder of its own")
        return False

    def _enter_wal_mode(self) -> None:
        """Switch to WAL; SQLite does not wait for the lock that this needs where several processes begin at once."""
        if self._patiently(lambda: self._connection.execute("PRAGMA journal_mode = WAL")).fetchone()[0] != "wal":
            raise StoreError(f"the file system of {self.path} cannot share memory (needed for SQLite's WAL)")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])


def to_blob(key: str) -> bytes:
    """A key as the file has it."""
    # As UTF-8, SQLite orders keys as Python does; lone surrogates, which no text should have, pass too.
    return key.encode("utf-8", "surrogatepass")


def to_text(key: bytes) -> str:
    """A key of the file as the store has it."""
    return key.decode("utf-8", "surrogatepass")


def _create_private(path: Path) -> None:
    """Make sure that the file is there; only its owner may read it, and SQLite's side files take over its mode."""
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if not path.is_file():
        raise StoreError(f"the store file {path} is not a file")


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


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
