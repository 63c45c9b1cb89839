"""A commit as one statement: SQLite holds the file's lock for a single call, however late the process gets a turn.

Between two statements a busy interpreter lets another thread in only now and then, and a busy machine another process.
A commit of ten statements keeps the lock for as many turns, while all others wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

_JULIAN_DAY_OF_1970 = 2440587.5
_TABLES = """
CREATE TEMP TABLE wanted (place INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB, lease TEXT);
CREATE TEMP TABLE compared (key BLOB NOT NULL, version INTEGER NOT NULL);
CREATE TEMP TABLE outcome (before INTEGER NOT NULL, revision INTEGER NOT NULL);
CREATE TEMP VIEW request AS SELECT '' AS boot, 0.0 AS now, 0 AS keep_commits;
"""
# What does not simply succeed is left to who can say why.
_TRIGGER = """
CREATE TEMP TRIGGER carry_out INSTEAD OF INSERT ON request BEGIN
    SELECT RAISE(ABORT, 'not simple') WHERE
        EXISTS (SELECT 1 FROM leases WHERE boot != NEW.boot OR deadline <= NEW.now)
        OR EXISTS (SELECT 1 FROM compared WHERE version != coalesce(
            (SELECT entries.version FROM entries WHERE entries.key = compared.key), 0))
        OR EXISTS (SELECT 1 FROM wanted WHERE lease IS NOT NULL AND lease NOT IN (SELECT id FROM leases));
    INSERT INTO outcome SELECT revision, revision FROM head;
    INSERT INTO changes SELECT revision + 1, place, key, value FROM wanted, head
        WHERE value IS NOT NULL OR key IN (SELECT key FROM entries);
    DELETE FROM entries WHERE key IN (SELECT key FROM wanted);
    INSERT INTO entries SELECT key, value, revision + 1, lease FROM wanted, head WHERE value IS NOT NULL;
    UPDATE head SET revision = revision + 1, forgotten = max(forgotten, revision + 1 - NEW.keep_commits)
        WHERE EXISTS (SELECT 1 FROM changes WHERE changes.revision > head.revision);
    DELETE FROM changes WHERE revision <= (SELECT forgotten FROM head);
    UPDATE outcome SET revision = (SELECT revision FROM head);
    {hook}
END
"""

Operation = tuple[bytes, bytes | None, str | None]
"""A key, its value or None where it goes, and its lease."""


class NotSimple(Exception):
    """The commit is refused, or leases have to end first; nothing was changed."""


NOW = "(:asked + max(0, (julianday('now') - :asked_on) * 86400))"
"""The monotonic time, in SQL, once the lock is held: `asked`, and what has passed by the wall clock since `asked_on`.

A function of Python's would have to wait for its interpreter, and all others for it. Where the wall clock is set back
at that very moment, it is the time of asking.
"""


def asking(monotonic: Callable[[], float]) -> dict[str, object]:
    """What `NOW` is told of the moment before the lock is asked for."""
    return {"asked": monotonic(), "asked_on": time.time() / 86400 + _JULIAN_DAY_OF_1970}


class CommitStatement:
    """Commits over one connection."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        monotonic: Callable[[], float],
        before_commit: Callable[[], None] | None,
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        connection.execute("PRAGMA temp_store = MEMORY")
        if before_commit is not None:
            connection.create_function("before_commit", 0, before_commit)
        for statement in _TABLES.strip().splitlines():
            connection.execute(statement)
        connection.execute(_TRIGGER.format(hook="" if before_commit is None else "SELECT before_commit();"))

    def prepare(self, operations: Sequence[Operation], compares: Sequence[tuple[bytes, int]]) -> None:
        """Take what is to be done; of the file nothing is locked yet."""
        self._clear()
        rows = ((place, *operation) for place, operation in enumerate(operations))
        self._connection.executemany("INSERT INTO wanted VALUES (?, ?, ?, ?)", rows)
        self._connection.executemany("INSERT INTO compared VALUES (?, ?)", compares)

    def carry_out(self, boot: str, keep_commits: int) -> tuple[int, bool]:
        """Do it; gives the revision, and whether this commit has made it.

        Raises NotSimple, or sqlite3.OperationalError where the lock is not free.
        """
        try:
            self._connection.execute(
                f"INSERT INTO request SELECT :boot, {NOW}, :keep_commits",
                {"boot": boot, "keep_commits": keep_commits, **asking(self._monotonic)},
            )
        except sqlite3.IntegrityError as error:
            raise NotSimple from error
        before, revision = self._connection.execute("SELECT before, revision FROM outcome").fetchone()
        return revision, revision != before

    def _clear(self) -> None:
        for table in ("wanted", "compared", "outcome"):
            self._connection.execute(f"DELETE FROM {table}")
