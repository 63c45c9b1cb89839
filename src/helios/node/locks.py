"""Locks that say who holds them: one process at a time for a node, a worker, a data folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from helios.errors import StartError
from helios.node.process import ProcessId

_RETRY_S = 0.05
_REQUEST_TIMEOUT_S = 0.5
_NAME_BYTES = 1023


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, and what it wrote beside its name."""

    process: ProcessId
    note: Mapping[str, str] = field(default_factory=dict)


class LockHeld(StartError):
    """Another process holds the lock; `holder` is None if it has not written its name (yet)."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        who = f"process {holder.process.pid}" if holder else "another process"
        super().__init__(f"{path} is held by {who}")
        self.path = path
        self.holder = holder


class RunLock:
    """An exclusive lock on a file that ends with the last process that has it open.

    The file also names a process: the holder itself, or a child that was handed the descriptor and goes
    on holding the lock after its parent's death.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def try_acquire(cls, path: Path) -> RunLock | None:
        """The lock, or None if it is held. Raises OSError where the file cannot be opened."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    @classmethod
    def acquire(cls, path: Path, note: Mapping[str, str] | None = None) -> RunLock:
        """The lock, with this process's name in it; blocks for at most half a second. Raises LockHeld."""
        deadline = time.monotonic() + _REQUEST_TIMEOUT_S
        while True:
            lock = cls.try_acquire(path)
            if lock is not None:
                lock.name(ProcessId.this(), note)
                return lock
            # One who looks whether it is held takes it for an instant: that alone must not refuse a start.
            if time.monotonic() > deadline:
                raise LockHeld(path, holder_of(path))
            time.sleep(_RETRY_S)

    @classmethod
    async def wait(cls, path: Path, timeout_s: float) -> RunLock | None:
        """The lock as soon as it is free, without a name in it; None if it is held for longer."""
        deadline = time.monotonic() + timeout_s
        while True:
            lock = cls.try_acquire(path)
            if lock is not None or time.monotonic() > deadline:
                return lock
            await asyncio.sleep(_RETRY_S)

    def name(self, process: ProcessId, note: Mapping[str, str] | None = None) -> None:
        """Write who holds the lock."""
        text = json.dumps(
            {"pid": process.pid, "started": process.started, "boot": process.boot, "note": dict(note or {})}
        )
        # One write of one size, so that a reader never finds a half or an older rest.
        os.pwrite(self.descriptor, text.encode().ljust(_NAME_BYTES) + b"\n", 0)

    def let_go(self) -> None:
        """Close this process's hold; a child that was handed the descriptor keeps the lock."""
        os.close(self.descriptor)

    def release(self) -> None:
        """Give the lock up and take the name out of it. The file stays: removing it would race with the next."""
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


def holder_of(path: Path) -> Holder | None:
    """The running process that holds the lock at `path`, if one does and has written its name.

    The lock is tried only where it bears the name of a living process, so that looking never keeps it from one
    that starts: a process that looks may be held up by its machine for longer than a starting one is patient.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        named = _parse(os.pread(descriptor, 65536, 0))
        if named is None:
            return None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        return named
    finally:
        os.close(descriptor)


def _parse(data: bytes) -> Holder | None:
    try:
        value = json.loads(data)
        process = ProcessId(int(value["pid"]), str(value["started"]), str(value["boot"]))
        note = {str(key): str(item) for key, item in value["note"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Holder(process, note) if process.alive() else None
