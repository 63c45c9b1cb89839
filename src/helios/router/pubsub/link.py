"""One connection to a shard's leader that listens for messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from typing import Protocol

from helios.errors import HeliosError
from helios.model.topology import Member
from helios.resp.wire import elements, encode_command
from helios.router.errors import silence
from helios.router.options import RouterOptions
from helios.router.pubsub.subscriptions import Kind, Topic, in_parts
from helios.router.upstream.connection import Identities, Wire, open_wire
from helios.router.upstream.link import ConnectionState
from helios.router.upstream.marks import Marks

_PING = encode_command([b"PING"])
_SUBSCRIBED = {kind.subscribe: kind for kind in Kind}
_MESSAGE = {f"{kind.value}message".encode(): kind for kind in Kind}


class Listener(Identities, Protocol):
    """The router's side of the connections: who is told what comes."""

    def wanted(self) -> Collection[Topic]:
        """What is to be subscribed on every connection."""

    def established(self, link: SubscriberLink, topic: Topic) -> None:
        """The server has confirmed a subscription."""

    def message(self, shard: str, kind: Kind, name: bytes, channel: bytes, frame: bytes) -> None:
        """A message has come, as a RESP3 push, for what was subscribed by `name`."""

    def down(self, link: SubscriberLink) -> None:
        """The server cannot be reached; it is tried again."""


