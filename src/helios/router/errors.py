"""Errors that say why a command was not carried out, wherever the router finds that out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from helios.placement.glob import LONGEST_PATTERN
from helios.resp.encoding import error_reply


class ErrorReply(Exception):
    """An error that a shard or the router has given already is the client's answer."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


def cross_shard(owners: Iterable[str], what: str) -> bytes:
    """Keys that `what` would need together have several owners."""
    shards = sorted(set(owners))
    return error_reply(
        f"CROSSSHARD keys are owned by {', '.join(shards[:-1])} and {shards[-1]}: "
        f"{what} works within one shard; keys with the same {{tag}} share one"
    )


def unknown_command(argv: Sequence[bytes]) -> bytes:
    """No command has this name."""
    shown = "".join(f"'{argument[:128].decode('utf-8', 'replace')}' " for argument in argv[1:20])
    name = argv[0][:128].decode("utf-8", "replace")
    return error_reply(f"ERR unknown command '{name}', with args beginning with: {shown[:256]}")


def unknown_subcommand(container: str, word: bytes) -> bytes:
    """The command has no such subcommand."""
    return error_reply(
        f"ERR unknown subcommand '{word[:128].decode('utf-8', 'replace')}'. Try {container.upper()} HELP."
    )


def wrong_number(name: str) -> bytes:
    """The command takes another number of arguments."""
    return error_reply(f"ERR wrong number of arguments for '{name}' command")


PATTERN_TOO_LONG = error_reply(f"ERR a pattern may have at most {LONGEST_PATTERN} bytes")
