"""What a client has queued since MULTI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from helios.router._fast_path import OWN_READ, OWN_WRITE, CommandStats

OwnCommands: TypeAlias = dict[int, tuple[str, list[bytes]]]
"""Commands that the router answers itself, with their arguments, by their places in a transaction."""


class Transaction:
    """The commands that a client has queued since MULTI; none any more once one of them was refused."""

    __slots__ = ("calls", "failed", "frames", "keys", "own", "size", "writes")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.own: OwnCommands = {}
        self.calls: list[list[bytes]] = []  # those of the commands that call scripts
        self.keys: list[bytes] = []
        self.size = 0
        self.writes = False
        self.failed = False

    def __len__(self) -> int:
        return len(self.frames) + len(self.own)

    @property
    def kind(self) -> CommandStats:
        """What its EXEC counts as."""
        return OWN_WRITE if self.writes or self.calls else OWN_READ

    def add_own(self, command: str, argv: list[bytes]) -> None:
        """Queue a command that the router answers itself; of no effect after a failure."""
        if not self.failed:
            self.own[len(self)] = (command, argv)
            self.size += sum(map(len, argv))

    def add(self, raw: bytes, keys: Sequence[bytes], *, writes: bool) -> None:
        """Queue a command for the shard; of no effect after a failure."""
        if not self.failed:
            self.frames.append(raw)
            self.keys += keys
            self.size += len(raw)
            self.writes = self.writes or writes

    def fail(self) -> None:
        """EXEC will discard it: nothing of it is kept."""
        self.failed = True
        self.frames, self.own, self.calls, self.keys, self.size = [], {}, [], [], 0
