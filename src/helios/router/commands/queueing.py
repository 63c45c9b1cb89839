"""What a client queues between MULTI and EXEC, for one shard or for the router itself."""

from __future__ import annotations

from collections.abc import Sequence

from helios.errors import InvalidInput
from helios.resp.commands import ELEMENT_SCANS, NO_DATABASES, Command, How, key_positions, looked_up, objection
from helios.resp.encoding import error_reply
from helios.resp.keys import Malformed
from helios.router.commands import (
    client,
    command_info,
    config,
    latency,
    pubsub,
    replica_reads,
    scripting,
    server,
    tracking,
)
from helios.router.commands.handlers import Work, as_work
from helios.router.commands.lookup import recognise, shown
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import DONE, Caller
from helios.router.frontend.transaction import Transaction
from helios.router.options import RouterOptions

_QUEUED = b"+QUEUED\r\n"
# Commands that the router answers outside of transactions, and any shard inside.
_PASSING = frozenset(("ping", "echo", "time", "unwatch", "publish", "spublish", "function|list", "function|dump"))
_SHARDS_OWN = frozenset((How.FORWARD, How.SPLIT, How.BLOCKING, How.ANYWHERE))
_NOT_INSIDE = frozenset(("client|reply",))
# What the router answers itself, when the shard has carried out the rest.
QUEUED: dict[str, Work] = {
    **{
        name: as_work(answer)
        for name, answer in {
            **server.ANSWERS,
            **config.ANSWERS,
            **client.ANSWERS,
            **tracking.ANSWERS,
            **latency.ANSWERS,
            **replica_reads.ANSWERS,
        }.items()
    },
    **server.WORKS,
    **config.WORKS,
    **server.INSIDE,
    **command_info.WORKS,
    **pubsub.WORKS,
    **tracking.WORKS,
}


def refusal(argv: Sequence[bytes], command: Command) -> str | None:
    """Why a command that can be carried out otherwise cannot be queued; None where it can."""
    if command.name in ELEMENT_SCANS:
        return f"'{shown(command)}' is refused inside a transaction: its cursors are the router's"
    if command.how in _SHARDS_OWN:
        if looked_up(command, argv):
            return f"'{shown(command)} ... BY or GET pattern' is refused inside a transaction"
        try:
            return objection(command, argv)
        except InvalidInput as error:
            return str(error)
    if command.name == "select" and argv[1].strip(b"0").isdigit():
        return f"'SELECT' is refused inside a transaction: {NO_DATABASES}"
    if command.name in _PASSING or command.name in QUEUED:
        return None
    return f"'{shown(command)}' is refused inside a transaction, which one shard carries out as a whole"


def queue(options: RouterOptions, caller: Caller, raw: bytes, argv: list[bytes]) -> None:
    """Queue one more command of a caller in MULTI, or refuse it and the whole transaction with it."""
    transaction = caller.transaction
    assert transaction is not None, "the caller is in MULTI"
    try:
        caller.answer(_queued(options, transaction, raw, argv))
    except ErrorReply as error:
        transaction.fail()
        caller.answer(error.raw)


def _queued(options: RouterOptions, transaction: Transaction, raw: bytes, argv: list[bytes]) -> bytes:
    command = recognise(argv)
    if isinstance(command, bytes):
        raise ErrorReply(command)
    if command.name in _NOT_INSIDE:
        raise ErrorReply(error_reply(f"ERR Command '{command.name}' not allowed inside a transaction"))
    reason = refusal(argv, command)
    if reason is not None:
        raise ErrorReply(error_reply(f"ERR {reason}"))
    try:
        keys = [argv[position] for position in key_positions(command, argv)]
    except Malformed:
        keys = []  # as a server does it, which says at EXEC what is wrong
    except InvalidInput as error:
        raise ErrorReply(error_reply(f"ERR {error}")) from error
    max_commands, max_bytes = options.transaction_commands, options.transaction_bytes
    if len(transaction) >= max_commands or transaction.size + len(raw) > max_bytes:
        raise ErrorReply(
            error_reply(
                f"OVERLOADED a transaction may have {max_commands} commands and {max_bytes} bytes; it is discarded"
            )
        )
    if command.name in QUEUED and command.name not in _PASSING:
        transaction.add_own(command.name, argv)
        return _QUEUED
    transaction.add(raw, keys, writes=command.writes and bool(keys))
    if command.name in scripting.CALLS:
        transaction.calls.append(argv)
    return _QUEUED


def not_inside(caller: Caller, name: str) -> int:
    """Refuse a command that cannot be queued, and the whole transaction with it."""
    assert caller.transaction is not None
    caller.transaction.fail()
    caller.answer(error_reply(f"ERR Command '{name}' not allowed inside a transaction"))
    return DONE
