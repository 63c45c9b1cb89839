"""Connections to a shard's leader that one client has for itself: to watch keys, and to wait for elements.

A dedicated connection is a ServerConnection with the same rules about leases, order and losses. What is special: it
belongs to one client at a time; when its connection is lost it does not come back; and what its server calls the
connection is used to wake or end what waits there, through the link that all clients share.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from helios.errors import HeliosError
from helios.model.topology import Member, Shard
from helios.resp.encoding import error_reply
from helios.resp.wire import encode_command
from helios.router._fast_path import CommandStats
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import FutureReply, Waiter
from helios.router.options import RouterOptions
from helios.router.upstream.host import ConnectionHost
from helios.router.upstream.link import ServerConnection
from helios.router.upstream.state import ConnectionState
from helios.router.upstream.watchdog import LOOKS

Mark: TypeAlias = tuple[ServerConnection, int]
SharedLink = Callable[[str], ServerConnection]
UNBLOCKED = b"-UNBLOCKED"
NOT_SENT = UNBLOCKED + b" it was not sent\r\n"
_FIRST_PAUSE_S = 0.002
_PING = b"*1\r\n$4\r\nPING\r\n"


class DedicatedConnection(ServerConnection):
    """A connection for one client at a time, got from DedicatedConnections and given back there.

    `keys` are those of the command that waits at the server, None while none does: such a command is not expected to
    be answered soon.
    """

    def __init__(
        self,
        shard: str,
        member: Member,
        variant: int,
        host: ConnectionHost,
        options: RouterOptions,
        dedicated: DedicatedConnections,
    ) -> None:
        super().__init__(shard, member, variant, host, options)
        self.keys: Sequence[bytes] | None = None
        self._lines = dedicated
        self._waking: asyncio.Task[None] | None = None
        self._ending = False  # its connection is lost or given up, and it sees to the rest itself

    # --- for its client ---

    def block(self, raw: bytes, waiter: Waiter, keys: Sequence[bytes], kind: CommandStats) -> None:
        """Send a command that waits for something in `keys`, counted as one of that kind."""
        self.keys = keys
        self.send_as(raw, waiter, kind)

    def wake(self) -> None:
        """Make the command that waits be answered now with UNBLOCKED, unless something comes for it first.

        What has not been sent yet is taken back.
        """
        if self.out:
            self.keys = None
            self._fail_unsent(NOT_SENT)
        elif self.answered < self.issued and (self._waking is None or self._waking.done()):
            self._waking = self._loop.create_task(self._wake())

    async def _wake(self) -> None:
        mark, client_id, run_id, pause = self.issued, self.client_id, self.run_id, _FIRST_PAUSE_S
        while self.answered < mark and self._state is ConnectionState.READY:
            if await self._about(run_id, [b"CLIENT", b"UNBLOCK", b"%d" % client_id, b"ERROR"]) is None:
                return
            # The command may not have reached the server yet, or its reply is on the way.
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._options.min_backoff_s)

    async def _about(self, run_id: bytes, command: list[bytes]) -> bytes | None:
        """What the server says to a command about this connection; None if that run of it is over.

        Until it returns, the command may be carried out at any time; after that, no more.
        """
        pause = self._options.min_backoff_s
        while True:
            link = self._lines.shared(self.shard)
            if link.state is ConnectionState.READY:
                if link.run_id != run_id:
                    return None
                reply = FutureReply()
                link.send(encode_command(command), reply)
                answer = await reply
                if answer[:1] != b"-":
                    return answer
            link.connect()
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._options.max_backoff_s)

    def slow(self, raw: bytes, waiter: Waiter, took_ns: int) -> None:
        """A command that waits for elements takes its time."""
        if self.keys is None:
            super().slow(raw, waiter, took_ns)

    def release(self) -> None:
        """Its client does not need it any more, and nothing is watched on it. What waits is ended at the server."""
        if self._ending or self.answered < self.issued:
            self.end()
        elif self._waking is not None and not self._waking.done():
            self._waking.add_done_callback(lambda _: self.release())
        else:
            self.keys = None
            self._lines.put_back(self)

    def end(self) -> None:
        """Its client has gone: end the connection, and make sure that what was sent on it does not run any more."""
        self.keys = None
        if self._ending:
            return
        if self._wire is None or self.answered == self.issued:
            self.close("its client has left")
        else:
            self._ending = True
            self._wire.abort("its client has left")

    # --- the connection ---

    async def _keep_connected(self) -> None:
        try:
            wire = await self._open()
        except (OSError, HeliosError) as error:
            self.close(str(error) or type(error).__name__)
            return
        self.state = ConnectionState.READY
        self._flush()
        self.last_fault = await wire.lost
        self.keys = None
        self._ending = True
        self._lost(wire)
        self.state = ConnectionState.DOWN
        self._fail_unsent(self.down())
        for client_id, run_id, _ in self._orphaned:
            await self._about(run_id, [b"CLIENT", b"KILL", b"ID", b"%d" % client_id])
        self.answered += sum(count for _, _, count in self._orphaned)
        self.look()
        self.close(self.last_fault)

    def _look(self, answered_then: int, kept_then: int, looks: int) -> None:
        """A command that waits is no sign that the server is dead; it is asked for one."""
        if self.keys is None:
            super()._look(answered_then, kept_then, looks)
            return
        self._watchdog = None
        if self.answered < self.issued and looks < LOOKS:
            self._watch(answered_then, kept_then, looks)
        elif self.answered < self.issued:
            pong = FutureReply()
            pong.add_done_callback(self._heard)
            self._lines.shared(self.shard).send(_PING, pong)

    def _heard(self, pong: asyncio.Future[bytes]) -> None:
        if self._wire is None or self._watchdog is not None or self.answered == self.issued:
            return
        if pong.result()[:1] == b"-":
            self._wire.abort(pong.result()[1:-2].decode("utf-8", "replace"))
        else:
            self._watch(self.answered)

    def close(self, reason: str) -> None:
        """End the connection for good; what waits for it is answered now."""
        self._lines.forget(self)
        if self._waking is not None:
            self._waking.cancel()
        super().close(reason)


class DedicatedConnections:
    """A router's dedicated connections by shard: those in use, those that are being ended, and a few in reserve."""

    def __init__(
        self,
        host: ConnectionHost,
        options: RouterOptions,
        shared: SharedLink,
        tie: Callable[[Shard, ServerConnection], None],
    ) -> None:
        self.shared = shared
        self._tie = tie
        self._host = host
        self._options = options
        self._all: dict[str, set[DedicatedConnection]] = {}
        self._idle: dict[tuple[str, int], list[DedicatedConnection]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._all.values()))

    def take(self, shard: Shard, variant: int) -> DedicatedConnection:
        """A connection for one client. Raises ErrorReply where the shard is known to be away, or there are too many."""
        shared = self.shared(shard.id)
        shared.connect()  # What waits on a connection can be woken through it alone.
        if shared.state is ConnectionState.DOWN:
            raise ErrorReply(shared.down())
        idle = self._idle.get((shard.id, variant))
        if idle:
            return idle.pop()
        dedicated = self._all.setdefault(shard.id, set())
        if len(dedicated) >= self._options.dedicated:
            raise ErrorReply(
                error_reply(
                    f"OVERLOADED {len(dedicated)} clients of this router have a connection to {shard.id} of their own "
                    "(to watch keys or to wait for elements); nothing was executed"
                )
            )
        connection = DedicatedConnection(shard.id, shard.leading, variant, self._host, self._options, self)
        self._tie(shard, connection)
        dedicated.add(connection)
        return connection

    def put_back(self, connection: DedicatedConnection) -> None:
        """Keep the connection for the next client, or end it."""
        idle = self._idle.setdefault((connection.shard, connection.variant), [])
        usable = connection.state in (ConnectionState.READY, ConnectionState.CONNECTING)
        if usable and len(idle) < self._options.idle_dedicated:
            idle.append(connection)
        else:
            connection.close("it is not needed")

    def forget(self, connection: DedicatedConnection) -> None:
        """The connection has been closed."""
        self._all.get(connection.shard, set()).discard(connection)
        idle = self._idle.get((connection.shard, connection.variant), [])
        if connection in idle:
            idle.remove(connection)

    def marks(self, shards: Iterable[str], fenced: Callable[[bytes], bool]) -> list[Mark]:
        """What has been issued to these shards and not been answered, and does not wait for other keys alone."""
        return [
            (connection, connection.issued)
            for shard in set(shards)
            for connection in self._all.get(shard, ())
            if connection.answered < connection.issued
            and (connection.keys is None or any(map(fenced, connection.keys)))
        ]

    def of(self, shard: str) -> list[DedicatedConnection]:
        """Those to a shard."""
        return list(self._all.get(shard, ()))

    def end(self, ended: Mapping[str, str]) -> None:
        """Let go of the connections to servers that lead their shard no longer, and why."""
        for shard, reason in ended.items():
            for connection in self.of(shard):
                connection.close(reason)

    def tie(self, shards: Mapping[str, Shard]) -> None:
        """Have all to these shards know what their members have to agree on."""
        for shard in shards.keys() & self._all.keys():
            for connection in self._all[shard]:
                self._tie(shards[shard], connection)

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts and limits from now on."""
        self._options = options
        for dedicated in self._all.values():
            for connection in dedicated:
                connection.configure(options)

    def close(self, reason: str) -> None:
        """End every connection; what was in flight is answered with an error."""
        for dedicated in self._all.values():
            for connection in list(dedicated):
                connection.close(reason)
