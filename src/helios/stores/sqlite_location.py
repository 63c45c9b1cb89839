"""A store in a file of this machine: whether it is there, and who is writing to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helios.ports.store import Store
from helios.stores.sqlite import SqliteStore

_LOCKS = Path("/proc/locks")
_WRITE_LOCK = 120  # the byte of the shared file that SQLite locks to write, in WAL mode


@dataclass(frozen=True, slots=True)
class SqliteLocation:
    """The `ports.location.StoreLocation` of an SQLite file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

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
        try:
            inode = self.path.with_name(f"{self.path.name}-shm").stat().st_ino
            lines = _LOCKS.read_text().splitlines()
        except OSError:
            return set()
        found = set()
        for line in lines:
            # "7: POSIX  ADVISORY  WRITE 4711 fe:01:1234 120 120"; "->" in the second place is one that waits.
            fields = line.split()
            if len(fields) < 8 or fields[1] == "->" or fields[3] != "WRITE" or not fields[4].isdecimal():
                continue
            last = fields[7]
            covers = int(fields[6]) <= _WRITE_LOCK and (last == "EOF" or int(last) >= _WRITE_LOCK)
            if covers and fields[5].endswith(f":{inode}"):
                found.add(int(fields[4]))
        return found