class SubscriberLink:
    """Keeps everything that is wanted subscribed at one server; a lost connection is opened again and subscribed anew.

    What is published while there is no connection is lost to its router, as with a server that restarts.
    """

    def __init__(self, shard: str, member: Member, host: Listener, options: RouterOptions) -> None:
        self.shard = shard
        self.member = member
        self.state = ConnectionState.CONNECTING
        self.last_fault = "not connected yet"
        self._host = host
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._unconfirmed: dict[Topic, int] = {}  # how often each was asked for without an answer yet
        self._asked = 0
        self._answered = 0
        self._anew = 0  # what had been asked for when the present connection had been told everything
        self._pings: deque[Callable[[], None]] = deque()
        self._marks = Marks(self.confirmed)
        self._task = self._loop.create_task(self._keep_connected(), name=f"subscriptions at {member.id}")

    # --- what is asked of it ---

    def subscribe(self, topics: Iterable[Topic]) -> None:
        """Ask for topics that are wanted now; without a connection they are asked for with all others."""
        if self.state is not ConnectionState.READY:
            return
        for kind, names in _by_kind(topics):
            for name in names:
                self._unconfirmed[kind, name] = self._unconfirmed.get((kind, name), 0) + 1
            self._asked += len(names)
            self._write(encode_command([kind.subscribe, *names]))

    def unsubscribe(self, topics: Iterable[Topic]) -> None:
        """Nobody wants these any more."""
        if self.state is ConnectionState.READY:
            for kind, names in _by_kind(topics):
                self._write(encode_command([kind.unsubscribe, *names]))

    def has(self, topic: Topic) -> bool:
        """Whether the server has confirmed a topic that is wanted."""
        return self.state is ConnectionState.READY and topic not in self._unconfirmed

    @property
    def away(self) -> bool:
        """Whether the server is known not to answer."""
        return self.state in (ConnectionState.DOWN, ConnectionState.CLOSED)

    def read_to_here(self, then: Callable[[], None]) -> None:
        """Call `then` when everything that the server has sent until now has been read, or nothing more can come."""
        if self.state is ConnectionState.READY:
            self._pings.append(then)
            self._write(_PING)
        else:
            then()

    @property
    def mark(self) -> int:
        """What has been asked for so far; `settled` waits for it."""
        return self._asked

    def confirmed(self, mark: int) -> bool:
        """Whether the server has confirmed what was asked for up to `mark`, or does not answer at all."""
        if self.state is ConnectionState.READY:
            return self._answered >= max(mark, self._anew)
        return self.state is not ConnectionState.CONNECTING

    async def settled(self, mark: int) -> None:
        """Wait until that is so."""
        await self._marks.wait(mark)

    def configure(self, options: RouterOptions) -> None:
        """Go by other times from now on."""
        self._options = options

    def close(self, reason: str) -> None:
        """End the connection for good."""
        if self.state is ConnectionState.CLOSED:
            return
        self.state = ConnectionState.CLOSED
        self.last_fault = reason
        self._task.cancel()
        if self._wire is not None:
            self._wire.abort(reason)
        self._forget()

    def retire(self, reason: str) -> None:
        """End the connection when it has been read to the end."""
        self.read_to_here(lambda: self.close(reason))

    # --- the connection ---

    async def _keep_connected(self) -> None:
        backoff = self._options.min_backoff_s
        while True:
            try:
                wire = await open_wire(self.member, self._host, self._options)
                wire.receive = self._received
            except (OSError, HeliosError) as error:
                self.last_fault = str(error) or type(error).__name__
                self.state = ConnectionState.DOWN
                self._marks.look()
                self._host.down(self)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, self._options.max_backoff_s)
                continue
            backoff = self._options.min_backoff_s
            try:
                await self._begin(wire)
                self.last_fault = await self._until_lost(wire)
            finally:
                wire.abort("it is not needed any more")
            self.state = ConnectionState.CONNECTING
            self._forget()

    async def _begin(self, wire: Wire) -> None:
        """Subscribe to everything that is wanted on a new connection."""
        topics = list(self._host.wanted())
        self._wire = wire
        self._unconfirmed = dict.fromkeys(topics, 1)
        self._asked += len(topics)
        self._anew = self._asked
        self.state = ConnectionState.READY
        self._marks.look()
        for part in in_parts(topics):
            wanted = [topic for topic in part if topic in self._host.wanted()]
            if len(wanted) < len(part):  # nobody wants the others any more
                for topic in set(part).difference(wanted):
                    self._unconfirmed.pop(topic, None)
                    self._answered += 1
                self._marks.look()
            for kind, names in _by_kind(wanted):
                self._write(encode_command([kind.subscribe, *names]))
            await asyncio.sleep(0)
            if wire.lost.done():
                return

    async def _until_lost(self, wire: Wire) -> str:
        """Why the connection has ended; it is asked now and then whether it still answers."""
        while not wire.lost.done():
            timeout_s = self._options.member_timeout_s
            answered = asyncio.Event()
            self.read_to_here(answered.set)
            await asyncio.wait((wire.lost,), timeout=timeout_s)
            if not answered.is_set():
                wire.abort(silence(timeout_s))
        return wire.lost.result()

    def _write(self, data: bytes) -> None:
        assert self._wire is not None and self._wire.transport is not None
        self._wire.transport.write(data)

    def _forget(self) -> None:
        """Nothing more comes on the connection that was."""
        self._wire = None
        self._answered = self._asked
        self._unconfirmed.clear()
        pings, self._pings = self._pings, deque()
        for then in pings:
            then()
        self._marks.look()

    # --- what comes ---

    def _received(self, frames: list[bytes]) -> str | None:
        """Tell everybody what concerns them; why the connection is to be ended, None where it is not."""
        for frame in frames:
            if frame[:1] == b">":
                self._pushed(frame)
            elif frame[:1] != b"-" and self._pings:
                self._pings.popleft()()
            else:
                return f"it said {frame[:100].decode('utf-8', 'replace').strip()}"
        return None

    def _pushed(self, frame: bytes) -> None:
        word, name, *rest = map(_bulk, elements(frame))
        kind = _MESSAGE.get(word)
        if kind is not None:
            self._host.message(self.shard, kind, name, rest[0] if kind is Kind.PATTERN else name, frame)
            return
        kind = _SUBSCRIBED.get(word)
        if kind is not None:
            self._answered += 1
            topic = kind, name
            left = self._unconfirmed.get(topic, 0) - 1
            if left > 0:
                self._unconfirmed[topic] = left
            elif self._unconfirmed.pop(topic, 0):
                self._host.established(self, topic)
            self._marks.look()


def _by_kind(topics: Iterable[Topic]) -> Iterator[tuple[Kind, list[bytes]]]:
    """A few topics as the commands that name them."""
    for kind, of_kind in groupby(sorted(topics, key=_value), key=lambda topic: topic[0]):
        yield kind, [name for _, name in of_kind]


def _value(topic: Topic) -> str:
    return topic[0].value


def _bulk(element: bytes) -> bytes:
    """A bulk string's content; anything else as it came."""
    return element[element.index(b"\n") + 1 : -2] if element[:1] == b"$" else element
