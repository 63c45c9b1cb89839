"""Writes every key of the cluster to a file, each once, without holding more than a batch of values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import hiredis

from helios.cli.output import count, duration
from helios.cli.records import Record
from helios.client.connection import CommandRefused, RespClient, pack
from helios.terminal import clean

SCAN_COUNT = 1000
_BATCH_MAX = 512
_BATCH_BYTES = 4 * 1024 * 1024
_PASSES = 5
_REPORTED_MAX = 1000


@dataclass(slots=True)
class DumpReport:
    """What came of a dump: keys written, keys that could not be, and times to live that the format cannot keep."""

    dumped: int = 0
    failed: int = 0
    ttls_lost: int = 0
    incomplete: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def clean(self) -> bool:
        """Whether every key is in the file."""
        return not self.failed and not self.incomplete

    def as_dict(self) -> dict[str, int | bool]:
        """For programs."""
        return {
            "dumped": self.dumped,
            "failed": self.failed,
            "ttls_lost": self.ttls_lost,
            "incomplete": self.incomplete,
        }

    def as_text(self) -> str:
        """For people."""
        took = duration(time.monotonic() - self.started)
        lost = f", {count(self.ttls_lost)} without their time to live" if self.ttls_lost else ""
        return f"{count(self.dumped)} dumped{lost}, {count(self.failed)} failed, in {took}"


class Dumper:
    """One dump. It remembers every key it has met (some 100 bytes each): a scan may name one twice.

    A key that lives throughout is in the dump, with a value that it had meanwhile; this is no snapshot
    of one moment. Keys that move while they are scanned could be passed by, so the scan starts again
    (what has been written is kept) until the topology was the same before and after it.
    """

    def __init__(
        self,
        client: RespClient,
        write: Callable[[Record], None],
        tell: Callable[[str], None],
        progress: Callable[[int], None],
        *,
        strings_only: bool,
        pattern: bytes | None = None,
    ) -> None:
        self.report = DumpReport()
        self._client = client
        self._write = write
        self._tell = tell
        self._progress = progress
        self._strings_only = strings_only
        self._pattern = pattern
        self._seen: set[bytes] = set()
        self._batch_size = _BATCH_MAX

    def run(self) -> None:
        """Write every key; errors of the connection and of SCAN pass."""
        epoch = self._epoch()
        for _ in range(_PASSES):
            self._scan()
            epoch_after = self._epoch()
            if epoch_after == epoch:
                return
            epoch = epoch_after
        self.report.incomplete = True
        self._tell("keys moved between nodes throughout the dump, some may be missing: dump again when nothing moves")

    def _epoch(self) -> int | None:
        """The topology's version; None on a plain server, which has none."""
        try:
            stats = self._client.call(b"CLUSTERSTATS")
        except CommandRefused as error:
            if error.code == "ERR" and "unknown command" in str(error).lower():
                return None
            raise
        epoch: int = stats[b"epoch"]
        return epoch

    def _scan(self) -> None:
        options = [b"COUNT", b"%d" % SCAN_COUNT]
        if self._pattern is not None:
            options += [b"MATCH", self._pattern]
        cursor = b"0"
        while True:
            cursor, keys = self._client.call(b"SCAN", cursor, *options)
            fresh = [key for key in keys if self._first_time(key)]
            start = 0
            while start < len(fresh):
                size = self._batch_size
                self._dump(fresh[start : start + size])
                start += size
            if cursor == b"0":
                return

    def _first_time(self, key: bytes) -> bool:
        mark = key if len(key) <= 32 else blake2b(key, digest_size=33).digest()
        if mark in self._seen:
            return False
        self._seen.add(mark)
        return True

    def _dump(self, keys: list[bytes]) -> None:
        """Write some keys; the next batch is smaller if these values were big, and larger if they were small."""
        commands = [(b"GET", key) for key in keys]
        others: list[bytes] = []
        total = 0
        for key, value, expiry in self._ask(commands):
            if isinstance(value, hiredis.ReplyError) and str(value).startswith("WRONGTYPE"):
                others.append(key)
            else:
                total += self._take(key, value, expiry, serialised=False)
        if self._strings_only:
            for key in others:
                self._fail(key, "is not a string, and TSV holds strings only: use JSON Lines")
        else:
            # Values of other types may be big, and one reply is held at a time: the server's side is bounded by few.
            for start in range(0, len(others), 32):
                for key, value, expiry in self._ask([(b"DUMP", key) for key in others[start : start + 32]]):
                    total += self._take(key, value, expiry, serialised=True)
        self._batch_size = max(1, len(keys) // 2) if total > _BATCH_BYTES else min(_BATCH_MAX, self._batch_size * 2)
        self._progress(len(keys))

    def _ask(self, commands: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, Any, Any]]:
        """For each (command, key): the key, the reply, the reply to PEXPIRETIME."""
        packed = [pack(*command) + pack(b"PEXPIRETIME", command[1]) for command in commands]
        self._client.send(b"".join(packed))
        for _, key in commands:
            value = self._client.read()
            yield key, value, self._client.read()

    def _take(self, key: bytes, value: Any, expiry: Any, *, serialised: bool) -> int:
        """Write one key if it is still there; the size of its value in bytes."""
        for reply in (value, expiry):
            if isinstance(reply, hiredis.ReplyError):
                self._fail(key, f"cannot be read: {reply}")
                return 0
        if value is None or expiry == -2:  # gone since the scan
            return 0
        expire_at_ms = expiry if expiry >= 0 else None
        if expire_at_ms is not None and self._strings_only:
            self.report.ttls_lost += 1
        self._write(Record(key, value, serialised=serialised, expire_at_ms=expire_at_ms))
        self.report.dumped += 1
        return len(value)

    def _fail(self, key: bytes, why: str) -> None:
        self.report.failed += 1
        if self.report.failed <= _REPORTED_MAX:
            self._tell(f"{clean(key.decode('utf-8', 'backslashreplace'))} {why}")
        elif self.report.failed == _REPORTED_MAX + 1:
            self._tell("further problems are only counted")
