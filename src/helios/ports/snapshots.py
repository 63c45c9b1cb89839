"""Copies of whole servers: everything as it was at one moment, in the server's own format of files."""

from __future__ import annotations

from typing import Protocol

from helios.model.topology import Member


class Snapshot(Protocol):
    """A copy of one server on its way. Any method may raise EngineUnreachable, EngineDenied or EngineError."""

    @property
    def server(self) -> str:
        """Product and version of the server, such as `valkey 9.1.2`."""

    async def begin(self) -> None:
        """Fix the moment: when this returns, nothing that the server does later is in the copy."""

    async def read(self) -> bytes:
        """The next bytes; empty when all have come."""

    async def close(self) -> None:
        """Let go of it, whether it has come to its end or not."""


class Snapshots(Protocol):
    """Takes copies of servers."""

    async def open(self, member: Member) -> Snapshot:
        """Connect to a member so that `begin` costs it a moment only; a server that saves just now is waited for.

        Raises EngineUnreachable, EngineDenied or EngineError.
        """
