"""One multiplexed connection to a shard's leader: batched writes, ordered replies, and what becomes of both on loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from hashlib import md5
from typing import TypeAlias

from helios.errors import HeliosError
from helios.model.topology import Member
from helios.ports.engine import UserRole
from helios.resp.encoding import error_reply
from helios.router._fast_path import write_all
from helios.router.errors import NOT_EXECUTED, PERHAPS_EXECUTED, refusals
from helios.router.frontend.caller import NO_TOUCH, Waiter
from helios.router.options import RouterOptions
from helios.router.upstream.connection import Busy, Wire, check_leads, greeted, named
from helios.router.upstream.host import ConnectionHost
from helios.router.upstream.marks import Marks
from helios.router.upstream.state import ConnectionState
from helios.router.upstream.watchdog import WatchedQueue

logger = logging.getLogger(__name__)
_NEVER_NS = (1 << 63) - 1
Orphaned: TypeAlias = tuple[int, bytes, int]  # client id, server's run id, commands unanswered


class ServerConnection(WatchedQueue):
    """A queue of commands to one member, over one connection at a time, for clients of one RESP version.

    Every command has a sequence number: `issued` counts those taken, `answered` those whose outcome can
    change no more. A command whose connection was lost stays unanswered until that connection is known
    to be dead at the server, although its sender has been told at once. What every command passes
    through, `send` and `received`, is compiled (`_fast_path.pyx`).
    """

    role = UserRole.ROUTER

    def __init__(self, shard: str, member: Member, variant: int, host: ConnectionHost, options: RouterOptions) -> None:
        super().__init__(
            max_commands=options.member_commands,
            max_bytes=options.member_bytes,
            pushes=variant % 2 == 1,
            lease=host.lease,
            big_keys=host.big_keys,
        )
        self.shard = shard
        self.member = member
        self.variant = variant
        self.protocol = 2 + variant % 2
        self.state = ConnectionState.IDLE
        self.last_fault = "not connected yet"
        self.history = ""  # the replication id under which the server has to lead; empty: any
        self.run = 0  # tells the server's processes apart: bits of a digest of its run id
        self._host = host
        self.configure(options)
        self._loop = asyncio.get_running_loop()
        self._wire = None
        self._known_heavy: bytes | None = None  # the command whose big reply flows, or flowed last
        self._nudged = asyncio.Event()
        self._orphaned: list[Orphaned] = []
        self._settled = Marks(lambda mark: self.answered >= mark or self._state is ConnectionState.CLOSED)
        self._told = Marks(self.is_told)
        self._task: asyncio.Task[None] | None = None
        self._watchdog = None

    # --- commands ---

    @property
    def state(self) -> ConnectionState:
        """What becomes of commands now."""
        return self._state

    @state.setter
    def state(self, state: ConnectionState) -> None:
        self._state = state
        self.ready = state is ConnectionState.READY

    def admits(self, waiter: Waiter) -> bool:
        """Whether a command may be queued while there is no connection; answers the waiter if not."""
        if self._state is ConnectionState.IDLE:
            self._connect()
        elif self._state is not ConnectionState.CONNECTING:
            waiter.fill(self.down())
            return False
        return True

    @property
    def max_reply_bytes(self) -> int:
        """Of a reply that is passed on."""
        return self._options.reply_bytes

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts from now on."""
        self._options = options
        self.slow_ns = int(options.slow_s * 1e9) or _NEVER_NS

    def slow(self, raw: bytes, waiter: Waiter, took_ns: int) -> None:
        """Called where a command has taken long, before its reply is handed on."""
        self._host.slow(raw, waiter, took_ns / 1e9)

    def heavy_reply(self, raw: bytes) -> None:
        """Called where a client's command has a big reply: the next time it goes over a link of its own."""
        self._host.heavy.learn(raw)

    def _big_reply(self) -> None:
        """Called now and then while a big reply flows: what comes meanwhile should not wait until it is through."""
        raw = self.oldest()
        if raw is not None and raw is not self._known_heavy:
            self._known_heavy = raw
            self.heavy_reply(raw)
        self._host.reroute(self)

    def schedule(self) -> None:
        """Called with the first command of a turn of the loop; all that come in that turn are written at once."""
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.scheduled = False
        if self.state is not ConnectionState.READY or not self.out:
            return
        assert self._wire is not None and self._wire.transport is not None
        if not self.lease.lasts():
            self._fail_unsent(error_reply("CLUSTERDOWN this router has lost its lease; nothing was executed"))
            return
        out, self.out = self.out, []
        self._host.hot_keys.passed(self.shard, out)
        write_all(self._wire.transport, out)
        if self._watchdog is None:
            self._watch(self.answered)

    @property
    def client_id(self) -> int:
        """What the server calls the present connection; 0 while there is none."""
        return self._wire.client_id if self._wire is not None else 0

    @property
    def run_id(self) -> bytes:
        """The run of the server that the present connection is to."""
        return self._wire.run_id if self._wire is not None else b""

    # --- acknowledgement ---

    async def settled(self, mark: int) -> None:
        """Wait until the first `mark` commands can change nothing any more."""
        await self._settled.wait(mark)

    async def told(self, mark: int) -> None:
        """Wait until whoever sent the first `mark` commands knows what became of them, or that nobody does."""
        await self._told.wait(mark)

    def is_told(self, mark: int) -> bool:
        """Whether that is so already."""
        return self.issued - len(self.waiters) >= mark and not self.parked_count

    def look(self) -> None:
        """Let those go on that wait for what is so now."""
        self._settled.look()
        self._told.look()

    def give_up(self, reason: str) -> None:
        """Wait for the server no longer: what is under way is told as unknown, and the connection made anew."""
        self._fail_unsent(self.down())
        if self._wire is not None:
            self._wire.abort(reason)

    # --- errors ---

    def down(self) -> bytes:
        """The reply to a command while there is no connection."""
        place = f"{self.shard} does not answer at {self.member.address}"
        return error_reply(f"CLUSTERDOWN {place} ({self.last_fault}); nothing was executed")

    def stood_down(self, reply: bytes) -> bytes:
        """The reply to a command that a server refuses since it leads no more."""
        said = reply[1:-2].decode("utf-8", "replace").removesuffix(".")
        place = f"{self.shard} is not led by the server at {self.member.address}"
        return error_reply(f"CLUSTERDOWN {place} ({said}){NOT_EXECUTED}")

    def misunderstood(self, reply: bytes, error: Exception) -> bytes:
        """The reply to a command whose own is of a kind that it never has."""
        logger.error("a reply is not understood: server=%s reply=%r", self.member.address, reply[:100], exc_info=error)
        said = f"{self.shard} at {self.member.address} gave a reply that is not understood ({reply[:40]!r})"
        return error_reply(f"UNKNOWN {said}{PERHAPS_EXECUTED}")

    def overloaded(self) -> bytes:
        """The reply to a command that finds the queue full."""
        return error_reply(
            f"OVERLOADED {self.shard} at {self.member.address} has {len(self.waiters)} commands "
            f"({self.queued_bytes} bytes) unanswered; nothing was executed"
        )

    def unconfirmed(self) -> bytes:
        """The reply to a write that too few members could confirm."""
        said = f"{self.shard} has a leader at {self.member.address}, but no majority of its members follows it"
        return error_reply(f"NOREPLICAS {said}{NOT_EXECUTED}")

    def _fail_unsent(self, reply: bytes) -> None:
        """Answer what has not been written yet; it has not happened and never will."""
        for waiter in self.take_unsent():
            waiter.fill(reply)
        self.look()

    def _fail_sent(self) -> int:
        """Tell the senders of what was written and not answered for certain; how many the server has yet to answer."""
        lost = f"the connection to {self.shard} at {self.member.address} was lost ({self.last_fault})"
        if self.parked_count:
            assert self.rounds is not None, "replies are parked for its rounds"
            self.rounds.forget(self)
            self.refuse(self.parked_count, *refusals(f"{lost} before a majority of its members had confirmed it"))
        reply, waiters = error_reply(f"UNKNOWN {lost}{PERHAPS_EXECUTED}"), self.take_sent()
        for waiter in waiters:
            waiter.fill(reply)
        return len(waiters)

    # --- the connection ---

    def _connect(self) -> None:
        self.state = ConnectionState.CONNECTING
        self._task = self._loop.create_task(self._keep_connected(), name=f"link to {self.member.id}")

    def connect(self) -> None:
        """Open the connection if nothing has been sent yet."""
        if self.state is ConnectionState.IDLE:
            self._connect()

    def retry(self) -> None:
        """Try at once where the next attempt was to come later: something has changed at the server."""
        if self.state is ConnectionState.DOWN:
            self.state = ConnectionState.CONNECTING  # what comes now waits for the attempt
            self._nudged.set()

    async def _pause(self, longest_s: float) -> None:
        self._nudged.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._nudged.wait()

    async def _keep_connected(self) -> None:
        options = self._options
        backoff = options.min_backoff_s
        while True:
            try:
                wire = await self._open()
            except (OSError, HeliosError) as error:
                self.last_fault = str(error) or type(error).__name__
                self.state = ConnectionState.DOWN
                self._fail_unsent(self.down())
                # A busy server is asked again at once: nobody should have to wait once its script has ended.
                await self._pause(options.min_backoff_s if isinstance(error, Busy) else backoff)
                backoff = min(backoff * 2, options.max_backoff_s)
                continue
            backoff = options.min_backoff_s
            self.state = ConnectionState.READY
            self._flush()
            self.last_fault = await wire.lost
            self._lost(wire)

    def _lost(self, wire: Wire) -> None:
        """The connection has ended by itself: what was in flight may still run until it is known to be dead."""
        self._wire = None
        self.state = ConnectionState.CONNECTING
        self._unwatch()
        self._fail_unsent(self.down())
        sent = self._fail_sent()
        if sent:
            self._orphaned.append((wire.client_id, wire.run_id, sent))
        self.look()

    async def _open(self) -> Wire:
        """A connection that has been greeted, and behind which no former one can act any more."""
        commands = [[b"INFO", b"server", b"replication"] if self.history else [b"INFO", b"server"]]
        if self.variant >= NO_TOUCH:
            commands.append([b"CLIENT", b"NO-TOUCH", b"ON"])
        async with self._host.opening.in_time(self._options):
            wire, replies = await greeted(
                self.member, self._host, self._options, self.protocol, *commands, role=self.role
            )
            try:
                said = named(replies[0])
                wire.run_id = said.get(b"run_id", b"")
                check_leads(replies[0], self.history)
                await self._end_orphaned(wire)
            except BaseException:
                wire.abort("it could not be used")
                raise
        self._host.learned(said)
        self.run = int.from_bytes(md5(wire.run_id, usedforsecurity=False).digest()[:2], "big")
        wire.receive = self._received
        wire.big_reply = self._big_reply
        self._wire = wire
        return wire

    def _received(self, replies: list[bytes]) -> str | None:
        reason = self.received(replies)
        self.look()
        return reason

    async def _end_orphaned(self, wire: Wire) -> None:
        """End the connections that were lost with commands unanswered; none of these runs after this returns."""
        # Another run of the server knows nothing of them, and may have given their ids to others.
        here = [client_id for client_id, run_id, _ in self._orphaned if run_id == wire.run_id]
        if here:
            await wire.end_others(here)
        self.answered += sum(count for _, _, count in self._orphaned)
        self._orphaned = []
        self.look()

    def left_behind(self) -> list[Orphaned]:
        """The connections on which something would be unanswered if this were closed now."""
        sent, wire = len(self.waiters) - len(self.out), self._wire
        return [*self._orphaned, *([(wire.client_id, wire.run_id, sent)] if wire is not None and sent else ())]

    def take_over(self, orphaned: list[Orphaned]) -> None:
        """Of a new link: end these connections, which led to the same server, before anything else."""
        self._orphaned += orphaned
        self.issued += sum(count for _, _, count in orphaned)
        self.connect()

    def close(self, reason: str) -> None:
        """End the connection for good; what waits for it is answered now."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self.last_fault = reason
        if self._task is not None:
            self._task.cancel()
        self._unwatch()
        if self._wire is not None:
            self._wire.abort(reason)
            self._wire = None
        self._fail_unsent(self.down())
        self._fail_sent()
        self.look()
