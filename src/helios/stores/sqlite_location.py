"""A store in a file of this machine: whether it is there, and who is writing to it."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helios.ports.store import Store
from helios.stores.sqlite import SqliteStore

_WRITE_LOCK = 120  # the byte of the shared file that SQLite locks to write, in WAL mode
_FLOCK = "hhqqi4x"  # C's `struct flock`: type, whence, start, length, pid
_ASK_WHO = getattr(fcntl, "F_OFD_GETLK", None)  # Linux alone tells of locks that this process itself has, too
# By device and inode, and open for good: to close a file would end SQLite's own locks on it in this process.
_shared: dict[tuple[int, int], int] = {}


@dataclass(frozen=True, slots=True)
class SqliteLocation:
    """The `ports.location.StoreLocation` of an SQLite file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def spans_hosts(self) -> bool:
        """SQLite's file is for the processes of one machine."""
        return False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file and its folder."""
        return self.path.parent, self.path

    def exists(self) -> bool:
        """Whether the file is there."""
        return self.path.exists()

    async def open(self, *, expires: bool = True, before_commit: Callable[[], None] | None = None) -> Store:
        """The store in the file; its folder must be there."""
        return await SqliteStore.open(self.path, expires=expires, before_commit=before_commit)

    def writers(self) -> set[int]:
        """The processes that hold SQLite's lock for writing, by pid; none where the system does not tell."""
        if _ASK_WHO is None:
            return set()
        path = self.path.with_name(f"{self.path.name}-shm")
        try:
            status = path.stat()
            file = status.st_dev, status.st_ino
            if file not in _shared:
                _shared[file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _WRITE_LOCK, 1, 0)
            kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(_shared[file], _ASK_WHO, asked))
        except OSError:
            return set()
        return set() if kind == fcntl.F_UNLCK else {pid}
