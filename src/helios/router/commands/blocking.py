"""Commands that wait at a server for something to come, and follow their keys where these go.

Each waits on a connection of its own. When one of its keys is fenced or gets another owner, it is woken at the server,
which says that nothing was done, and its caller runs it again with what is left of its time: held, at the new owner, or
where it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from helios.placement.routing import Routes
from helios.resp.blocking import Timeout, new_entries_of
from helios.resp.commands import Command
from helios.resp.encoding import NULL_ARRAY, error_reply
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import encode_command
from helios.router.commands.argument_check import refuse_cross_shard
from helios.router.commands.keyspace import decoded
from helios.router.commands.lookup import find_owners
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import ANSWERING, CLOSED, DONE, WAIT_ALL, WAIT_REPLY, Caller, LastSlot
from helios.router.frontend.connection import ClientConnection
from helios.router.upstream.dedicated import NOT_SENT, UNBLOCKED, DedicatedConnection


def block(
    router: RouterContext,
    caller: Caller,
    raw: bytes,
    argv: list[bytes],
    command: Command,
    timeout: Timeout,
    positions: Sequence[int],
) -> int:
    """Carry out a command that may wait; what becomes of the caller is in the result."""
    if caller.replies:
        return WAIT_ALL  # They may be on another connection, and it must not overtake them.
    keys = [argv[position] for position in positions]
    owners = find_owners(router, caller, keys, writes=command.writes)
    if isinstance(owners, int):
        return owners
    if len(set(owners)) > 1:
        return refuse_cross_shard(router, caller, argv, command, positions, owners)
    try:
        shard = owners[0] if owners else router.topology.shards[0].id
        connection = router.pool.dedicated_connection(shard, caller.variant)
    except ErrorReply as error:
        caller.answer(error.raw)
        return DONE
    now = caller.outbox.now()
    if caller.resumed is not None and caller.resumed[0] is argv:
        deadline = caller.resumed[1]
    elif caller.ending:
        deadline = now  # It has hung up: it may get what is there, but nobody waits.
    else:
        seconds = timeout.seconds(argv)
        deadline = None if seconds is None else now + seconds
    if deadline is not None and (caller.resumed is not None or caller.ending):
        argv = timeout.shortened(argv, deadline - now)
        raw = encode_command(argv)
    caller.resumed = None
    caller.call = Blocked(router, caller, connection, raw, argv, command, keys, deadline)
    caller.call.issue()
    return WAIT_REPLY


class Blocked:
    """One command that waits on a connection, where it is its own waiter.

    `deadline` is by the loop's time, None forever.
    """

    def __init__(
        self,
        router: RouterContext,
        caller: Caller,
        connection: DedicatedConnection,
        raw: bytes,
        argv: list[bytes],
        command: Command,
        keys: Sequence[bytes],
        deadline: float | None,
    ) -> None:
        self._router = router
        self._caller = caller
        self._connection = connection
        self._raw = raw
        self._argv = argv
        self._command = command
        self.keys = keys
        self._deadline = deadline
        self._woken = False
        self._abandoned = False
        self._last: bytes | None = None  # what the caller is answered if the wait is cut short
        self._slot = LastSlot(caller)
        caller.replies.append(self._slot)
        router.blocked.add(self)

    def issue(self) -> None:
        """Send it to the server."""
        news = new_entries_of(self._command, self._argv)
        if news:
            # "$" means what comes from now on, also when the command is sent again later.
            _StreamEnds(self, self._connection, self._argv, news)
        else:
            self._connection.block(self._raw, self, self.keys, self._router.totals.kind_of(self._command))

    def issue_from(self, argv: list[bytes]) -> None:
        """Send it with ends of streams that have been looked up, unless it has been woken meanwhile."""
        self._argv, self._raw = argv, encode_command(argv)
        if self._woken:
            self.fill(NOT_SENT)
        else:
            self._connection.block(self._raw, self, self.keys, self._router.totals.kind_of(self._command))

    def follow(self, routes: Routes) -> None:
        """Wake it if a key of it is fenced or lives elsewhere now."""
        shard = self._connection.shard
        if routes.empty or any(routes.fenced(key) or routes.owner(key) != shard for key in self.keys):
            self._wake()

    def unblock(self, *, as_error: bool) -> None:
        """Let the caller go on, with an error or as if the time had run out; unless something came for it first."""
        self.cut(
            error_reply("UNBLOCKED client unblocked via CLIENT UNBLOCK")
            if as_error
            else NULL_ARRAY[self._caller.protocol]
        )

    def cut(self, reply: bytes) -> None:
        """Answer the caller with this, unless something came for it first."""
        self._last = reply
        self._wake()

    def _wake(self) -> None:
        self._woken = True
        self._connection.wake()

    def abandon(self) -> None:
        """The caller has gone: nothing may be taken from the keys for it any more."""
        self._abandoned = True
        self._router.blocked.discard(self)
        self._connection.end()

    def fill(self, reply: bytes) -> None:
        """Take the reply, or go where the keys have gone."""
        caller, connection = self._caller, self._connection
        self._router.blocked.discard(self)
        if caller.call is self:
            caller.call = None
        connection.release()
        if self._abandoned:
            return  # An error that nobody is told is none.
        if reply.startswith(UNBLOCKED) and reply != NOT_SENT and (self._last or b"")[:1] != b"-":
            self._router.totals.kind_of(self._command).failed -= 1  # its server was told to say so: no client fails
        if reply.startswith(UNBLOCKED) and self._last is not None:
            reply = self._last
        elif (reply.startswith(UNBLOCKED) or self._harmless(reply)) and caller.last_slot() is self._slot:
            if not caller.stops & CLOSED:
                caller.replies.pop()
                caller.waiting.insert(0, (self._raw, self._argv))
                caller.resumed = (self._argv, self._deadline)
                caller.go_on(ANSWERING)
                return
            reply = error_reply("CLUSTERDOWN the router is stopping; nothing was executed")
        self._slot.fill(reply)
        if caller.tracking is not None and isinstance(caller, ClientConnection):
            self._router.tracker.unblocked(caller, self.keys, writes=self._command.writes)

    def _harmless(self, reply: bytes) -> bool:
        """Whether it was lost with its connection, and running it again changes nothing: it only reads."""
        return reply.startswith(b"-UNKNOWN") and not self._command.writes


class _StreamEnds:
    """Looks up the last entries of streams of which what comes from now on is wanted, and names them instead."""

    def __init__(
        self, call: Blocked, connection: DedicatedConnection, argv: list[bytes], news: Sequence[tuple[int, int]]
    ) -> None:
        self._call = call
        self._argv = list(argv)
        self._places = [place for _, place in news]
        for position, _ in news:
            connection.send(encode_command([b"XINFO", b"STREAM", argv[position]]), self)

    def fill(self, reply: bytes) -> None:
        """Take what the server says of one stream."""
        place = self._places.pop(0)
        self._argv[place] = _last_id(reply) or b"$"
        if not self._places:
            self._call.issue_from(self._argv)


def _last_id(reply: bytes) -> bytes | None:
    """The id of the last entry; None where the server does not say, as it will itself for what is no stream."""
    if reply.startswith(b"-ERR no such key"):
        return b"0-0"
    try:
        said = decoded(reply)
        fields = said if isinstance(said, dict) else dict(zip(said[::2], said[1::2], strict=True))
        return bytes(fields[b"last-generated-id"])
    except (ErrorReply, *ODD_REPLY):
        return None
