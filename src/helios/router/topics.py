"""Who is subscribed to what."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

from helios.placement.glob import compile_glob

Subscriber = TypeVar("Subscriber", bound=Hashable)


class Kind(Enum):
    """What a name stands for. The value is how the kind's words begin: `psubscribe`, `punsubscribe`, `pmessage`."""

    CHANNEL = ""
    PATTERN = "p"
    SHARD = "s"  # the channels of SSUBSCRIBE and SPUBLISH: names of their own

    @property
    def subscribe(self) -> bytes:
        """The word that begins a subscription."""
        return f"{self.value}subscribe".encode()

    @property
    def unsubscribe(self) -> bytes:
        """The word that ends it."""
        return f"{self.value}unsubscribe".encode()


Topic: TypeAlias = tuple[Kind, bytes]


class Topics(Generic[Subscriber]):
    """The subscriptions of all clients of a router. Adding and removing cost the same however many there are."""

    def __init__(self) -> None:
        self._audiences: dict[Topic, dict[Subscriber, None]] = {}
        self._wishes: dict[Subscriber, dict[Topic, None]] = {}

    def __len__(self) -> int:
        return len(self._audiences)

    def __contains__(self, topic: Topic) -> bool:
        return topic in self._audiences

    def add(self, subscriber: Subscriber, topic: Topic) -> bool:
        """Subscribe; whether nobody was subscribed to it before."""
        audience = self._audiences.setdefault(topic, {})
        audience[subscriber] = None
        self._wishes.setdefault(subscriber, {})[topic] = None
        return len(audience) == 1

    def remove(self, subscriber: Subscriber, topic: Topic) -> bool:
        """End a subscription, if there is one; whether nobody is left who is subscribed to it."""
        wishes = self._wishes.get(subscriber, {})
        if topic not in wishes:
            return False
        del wishes[topic]
        if not wishes:
            del self._wishes[subscriber]
        audience = self._audiences[topic]
        del audience[subscriber]
        if audience:
            return False
        del self._audiences[topic]
        return True

    def of(self, subscriber: Subscriber) -> Collection[Topic]:
        """What a subscriber is subscribed to, in the order in which it asked for it."""
        return self._wishes.get(subscriber, {}).keys()

    def count(self, subscriber: Subscriber, kind: Kind) -> int:
        """The number that goes with a confirmation: shard channels are counted by themselves, as servers do."""
        shard = kind is Kind.SHARD
        return sum((each is Kind.SHARD) is shard for each, _ in self.of(subscriber))

    def wanted(self) -> Iterable[Topic]:
        """Everything that somebody is subscribed to."""
        return self._audiences.keys()

    def audience(self, topic: Topic) -> Collection[Subscriber]:
        """Who is subscribed to a channel or pattern."""
        return self._audiences.get(topic, {}).keys()

    def reached_by(self, channel: Topic) -> list[Topic]:
        """The channel itself and the patterns that match it, as far as somebody is subscribed to them."""
        kind, name = channel
        found = [channel] if channel in self._audiences else []
        if kind is Kind.CHANNEL:
            patterns = (topic for topic in self._audiences if topic[0] is Kind.PATTERN)
            found += [topic for topic in patterns if _matches(topic[1], name)]
        return found


def _matches(pattern: bytes, name: bytes) -> bool:
    return compile_glob(pattern.decode("utf-8", "replace")).match(name) is not None
