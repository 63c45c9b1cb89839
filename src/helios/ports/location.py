"""Where a cluster's store is, and what processes must know of that place beside the store itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from helios.ports.store import Store


class StoreLocation(Protocol):
    """A place that a store is in, or will be in. Its text names it for people."""

    @property
    def spans_hosts(self) -> bool:
        """Whether processes of other machines can use it."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The folders and files of this machine that it consists of; whoever can write there can change the store."""

    def exists(self) -> bool:
        """Whether a store has been made there. Raises StoreError if that place does not answer."""

    async def open(self, *, expires: bool = True, before_commit: Callable[[], None] | None = None) -> Store:
        """The store, made if need be. Without `expires` it writes only what it is told to. Raises StoreError."""

    def writers(self) -> set[int]:
        """The processes of this machine, by pid, that are in the middle of a commit and keep all others from one."""
