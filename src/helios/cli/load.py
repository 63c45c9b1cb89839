"""Puts the records of a file into the cluster: pipelined, every reply checked, bounded memory."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import hiredis

from helios.cli.files import LINE_MAX_BYTES
from helios.cli.output import count, duration, size
from helios.cli.records import BadLine, Record
from helios.client.connection import CommandRefused, RespClient, pack
from helios.terminal import clean

BATCH_COMMANDS = 500
BATCH_BYTES = 1024 * 1024
BATCHES_AHEAD = 4
_REPORTED_MAX = 1000
_ALIKE_MAX = 3  # keys that are named of those that were refused with the same words
_REASONS_MAX = 100  # words that are told apart


class Stopped(Exception):  # not an error of Helios: the report says what happened
    """A strict load has met its first problem."""


@dataclass(slots=True)
class LoadReport:
    """What came of a load. A line is loaded, bad (no record) or failed (refused by the server); a header is neither."""

    loaded: int = 0
    bad_lines: int = 0
    failed: int = 0
    lines: int = 0
    carriage_returns: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def clean(self) -> bool:
        """Whether every line arrived."""
        return not self.bad_lines and not self.failed

    def as_dict(self) -> dict[str, int]:
        """For programs."""
        return {"loaded": self.loaded, "bad_lines": self.bad_lines, "failed": self.failed}

    def as_text(self) -> str:
        """For people."""
        took = duration(time.monotonic() - self.started)
        bad = f"{count(self.bad_lines)} bad line{'' if self.bad_lines == 1 else 's'}"
        return f"{count(self.loaded)} loaded, {bad}, {count(self.failed)} failed, in {took}"


class Loader:
    """One load. `tell` gets a line of text for each problem, `progress` is called once a batch."""

    def __init__(
        self,
        client: RespClient,
        tell: Callable[[str], None],
        progress: Callable[[], None],
        *,
        strict: bool = False,
        longest_bytes: int = LINE_MAX_BYTES,
        unit: str = "line",
    ) -> None:
        self._unit = unit
        self._longest_bytes = longest_bytes
        self.report = LoadReport()
        self._client = client
        self._tell = tell
        self._progress = progress
        self._strict = strict
        self._told = 0
        self._refusals: dict[str, int] = {}  # keys by the words with which they were refused
        self._batch: list[tuple[int, bytes]] = []
        self._packed: list[bytes] = []
        self._packed_bytes = 0
        self._due: deque[list[tuple[int, bytes]]] = deque()

    def run(self, lines: Iterable[bytes | None], parse: Callable[[bytes], Record | None]) -> None:
        """Load every line that can be; what cannot is told and counted.

        With `strict` the first problem ends the load with Stopped, after the replies to what had been sent.
        Errors of the file pass, after everything before them was loaded. Errors of the connection pass
        too; `report` then counts what is known to be there.
        """
        try:
            for number, line in enumerate(lines, 1):
                self.report.lines = number
                self._take(number, line, parse)
            self._send()
        except Stopped:
            self.settle()
            raise
        except (OSError, EOFError, zlib.error):  # from the file: the connection has its own errors
            self.settle()
            raise
        self.settle()
        if self.report.carriage_returns:
            self._tell(
                f"note: {count(self.report.carriage_returns)} lines end in a carriage return, which is now part of "
                "their values; was the file written on Windows?"
            )

    def _take(self, number: int, line: bytes | None, parse: Callable[[bytes], Record | None]) -> None:
        if line is None:
            self._bad(number, f"it is longer than {size(self._longest_bytes)}: --max-line lets longer ones in")
            return
        try:
            record = parse(line)
        except BadLine as error:
            self._bad(number, str(error))
            return
        if record is None:
            return
        if line.endswith(b"\r") and record.value.endswith(b"\r"):
            self.report.carriage_returns += 1
        self.write(number, record)

    def write(self, number: int, record: Record) -> None:
        """Write one record, the one of that number, sooner or later: `settle` returns when all are written."""
        packed = pack(*record.command())
        self._batch.append((number, record.key))
        self._packed.append(packed)
        self._packed_bytes += len(packed)
        if len(self._batch) >= BATCH_COMMANDS or self._packed_bytes >= BATCH_BYTES:
            self._send()

    def _bad(self, number: int, why: str) -> None:
        self.report.bad_lines += 1
        self._problem(f"line {number}: {why}")
        if self._strict:
            self._send()
            raise Stopped

    def _send(self) -> None:
        """Send the batch at hand, while the replies of a few before it are still on their way."""
        if not self._batch:
            return
        self._client.send(b"".join(self._packed))
        self._due.append(self._batch)
        self._batch, self._packed, self._packed_bytes = [], [], 0
        while len(self._due) > BATCHES_AHEAD:
            self._collect()
            if self._strict and self.report.failed:
                raise Stopped

    def settle(self) -> None:
        """Send what is at hand, and wait for every reply that is due."""
        self._send()
        while self._due:
            self._collect()
        for reason, number in self._refusals.items():
            if number > _ALIKE_MAX:
                self._tell(f"{count(number - _ALIKE_MAX)} more were not written: {reason}")
        self._refusals.clear()

    def _collect(self) -> None:
        for number, key in self._due.popleft():
            reply: Any = self._client.read()
            if isinstance(reply, hiredis.ReplyError):
                self.report.failed += 1
                self._refused(number, key, CommandRefused(str(reply)).sentence)
            else:
                self.report.loaded += 1
        self._progress()

    def _refused(self, number: int, key: bytes, reason: str) -> None:
        """Name the first keys that were refused for a reason, and count the others: of a dead cluster, all are."""
        if reason in self._refusals or len(self._refusals) < _REASONS_MAX:
            self._refusals[reason] = self._refusals.get(reason, 0) + 1
            if self._refusals[reason] > _ALIKE_MAX:
                return
        shown = clean(key.decode("utf-8", "backslashreplace"))
        self._problem(f"{self._unit} {number}: {shown} was not written: {reason}")

    def _problem(self, text: str) -> None:
        self._told += 1
        if self._told <= _REPORTED_MAX:
            self._tell(text)
        elif self._told == _REPORTED_MAX + 1:
            self._tell("further problems are only counted")
