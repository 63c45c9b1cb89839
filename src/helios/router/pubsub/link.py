"""One connection to a shard's leader that listens for messages."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import Protocol

from helios.model.topology import Member
from helios.resp.wire import elements, encode_command
from helios.router.options import RouterOptions
from helios.router.pubsub.subscriptions import Kind, Topic, in_parts
from helios.router.upstream.connection import Identities, Wire
from helios.router.upstream.listening import ListeningLink, bulk_of
from helios.router.upstream.marks import Marks
from helios.router.upstream.state import ConnectionState

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


class SubscriberLink(ListeningLink):
    """Keeps everything that is wanted subscribed at one server; a lost connection is opened again and subscribed again.

    What is published while there is no connection is lost to its router, as with a server that restarts.
    """

    def __init__(self, shard: str, member: Member, host: Listener, options: RouterOptions) -> None:
        self._host = host
        self._unconfirmed: dict[Topic, int] = {}  # how often each was asked for without an answer yet
        self._asked = 0
        self._answered = 0
        self._anew = 0  # what had been asked for when the present connection had been told everything
        self._marks = Marks(self.confirmed)
        super().__init__(shard, member, host, options, "subscriptions")

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

    # --- the connection ---

    async def _begin(self, wire: Wire) -> None:
        """Subscribe to everything that is wanted on a new connection."""
        topics = list(self._host.wanted())
        self._unconfirmed = dict.fromkeys(topics, 1)
        self._asked += len(topics)
        self._anew = self._asked
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

    def _failed(self) -> None:
        self._marks.look()
        self._host.down(self)

    def _lost(self) -> None:
        self._answered = self._asked
        self._unconfirmed.clear()
        self._marks.look()

    # --- what comes ---

    def _pushed(self, frame: bytes) -> None:
        word, name, *rest = map(bulk_of, elements(frame))
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
