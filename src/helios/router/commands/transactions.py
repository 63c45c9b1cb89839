"""MULTI and EXEC, WATCH and UNWATCH: commands are queued here and sent together, to one shard.

A transaction that watches nothing goes over the link that all clients share. Watched keys are watched on a line,
and EXEC goes over it, too; where a watched key may have changed its shard meanwhile, EXEC answers null.
"""

from __future__ import annotations

from collections.abc import MutableSet, Sequence

from helios.errors import InvalidInput
from helios.placement.routing import Routes
from helios.resp.commands import ELEMENT_SCANS, Command, How, key_positions, looked_up, objection
from helios.resp.encoding import EMPTY_ARRAY, NULL_ARRAY, OK, error_reply
from helios.resp.wire import encode_command
from helios.router.commands import scripting
from helios.router.commands.handlers import Handler
from helios.router.commands.lookup import find_owners, recognise, shown
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply, cross_shard
from helios.router.frontend.caller import DONE, IN_MULTI, WAIT_ALL, WAIT_REPLY, Caller, LastSlot, Slot, WatchedKeys
from helios.router.frontend.transaction import Transaction
from helios.router.options import RouterOptions
from helios.router.upstream.dedicated import DedicatedConnection
from helios.router.upstream.link import ConnectionState

_MULTI, _EXEC, _UNWATCH = (encode_command([word]) for word in (b"MULTI", b"EXEC", b"UNWATCH"))
_EXECABORT = "EXECABORT Transaction discarded because of"
# What is not queued but carried out at once.
AT_ONCE = frozenset(("multi", "exec", "discard", "watch", "reset", "quit"))
# Commands that the router answers outside of transactions, and any shard inside.
_PASSING = frozenset(("ping", "echo", "time", "unwatch", "publish", "spublish"))
_SHARDS_OWN = frozenset((How.FORWARD, How.SPLIT, How.BLOCKING, How.ANYWHERE))


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
    if command.name in _PASSING:
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
    reason = refusal(argv, command)
    if reason is not None:
        raise ErrorReply(error_reply(f"ERR {reason}"))
    try:
        keys = [argv[position] for position in key_positions(command, argv)]
    except InvalidInput as error:
        raise ErrorReply(error_reply(f"ERR {error}")) from error
    max_commands, max_bytes = options.transaction_commands, options.transaction_bytes
    if len(transaction.frames) >= max_commands or transaction.size + len(raw) > max_bytes:
        raise ErrorReply(
            error_reply(
                f"OVERLOADED a transaction may have {max_commands} commands and {max_bytes} bytes; it is discarded"
            )
        )
    transaction.add(raw, keys, writes=command.writes and bool(keys))
    if command.name in scripting.CALLS:
        transaction.calls.append(argv)
    return b"+QUEUED\r\n"


# --- watching -----------------------------------------------------------------------------------------------------


class Watch:
    """Keys of one shard that a caller watches, on a line of its own."""

    __slots__ = ("_watches", "broken", "keys", "line", "size")

    def __init__(self, line: DedicatedConnection, watches: MutableSet[WatchedKeys]) -> None:
        self.line = line
        self.keys: list[bytes] = []
        self.size = 0
        self.broken = False
        self._watches = watches
        watches.add(self)

    def add(self, keys: Sequence[bytes]) -> None:
        """Watch these, too."""
        self.keys += keys
        self.size += sum(map(len, keys))

    def holds(self, protocol: int) -> bool:
        """Whether the server can still say if a key has changed."""
        return not self.broken and self.line.state is ConnectionState.READY and self.line.protocol == protocol

    def follow(self, routes: Routes) -> None:
        """Break where a key has another owner now: what the line's server says of it counts no more, for ever."""
        shard = self.line.shard
        if not self.broken and (routes.empty or any(routes.owner(key) != shard for key in self.keys)):
            self.broken = True

    def detach(self) -> DedicatedConnection:
        """Watch no longer; the line is the caller's to use or give back."""
        self._watches.discard(self)
        return self.line

    def end(self) -> None:
        """Watch no longer, and give the line back."""
        line = self.detach()
        if line.state is ConnectionState.READY and line.answered == line.issued:
            line.send(_UNWATCH, _Cleared(line))
        else:
            line.end()


def _watched(caller: Caller) -> Watch | None:
    """What a caller watches."""
    assert caller.watch is None or isinstance(caller.watch, Watch)
    return caller.watch


class _Cleared:
    """Gives a line back when nothing is watched on it any more."""

    __slots__ = ("_line",)

    def __init__(self, line: DedicatedConnection) -> None:
        self._line = line

    def fill(self, reply: bytes) -> None:
        """Take the reply to UNWATCH."""
        if reply == OK:
            self._line.release()
        else:
            self._line.end()


class _WatchReply:
    """Takes the reply to WATCH. One that failed leaves the caller as it was, if it watched nothing before."""

    __slots__ = ("_caller", "_first", "_slot", "_watch")

    def __init__(self, caller: Caller, watch: Watch, slot: Slot) -> None:
        self._caller = caller
        self._watch = watch
        self._slot = slot
        self._first = not watch.keys

    def fill(self, reply: bytes) -> None:
        """Take the reply."""
        if reply != OK:
            self._watch.broken = True
            if self._first and self._caller.watch is self._watch:
                self._caller.watch = None
                self._watch.end()
        self._slot.fill(reply)


