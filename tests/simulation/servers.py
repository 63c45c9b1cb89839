"""Data servers of a world: in memory, with a disk that is synced once a second, and an eye on who writes what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from helios.engines.memory import MemoryServer
from helios.engines.memory.connection import MemoryConnection
from helios.ports.engine import Dumped

ADMIN = ("helios-admin", "password")


class Audit(Protocol):
    """Looks at each access in the moment in which a server carries it out."""

    def client(self, server: SimServer, user: str, command: bytes, key: bytes) -> None:
        """A router's command for a key."""

    def mover(self, server: SimServer, deed: str, keys: Sequence[bytes]) -> None:
        """A coordinator writes or deletes keys."""


class SimServer(MemoryServer):
    """A server whose accesses are audited. `shard` is the id of the node behind which it runs."""

    def __init__(self, shard: str, *, wall: Callable[[], float], audit: Audit, aof_fsync: str) -> None:
        super().__init__(f"server of {shard}", wall=wall, admin=ADMIN, aof_fsync=aof_fsync)
        self.shard = shard
        self.audit = audit
        self.synced_at = 0.0
        self.frozen = False
        self._seconds = wall
        self._numbered: dict[int, MemoryConnection] = {}
        self._last_number = 0

    def enter(self, connection: MemoryConnection) -> None:
        """Give a router's connection the number by which it can be ended."""
        self._last_number += 1
        self._numbered[self._last_number] = connection

    def number(self, connection: MemoryConnection) -> int:
        """The number of a router's connection."""
        return next(number for number, other in self._numbered.items() if other is connection)

    def kill(self, number: int) -> int:
        """End the connection of that number; how many there were."""
        connection = self._numbered.pop(number, None)
        if connection is None:
            return 0
        self.end(connection)
        return 1

    def remove(self, key: bytes) -> int:
        """A client's deletion; how many keys there were."""
        return super().delete([key])

    def delete(self, keys: Sequence[bytes]) -> int:
        """A coordinator's deletion."""
        self.audit.mover(self, "deletes", keys)
        return super().delete(keys)

    def restore(self, items: Sequence[tuple[bytes, Dumped]], replace: bool) -> list[bool]:
        """A coordinator's copies."""
        self.audit.mover(self, "writes", [key for key, _ in items])
        return super().restore(items, replace)

    def begin_pieces(self, key: bytes, patch: bool) -> int:
        """A coordinator begins a copy in pieces."""
        self.audit.mover(self, "begins to write", [key])
        return super().begin_pieces(key, patch)

    def put_piece(self, key: bytes, start: int, piece: bytes) -> None:
        """A coordinator's copy of a piece."""
        self.audit.mover(self, "writes a piece of", [key])
        super().put_piece(key, start, piece)

    def end_pieces(self, key: bytes, length: int, expire_at_ms: int | None) -> None:
        """A coordinator ends a copy in pieces."""
        self.audit.mover(self, "ends writing", [key])
        super().end_pieces(key, length, expire_at_ms)

    def sync(self) -> bool:
        """Bring everything to disk."""
        done = super().sync()
        if done:
            self.synced_at = self._seconds()
        return done

    def crash(self, *, lose_unsynced: bool = False) -> None:
        """End the server; with `lose_unsynced` as by a power cut."""
        super().crash(lose_unsynced=lose_unsynced)
        self.frozen = False
        self._numbered.clear()

    def freeze(self) -> None:
        """Let nothing be carried out until `thaw`."""
        super().freeze()
        self.frozen = True

    def thaw(self) -> None:
        """Go on."""
        super().thaw()
        self.frozen = False

    def flush(self) -> None:
        """A coordinator empties the server."""
        self.audit.mover(self, "flushes", self.keys())
        super().flush()
