"""What is told of a backup, and the parts that its files come in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShardCopyView:
    """The copy of a shard in a backup, and what wrote it: `server` is product and version."""

    shard: str
    server: str


@dataclass(frozen=True, slots=True)
class BackupView:
    """A backup that has begun: its moment (Unix seconds), and for how long commands were held for it.

    `cluster` is, as JSON, what the cluster agreed on at that moment: topology, settings, users.
    """

    id: str
    taken_at: float
    pause_ms: float
    version: str
    cluster: str
    shards: tuple[ShardCopyView, ...]


@dataclass(frozen=True, slots=True)
class CopyPartView:
    """Some bytes of a shard's copy. At its end `size` and `sha256` are those of the whole; before, -1 and empty."""

    data: bytes
    size: int = -1
    sha256: str = ""
