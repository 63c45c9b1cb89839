"""What a router has counted of its clients' commands since its start, or since CONFIG RESETSTAT."""

from __future__ import annotations

from helios.resp.commands import Command
from helios.router._fast_path import CommandStats, FastPath, Outbox


class Totals:
    """Commands, bytes and errors, as the compiled parts count them."""

    def __init__(self, fast_path: FastPath, outbox: Outbox) -> None:
        self._fast_path = fast_path
        self._outbox = outbox

    @property
    def commands(self) -> int:
        """Commands taken from clients."""
        return self._fast_path.commands

    @property
    def kinds(self) -> dict[str, CommandStats]:
        """How often each command was given, by name, and how long it took."""
        return self._fast_path.by_name

    def kind_of(self, command: Command) -> CommandStats:
        """How a command is counted."""
        return self._fast_path.kind_of(command.name, int(command.writes))

    @property
    def errors(self) -> dict[str, int]:
        """Error replies to clients, by their first word."""
        return self._outbox.errors

    @property
    def bytes_in(self) -> int:
        """What clients have sent since the start."""
        return self._outbox.bytes_in

    @property
    def bytes_out(self) -> int:
        """What clients have been sent since the start."""
        return self._outbox.bytes_out

    def reset(self) -> None:
        """Count commands and errors from zero again."""
        self._fast_path.commands = 0
        self.errors.clear()
        for kind in self.kinds.values():
            kind.clear()