def watch(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """From now on, EXEC does nothing if one of these keys has been changed."""
    if caller.transaction is not None:
        return _not_inside(caller, "watch")
    if caller.replies:
        return WAIT_ALL
    keys, held = argv[1:], _watched(caller)
    owners = find_owners(router, caller, keys, writes=False)
    if isinstance(owners, int):
        return owners
    if held is not None and held.broken:
        caller.answer(OK)  # EXEC will answer null already.
        return DONE
    if held is not None:
        owners.append(held.line.shard)
    if len(set(owners)) > 1:
        caller.answer(cross_shard(owners, "'WATCH'"))
        return DONE
    most = router.options.transaction_bytes
    if (held.size if held else 0) + sum(map(len, keys)) > most:
        caller.answer(
            error_reply(f"OVERLOADED the keys that a client watches may have {most} bytes; they are not watched")
        )
        return DONE
    if held is None:
        try:
            held = caller.watch = Watch(router.pool.line(owners[0], caller.protocol), router.watches)
        except ErrorReply as error:
            caller.answer(error.raw)
            return DONE
    slot = LastSlot(caller)
    caller.replies.append(slot)
    reply = _WatchReply(caller, held, slot)
    held.add(keys)
    held.line.send(encode_command(argv), reply)
    return WAIT_REPLY


def unwatch(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Watch nothing any more."""
    _stop_watching(caller)
    caller.answer(OK)
    return DONE


def _stop_watching(caller: Caller) -> None:
    if caller.watch is not None:
        caller.watch.end()
        caller.watch = None


# --- MULTI, EXEC, DISCARD -----------------------------------------------------------------------------------------


def multi(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Queue the commands that follow."""
    if caller.transaction is not None:
        return _not_inside(caller, "multi")
    caller.transaction = Transaction()
    caller.modes |= IN_MULTI
    caller.answer(OK)
    return DONE


def _not_inside(caller: Caller, name: str) -> int:
    assert caller.transaction is not None
    caller.transaction.fail()
    caller.answer(error_reply(f"ERR Command '{name}' not allowed inside a transaction"))
    return DONE


def _leave(caller: Caller) -> None:
    caller.transaction = None
    caller.modes &= ~IN_MULTI


def discard(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Forget what was queued, and watch nothing any more."""
    if caller.transaction is None:
        caller.answer(error_reply("ERR DISCARD without MULTI"))
        return DONE
    _leave(caller)
    _stop_watching(caller)
    caller.answer(OK)
    return DONE


def abort(caller: Caller, error: bytes) -> None:
    """End a transaction because of an error, which is told."""
    _leave(caller)
    _stop_watching(caller)
    text = error[1:-2].decode("utf-8", "replace").removeprefix("ERR ")
    caller.answer(error_reply(f"{_EXECABORT}: {text}"))


def execute(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """EXEC: carry out what was queued, all of it or nothing, with nothing of others in between."""
    transaction, watched = caller.transaction, _watched(caller)
    if transaction is None:
        caller.answer(error_reply("ERR EXEC without MULTI"))
        return DONE
    if transaction.failed:
        return _answer(caller, error_reply(f"{_EXECABORT} previous errors."))
    if watched is None and not transaction.frames:
        return _answer(caller, EMPTY_ARRAY)
    if watched is not None and caller.replies:
        return WAIT_ALL  # They may be on another connection, and it must not overtake them.
    if watched is not None and not watched.holds(caller.protocol):
        return _answer(caller, NULL_ARRAY[caller.protocol])
    keys = transaction.keys if watched is None else transaction.keys + watched.keys
    owners = find_owners(router, caller, keys, writes=transaction.writes)
    if isinstance(owners, int):
        if owners == DONE:
            _leave(caller)
            _stop_watching(caller)
        return owners
    if len(set(owners)) > 1:
        return _answer(caller, cross_shard(owners, "a transaction, with all that it watches,"))
    frames = [_MULTI, *transaction.frames, _EXEC]
    _leave(caller)
    if watched is None:
        slot = Slot(caller)
        caller.replies.append(slot)
        assert router.routes is not None
        link = router.pool.link(owners[0] if owners else router.routes.home, caller.protocol)
        scripting.prepare(router, link, transaction.calls)
        link.send_together(frames, _ExecReply(len(frames), slot))
        return DONE
    line, caller.watch = watched.detach(), None
    slot = LastSlot(caller)
    caller.replies.append(slot)
    scripting.prepare(router, line, transaction.calls)
    line.send_together(frames, _ExecReply(len(frames), slot, line))
    return WAIT_REPLY


def _answer(caller: Caller, reply: bytes) -> int:
    """Answer EXEC where nothing is carried out."""
    _leave(caller)
    _stop_watching(caller)
    caller.answer(reply)
    return DONE


class _ExecReply:
    """Takes the replies to MULTI, to what was queued and to EXEC; the last one is the client's."""

    __slots__ = ("_fault", "_left", "_line", "_slot")

    def __init__(self, count: int, slot: Slot, line: DedicatedConnection | None = None) -> None:
        self._left = count
        self._slot = slot
        self._line = line
        self._fault = b""

    def fill(self, reply: bytes) -> None:
        """Take one reply; each command gets one, be it that it was not sent or its outcome is unknown."""
        self._left -= 1
        if self._left:
            if reply[:1] == b"-" and not self._fault:
                self._fault = reply
            return
        aborted = reply.startswith(b"-EXECABORT")
        if self._line is not None:
            # After any other error it is not known what the line's server still watches.
            if aborted or reply[:1] != b"-":
                self._line.release()
            else:
                self._line.end()
        if aborted and self._fault:
            # The client was told that this command is queued, and learns here why it was not.
            reply = error_reply(f"{_EXECABORT}: {self._fault[1:-2].decode('utf-8', 'replace')}")
        self._slot.fill(reply)


HANDLERS: dict[str, Handler] = {
    "multi": multi,
    "exec": execute,
    "discard": discard,
    "watch": watch,
    "unwatch": unwatch,
}
