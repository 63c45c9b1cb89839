"""WATCH and UNWATCH: keys are watched on a connection of the client's own.

EXEC goes over it, too; where a watched key may have changed its shard meanwhile, EXEC answers null.
"""

from __future__ import annotations

from collections.abc import MutableSet, Sequence

from helios.placement.routing import Routes
from helios.resp.encoding import OK, error_reply
from helios.resp.wire import encode_command
from helios.router.commands.handlers import Handler
from helios.router.commands.lookup import find_owners
from helios.router.commands.queueing import not_inside
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply, cross_shard
from helios.router.frontend.caller import DONE, WAIT_ALL, WAIT_REPLY, Caller, LastSlot, Slot, WatchedKeys
from helios.router.upstream.dedicated import DedicatedConnection
from helios.router.upstream.state import ConnectionState

_UNWATCH = encode_command([b"UNWATCH"])


class Watch:
    """Keys of one shard that a caller watches, on a connection of its own."""

    __slots__ = ("_watches", "broken", "connection", "keys", "size")

    def __init__(self, connection: DedicatedConnection, watches: MutableSet[WatchedKeys]) -> None:
        self.connection = connection
        self.keys: list[bytes] = []
        self.size = 0
        self.broken = False
        self._watches = watches
        watches.add(self)

    def add(self, keys: Sequence[bytes]) -> None:
        """Watch these, too."""
        self.keys += keys
        self.size += sum(map(len, keys))

    def holds(self, variant: int) -> bool:
        """Whether the server can still say if a key has changed."""
        return not self.broken and self.connection.state is ConnectionState.READY and self.connection.variant == variant

    def follow(self, routes: Routes) -> None:
        """Break where a key has another owner now: what the connection's server says of it counts no more, forever."""
        shard = self.connection.shard
        if not self.broken and (routes.empty or any(routes.owner(key) != shard for key in self.keys)):
            self.broken = True

    def detach(self) -> DedicatedConnection:
        """Watch no longer; the connection is the caller's to use or give back."""
        self._watches.discard(self)
        return self.connection

    def end(self) -> None:
        """Watch no longer, and give the connection back."""
        connection = self.detach()
        if connection.state is ConnectionState.READY and connection.answered == connection.issued:
            connection.send(_UNWATCH, _Cleared(connection))
        else:
            connection.end()


def watched_by(caller: Caller) -> Watch | None:
    """What a caller watches."""
    assert caller.watch is None or isinstance(caller.watch, Watch)
    return caller.watch


class _Cleared:
    """Gives a connection back when nothing is watched on it any more."""

    __slots__ = ("_connection",)

    def __init__(self, connection: DedicatedConnection) -> None:
        self._connection = connection

    def fill(self, reply: bytes) -> None:
        """Take the reply to UNWATCH."""
        if reply == OK:
            self._connection.release()
        else:
            self._connection.end()


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
        return not_inside(caller, "watch")
    if caller.replies:
        return WAIT_ALL
    keys, held = argv[1:], watched_by(caller)
    owners = find_owners(router, caller, keys, writes=False)
    if isinstance(owners, int):
        return owners
    if held is not None and held.broken:
        caller.answer(OK)  # EXEC will answer null already.
        return DONE
    if held is not None:
        owners.append(held.connection.shard)
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
            held = caller.watch = Watch(router.pool.dedicated_connection(owners[0], caller.variant), router.watches)
        except ErrorReply as error:
            caller.answer(error.raw)
            return DONE
    slot = LastSlot(caller)
    caller.replies.append(slot)
    reply = _WatchReply(caller, held, slot)
    held.add(keys)
    held.connection.send(encode_command(argv), reply)
    return WAIT_REPLY


def unwatch(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Watch nothing any more."""
    stop_watching(caller)
    caller.answer(OK)
    return DONE


def stop_watching(caller: Caller) -> None:
    if caller.watch is not None:
        caller.watch.end()
        caller.watch = None


HANDLERS: dict[str, Handler] = {"watch": watch, "unwatch": unwatch}
