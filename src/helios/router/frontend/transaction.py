"""What a client has queued since MULTI."""

from __future__ import annotations

from collections.abc import Sequence


class Transaction:
    """The commands that a client has queued since MULTI; none any more once one of them was refused."""

    __slots__ = ("calls", "failed", "frames", "keys", "size", "writes")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.calls: list[list[bytes]] = []  # those of the commands that call scripts
        self.keys: list[bytes] = []
        self.size = 0
        self.writes = False
        self.failed = False

    def add(self, raw: bytes, keys: Sequence[bytes], *, writes: bool) -> None:
        """Queue a command; of no effect after a failure."""
        if not self.failed:
            self.frames.append(raw)
            self.keys += keys
            self.size += len(raw)
            self.writes = self.writes or writes

    def fail(self) -> None:
        """EXEC will discard it: nothing of it is kept."""
        self.failed = True
        self.frames, self.calls, self.keys, self.size = [], [], [], 0
