"""MULTI and EXEC: commands are queued here and sent together, to one shard.

A transaction that watches nothing goes over the link that all clients share, another over the connection on which its
keys are watched (see watching.py).
"""

from __future__ import annotations

from helios.errors import HeliosError
from helios.resp.encoding import EMPTY_ARRAY, NULL_ARRAY, OK, array, error_reply
from helios.resp.wire import elements, encode_command
from helios.router.commands import scripting
from helios.router.commands.handlers import Handler
from helios.router.commands.lookup import find_owners
from helios.router.commands.queueing import QUEUED, not_inside
from helios.router.commands.watching import stop_watching, watched_by
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply, cross_shard
from helios.router.frontend.caller import DONE, IN_MULTI, WAIT_ALL, WAIT_REPLY, Caller, LastSlot, Slot, Waiter
from helios.router.frontend.transaction import OwnCommands, Transaction
from helios.router.upstream.dedicated import DedicatedConnection

_MULTI, _EXEC = encode_command([b"MULTI"]), encode_command([b"EXEC"])
_WITHOUT_MULTI = "; what need not be atomic works in a pipeline without MULTI (redis-py: transaction=False)"
_EXECABORT = "EXECABORT Transaction discarded because of"
# What is not queued but carried out at once.
AT_ONCE = frozenset(("multi", "exec", "discard", "watch", "reset", "quit"))


def multi(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Queue the commands that follow."""
    if caller.transaction is not None:
        return not_inside(caller, "multi")
    caller.transaction = Transaction()
    caller.modes |= IN_MULTI
    caller.answer(OK)
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
    stop_watching(caller)
    caller.answer(OK)
    return DONE


def abort(caller: Caller, error: bytes) -> None:
    """End a transaction because of an error, which is told."""
    _leave(caller)
    stop_watching(caller)
    text = error[1:-2].decode("utf-8", "replace").removeprefix("ERR ")
    caller.answer(error_reply(f"{_EXECABORT}: {text}"))


def execute(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """EXEC: carry out what was queued, all of it or nothing, with nothing of others in between."""
    transaction, watched = caller.transaction, watched_by(caller)
    if transaction is None:
        caller.answer(error_reply("ERR EXEC without MULTI"))
        return DONE
    if transaction.failed:
        return _answer(caller, error_reply(f"{_EXECABORT} previous errors."))
    if watched is None and not transaction.frames:
        own = transaction.own
        _leave(caller)
        last = LastSlot(caller)
        caller.replies.append(last)
        _Woven(router, caller, own, last).fill(EMPTY_ARRAY)
        return WAIT_REPLY
    if watched is not None and caller.replies:
        return WAIT_ALL  # They may be on another connection, and it must not overtake them.
    if watched is not None and not watched.holds(caller.variant):
        return _answer(caller, NULL_ARRAY[caller.protocol])
    keys = transaction.keys if watched is None else transaction.keys + watched.keys
    owners = find_owners(router, caller, keys, writes=transaction.writes)
    if isinstance(owners, int):
        if owners == DONE:
            _leave(caller)
            stop_watching(caller)
        return owners
    if len(set(owners)) > 1:
        return _answer(caller, cross_shard(owners, "a transaction, with all that it watches,", _WITHOUT_MULTI))
    frames = [_MULTI, *transaction.frames, _EXEC]
    _leave(caller)
    if watched is None:
        # What the router answers itself may change what the next command means.
        slot = LastSlot(caller) if transaction.own else Slot(caller)
        caller.replies.append(slot)
        assert router.routes is not None
        link = router.pool.link(owners[0] if owners else router.routes.home, caller.variant)
        scripting.prepare(router, link, transaction.calls)
        link.send_together(frames, _ExecReply(len(frames), _woven(router, caller, transaction, slot)), transaction.kind)
        return WAIT_REPLY if transaction.own else DONE
    connection, caller.watch = watched.detach(), None
    slot = LastSlot(caller)
    caller.replies.append(slot)
    scripting.prepare(router, connection, transaction.calls)
    reply = _ExecReply(len(frames), _woven(router, caller, transaction, slot), connection)
    connection.send_together(frames, reply, transaction.kind)
    return WAIT_REPLY


def _answer(caller: Caller, reply: bytes) -> int:
    """Answer EXEC where nothing is carried out."""
    _leave(caller)
    stop_watching(caller)
    caller.answer(reply)
    return DONE


class _ExecReply:
    """Takes the replies to MULTI, to what was queued and to EXEC; the last one is the client's."""

    __slots__ = ("_connection", "_fault", "_left", "_waiter")

    def __init__(self, count: int, waiter: Waiter, connection: DedicatedConnection | None = None) -> None:
        self._left = count
        self._waiter = waiter
        self._connection = connection
        self._fault = b""

    def fill(self, reply: bytes) -> None:
        """Take one reply; each command gets one, be it that it was not sent or its outcome is unknown."""
        self._left -= 1
        if self._left:
            if reply[:1] == b"-" and not self._fault:
                self._fault = reply
            return
        aborted = reply.startswith(b"-EXECABORT")
        if self._connection is not None:
            # After any other error it is not known what the connection's server still watches.
            if aborted or reply[:1] != b"-":
                self._connection.release()
            else:
                self._connection.end()
        if aborted and self._fault:
            # The client was told that this command is queued, and learns here why it was not.
            reply = error_reply(f"{_EXECABORT}: {self._fault[1:-2].decode('utf-8', 'replace')}")
        self._waiter.fill(reply)


def _woven(router: RouterContext, caller: Caller, transaction: Transaction, slot: Slot) -> Waiter:
    return _Woven(router, caller, transaction.own, slot) if transaction.own else slot


class _Woven:
    """Puts what the router answers itself among the replies of a shard to the rest of a transaction."""

    __slots__ = ("_caller", "_own", "_router", "_slot")

    def __init__(self, router: RouterContext, caller: Caller, own: OwnCommands, slot: Slot) -> None:
        self._router = router
        self._caller = caller
        self._own = own
        self._slot = slot

    def fill(self, reply: bytes) -> None:
        """Take the reply to EXEC; where nothing was carried out, nothing is added."""
        if reply[:1] != b"*" or reply.startswith(b"*-1"):
            self._slot.fill(reply)
        else:
            self._router.fill_later(self._slot, self._whole(elements(reply)))

    async def _whole(self, replies: list[bytes]) -> bytes:
        for place, (name, argv) in sorted(self._own.items()):
            replies.insert(place, await self._answer(name, argv))
        return array(replies)

    async def _answer(self, name: str, argv: list[bytes]) -> bytes:
        """The reply to one command; its errors are replies among others."""
        try:
            return await QUEUED[name](self._router, self._caller, argv)
        except ErrorReply as error:
            return error.raw
        except HeliosError as error:
            return error_reply(f"{error.code} {error}")


HANDLERS: dict[str, Handler] = {
    "multi": multi,
    "exec": execute,
    "discard": discard,
}
