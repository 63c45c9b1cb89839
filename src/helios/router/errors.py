"""Errors that say why a command was not carried out, wherever the router finds that out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from helios.placement.glob import LONGEST_PATTERN
from helios.resp.commands import SCRIPTS, find
from helios.resp.encoding import error_reply

NOT_EXECUTED = "; nothing was executed"
PERHAPS_EXECUTED = ": the command may or may not have been executed; outcome unknown"


def refusals(what: str) -> tuple[bytes, bytes]:
    """The replies to a read and to a write whose own may not be told."""
    return error_reply(f"TRYAGAIN {what}; nothing was changed"), error_reply(f"UNKNOWN {what}{PERHAPS_EXECUTED}")


class ErrorReply(Exception):
    """An error that a shard or the router has given already is the client's answer."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.raw = raw


def in_part(replies: Mapping[str, bytes | None]) -> bytes:
    """The reply to a command that has failed on one shard at least, by their replies; None: it was not asked.

    Where its fate differs, the error says on which shards it was carried out, on which not, and on which perhaps. An
    outcome that is unknown comes first: who reads the first word alone must not take the command for refused.
    """
    unknown = [shard for shard, reply in replies.items() if reply is not None and reply.startswith(b"-UNKNOWN")]
    failed = [shard for shard, reply in replies.items() if reply is not None and reply[:1] == b"-"]
    done = [shard for shard, reply in replies.items() if reply is not None and shard not in failed]
    left = [shard for shard in replies if shard not in unknown and shard not in done]
    first = replies[(unknown or failed)[0]]
    assert first is not None, "a shard that was asked has replied"
    if not done and (not unknown or len(replies) == 1):
        return first
    said = first[1:-2].decode("utf-8", "replace").removesuffix(NOT_EXECUTED).removesuffix(PERHAPS_EXECUTED)
    fates = (("it was carried out on", done), ("it may have been on", unknown), ("it was not on", left))
    return error_reply("; ".join([said, *(f"{fate} {', '.join(shards)}" for fate, shards in fates if shards)]))


def cross_shard(owners: Iterable[str], what: str, also: str = "") -> bytes:
    """Keys that `what` would need together have several owners; `also` is a way out beside those that all have."""
    shards = sorted(set(owners))
    return error_reply(
        f"CROSSSHARD keys are owned by {', '.join(shards[:-1])} and {shards[-1]}: {what} works within one shard; "
        f"keys with the same {{tag}} share one, and so do those that a rule brings to one "
        f"(helios-cli migrate '*' {shards[-1]} 'PATTERN'){also}"
    )


_SHOWN_BYTES = 128


def shown(word: bytes) -> bytes:
    """A client's word as servers show it in their errors: 128 bytes at most, and none from a NUL on."""
    return word[:_SHOWN_BYTES].partition(b"\0")[0]


def unknown_command(argv: Sequence[bytes]) -> bytes:
    """No command has this name."""
    begin = b""
    for word in argv[1:]:
        if len(begin) >= _SHOWN_BYTES:
            break
        begin += b"'%b' " % shown(word[: _SHOWN_BYTES - len(begin)])
    return error_reply(b"ERR unknown command '%b', with args beginning with: %b" % (shown(argv[0]), begin))


def unknown_subcommand(container: str, word: bytes) -> bytes:
    """The command has no such subcommand."""
    return error_reply(b"ERR unknown subcommand '%b'. Try %b HELP." % (shown(word), container.upper().encode()))


def wrong_number(name: str) -> bytes:
    """The command takes another number of arguments."""
    return error_reply(f"ERR wrong number of arguments for '{name}' command")


PATTERN_TOO_LONG = error_reply(f"ERR a pattern may have at most {LONGEST_PATTERN} bytes")


def silence(lasted_s: float, oldest: bytes | None = None, *, begun: bool = False, endless: bool = False) -> str:
    """What is wrong with a server that has answered nothing whole; `oldest` is the first command that is unanswered.

    It may have `begun` a reply, which may be `endless`: longer than any that is kept, and with no end yet.
    """
    fault = f"it answered nothing for {lasted_s:g} s"
    if endless:
        fault = f"its reply is too long to be kept (see router.max_reply) and did not end in {lasted_s:g} s"
    elif begun:
        fault = f"it began a reply and sent no more of it for {lasted_s:g} s"
    command = find(oldest.split(b"\r\n", 3)[2]) if oldest else None  # behind *N and $length
    if command is None or command.name not in SCRIPTS:
        return fault
    return f"{fault}, since {command.name.upper()} was sent to it: that script may still run"
