"""What a server in memory holds, and what of it is on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5

from helios.errors import EngineError, PayloadRefused
from helios.ports.engine import Dumped, StreamState

# What values begin with that stand for streams, and for those of them that have consumer groups. The last id follows,
# and a space.
STREAM = b"\x00stream"
GROUPED = STREAM + b" with groups"


@dataclass(frozen=True, slots=True)
class Stored:
    """The value of a key, and when it ends."""

    value: bytes
    expire_at_ms: int | None


class Keyspace:
    """The keys and libraries of a server. A key changes by `_write` alone, libraries by `replace_libraries`."""

    def __init__(self, name: str, *, wall: Callable[[], float], aof_fsync: str, version: int) -> None:
        self.name = name
        self.aof_fsync = aof_fsync
        self.version = version
        self.libraries: Mapping[bytes, bytes] = {}  # of functions, code by name; they are kept and never run
        self._wall = wall
        self._entries: dict[bytes, Stored] = {}
        self._unsynced: dict[bytes, Stored | None] = {}  # what these keys were when the disk last had everything
        self._unsynced_libraries: Mapping[bytes, bytes] | None = None  # the same of libraries

    def read(self, key: bytes) -> tuple[bytes | None, int | None]:
        """The value of a key and when it ends; None where there is none."""
        entry = self._live(key)
        return (None, None) if entry is None else (entry.value, entry.expire_at_ms)

    def write(self, key: bytes, value: bytes | None, expire_at_ms: int | None, *, named: bool = True) -> None:
        """Give a key this value and end, or remove it (None). Not `named`: a change of which servers tell nobody."""
        self._write(key, None if value is None else Stored(value, expire_at_ms), named=named)
        self._live(key)

    def stream_state(self, key: bytes) -> StreamState | None:
        """What the key knows as a stream: its last id, and whether it has consumer groups."""
        value = self.get(key) or b""
        if not value.startswith(STREAM):
            return None
        last_id = value.removeprefix(GROUPED).removeprefix(STREAM).partition(b" ")[0]
        return StreamState(last_id, 0, b"0-0", int(value.startswith(GROUPED)))

    def stream_mark(self, key: bytes) -> bytes | None:
        """A mark of the value, where that stands for a stream."""
        value = self.get(key) or b""
        return md5(value, usedforsecurity=False).digest() if value.startswith(STREAM) else None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None where there is none."""
        entry = self._live(key)
        return None if entry is None else entry.value

    def set(self, key: bytes, value: bytes, expire_at_ms: int | None = None) -> None:
        """Give a key a value and a time to end."""
        self._write(key, Stored(value, expire_at_ms))
        self._live(key)

    def incr(self, key: bytes) -> int:
        """Add one to a decimal number (0 where there is none); its time to end stays."""
        entry = self._live(key)
        try:
            number = int(entry.value if entry else b"0") + 1
        except ValueError:
            raise EngineError(f"{self.name} refused INCR of {key!r}: the value is not a number") from None
        self._write(key, Stored(b"%d" % number, entry.expire_at_ms if entry else None))
        return number

    def append(self, key: bytes, value: bytes) -> int:
        """Add to the end of a value, whose time to end stays; its length then."""
        entry = self._live(key)
        whole = (entry.value if entry else b"") + value
        self._write(key, Stored(whole, entry.expire_at_ms if entry else None))
        return len(whole)

    def delete(self, keys: Sequence[bytes]) -> int:
        """Remove keys; the number that existed."""
        there = [key for key in dict.fromkeys(keys) if self._live(key) is not None]
        for key in there:
            self._write(key, None)
        return len(there)

    def keys(self) -> list[bytes]:
        """Every key."""
        self._expire_all()
        return list(self._entries)

    def scan(self, cursor: int, count: int) -> tuple[int, list[bytes]]:
        """The next cursor (0 = the end) and some keys, in the order of positions that never change."""
        self._expire_all()
        ahead = sorted((position, key) for key in self._entries if (position := _position(key)) >= cursor)
        if len(ahead) <= count:
            return 0, [key for _, key in ahead]
        last = ahead[max(count, 1) - 1][0]
        return last + 1, [key for position, key in ahead if position <= last]

    def dump(self, keys: Sequence[bytes]) -> list[Dumped | None]:
        """For each key its value, written as this server's version writes it."""
        entries = [self._live(key) for key in keys]
        return [
            Dumped(b"%d\n%s" % (self.version, e.value), e.expire_at_ms, e.value.startswith(STREAM)) if e else None
            for e in entries
        ]

    def digests(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a digest of its value and end, whatever the server's version."""
        entries = [self._live(key) for key in keys]
        return [
            md5(b"%r %b" % (e.expire_at_ms, e.value), usedforsecurity=False).digest() if e else None for e in entries
        ]

    def sample_payload(self) -> bytes:
        """An empty value as this server's version writes it."""
        return b"%d\n" % self.version

    def accepts(self, payload: bytes) -> bool:
        """Whether this server's version can read a payload."""
        version, newline, _ = payload.partition(b"\n")
        return bool(newline) and version.isdigit() and int(version) <= self.version

    def restore(self, items: Sequence[tuple[bytes, Dumped]], replace: bool) -> list[bool]:
        """Write keys; all are tried, and the first that cannot be read is raised."""
        written: list[bool] = []
        refused: PayloadRefused | None = None
        for key, dumped in items:
            value = dumped.payload.partition(b"\n")[2]
            if not self.accepts(dumped.payload):
                refused = refused or PayloadRefused(
                    f"{self.name} (version {self.version}) cannot read the value of {key!r}"
                )
                continue
            free = replace or self._live(key) is None
            if free:
                self.set(key, value, dumped.expire_at_ms)
            written.append(free)
        if refused is not None:
            raise refused
        return written

    def take_over(self, items: Sequence[tuple[bytes, Dumped]], register: bytes) -> list[bool]:
        """Write the keys that are not there yet, and enter each into a register; stops at one that cannot be read."""
        written: list[bool] = []
        for key, dumped in items:
            written += self.restore([(key, dumped)], replace=False)
            self.register(register, [key])
        return written

    def register(self, register: bytes, keys: Sequence[bytes]) -> None:
        """Enter keys into a register."""
        entered = sorted(self.registered(register).union(keys))
        self._write(register, Stored(json.dumps([one.hex() for one in entered]).encode(), None))

    def registered(self, register: bytes) -> frozenset[bytes]:
        """The keys in a register."""
        value, _ = self.read(register)
        return frozenset(map(bytes.fromhex, json.loads(value or b"[]")))

    def piece(self, key: bytes, start: int, size: int) -> bytes | None:
        """A part of a value, None where there is no such key."""
        entry = self._live(key)
        return None if entry is None else entry.value[start : start + size]

    def begin_pieces(self, key: bytes, patch: bool) -> int:
        """Have what is there of a key stay, without an end, or go; its length then."""
        entry = self._live(key) if patch else None
        self._write(key, None if entry is None else Stored(entry.value, None))
        return 0 if entry is None else len(entry.value)

    def put_piece(self, key: bytes, start: int, piece: bytes) -> None:
        """Write a part of a value, which is made where there is none."""
        entry = self._live(key)
        value = b"" if entry is None else entry.value
        self._write(key, Stored(value[:start] + piece + value[start + len(piece) :], None))

    def end_pieces(self, key: bytes, length: int, expire_at_ms: int | None) -> None:
        """Give a value its length and its end."""
        entry = self._live(key)
        self.set(key, (b"" if entry is None else entry.value)[:length], expire_at_ms)

    def sync(self) -> bool:
        """Bring everything to disk; False where that cannot be promised."""
        if self.aof_fsync == "no":
            return False
        self._forget_unsynced()
        return True

    def replace_libraries(self, libraries: Mapping[bytes, bytes]) -> None:
        """Have these libraries of functions and no others."""
        if self._unsynced_libraries is None:
            self._unsynced_libraries = self.libraries
        self.libraries = dict(libraries)

    def lose_unsynced(self) -> None:
        """Be what was last brought to disk."""
        for key, entry in self._unsynced.items():
            self._put(key, entry)
        if self._unsynced_libraries is not None:
            self.libraries = self._unsynced_libraries
        self._forget_unsynced()

    def _forget_unsynced(self) -> None:
        self._unsynced.clear()
        self._unsynced_libraries = None

    def _live(self, key: bytes) -> Stored | None:
        self._check_serves()
        entry = self._entries.get(key)
        if entry is not None and entry.expire_at_ms is not None and entry.expire_at_ms <= self._wall() * 1000:
            self._expire(key)
            return None
        return entry

    def _check_serves(self) -> None:
        """Raise what stands in the way of looking at a key now."""

    def _expire(self, key: bytes) -> None:
        """Remove a key whose time has passed."""
        self._write(key, None)

    def _expire_all(self) -> None:
        for key in list(self._entries):
            self._live(key)

    def _write(self, key: bytes, entry: Stored | None, *, named: bool = True) -> None:
        self._unsynced.setdefault(key, self._entries.get(key))
        self._put(key, entry)

    def _put(self, key: bytes, entry: Stored | None) -> None:
        if entry is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = entry


def _position(key: bytes) -> int:
    """Where a scan passes a key: from 1, so that a cursor of 0 is only the start and the end.

    As with real servers, cursors have few bits: routers put more into them.
    """
    return 1 + (int.from_bytes(md5(key, usedforsecurity=False).digest()[:4], "big") >> 4)
