"""Who is subscribed to what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Sequence
from enum import Enum
from typing import Generic, TypeAlias, TypeVar

from helios.placement.glob import Glob

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
Item = TypeVar("Item")
AT_ONCE = 200  # names that are dealt with in one turn of the loop; between two such parts others are served


def in_parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """As many at a time as one turn of the loop may deal with."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


_BESIDE_NAME_BYTES = 200  # what a subscription takes beside its name


class Subscriptions(Generic[Subscriber]):
    """The subscriptions of all clients of a router. To add, remove or count costs the same however many there are."""

    def __init__(self) -> None:
        self._audiences: dict[Topic, dict[Subscriber, None]] = {}
        self._wishes: dict[Subscriber, dict[Topic, None]] = {}
        self._sharded: Counter[Subscriber] = Counter()  # how many of the wishes are for shard channels
        self._sizes: Counter[Subscriber] = Counter()
        self._patterns: dict[Topic, Glob] = {}
        self._numbers: Counter[Kind] = Counter()

    def __len__(self) -> int:
        return len(self._audiences)

    def __contains__(self, topic: Topic) -> bool:
        return topic in self._audiences

    @property
    def subscribers(self) -> int:
        """How many are subscribed to anything."""
        return len(self._wishes)

    def number(self, kind: Kind) -> int:
        """How many different names of a kind somebody is subscribed to."""
        return self._numbers[kind]

    def add(self, subscriber: Subscriber, topic: Topic) -> bool:
        """Subscribe; whether nobody was subscribed to it before."""
        wishes = self._wishes.setdefault(subscriber, {})
        if topic in wishes:
            return False
        wishes[topic] = None
        kind, name = topic
        self._sizes[subscriber] += len(name) + _BESIDE_NAME_BYTES
        if kind is Kind.SHARD:
            self._sharded[subscriber] += 1
        audience = self._audiences.setdefault(topic, {})
        audience[subscriber] = None
        if len(audience) > 1:
            return False
        self._numbers[kind] += 1
        if kind is Kind.PATTERN:
            self._patterns[topic] = Glob(name)
        return True

    def remove(self, subscriber: Subscriber, topic: Topic) -> bool:
        """End a subscription, if there is one; whether nobody is left who is subscribed to it."""
        wishes = self._wishes.get(subscriber, {})
        if topic not in wishes:
            return False
        del wishes[topic]
        self._sizes[subscriber] -= len(topic[1]) + _BESIDE_NAME_BYTES
        if topic[0] is Kind.SHARD:
            self._sharded[subscriber] -= 1
        if not wishes:
            del self._wishes[subscriber]
            del self._sharded[subscriber], self._sizes[subscriber]
        audience = self._audiences[topic]
        del audience[subscriber]
        if audience:
            return False
        del self._audiences[topic]
        self._numbers[topic[0]] -= 1
        self._patterns.pop(topic, None)
        return True

    def of(self, subscriber: Subscriber) -> Collection[Topic]:
        """What a subscriber is subscribed to, in the order in which it asked for it."""
        return self._wishes.get(subscriber, {}).keys()

    def size(self, subscriber: Subscriber) -> int:
        """About how many bytes its subscriptions take; 0 for who has none."""
        return self._sizes[subscriber]

    def count(self, subscriber: Subscriber, kind: Kind) -> int:
        """The number that goes with a confirmation: shard channels are counted by themselves, as servers do."""
        sharded = self._sharded[subscriber]
        return sharded if kind is Kind.SHARD else len(self.of(subscriber)) - sharded

    def wanted(self) -> Collection[Topic]:
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
            found += [topic for topic, glob in self._patterns.items() if glob.match(name)]
        return found
