"""Keys that several clients use at once: registers, counters, pairs of counters, queues."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tests.linearizability import Operation, Reply, error
from tests.simulation.history import Impossible

# The checker's work doubles with each command of which nobody knows whether it happened.
_OPEN_MAX = 6


@dataclass(eq=False)
class Register:
    """One key, what its clients did to it and what they were told."""

    key: bytes
    operations: list[Operation] = field(default_factory=list)
    uncertain: bool = False  # a power cut or a fault may have changed it
    _set_back: list[tuple[float, bytes | None]] = field(default_factory=list)  # when, and to what

    @property
    def closed(self) -> bool:
        """Whether it is better left alone."""
        return sum(operation.open and operation.command != "GET" for operation in self.operations) >= _OPEN_MAX

    def add(self, client: int, command: str, argument: bytes, reply: Reply, invoked: float, responded: float) -> None:
        """One command; `responded` is infinite where no answer came."""
        if command != "GET" or not math.isinf(responded):
            self.operations.append(Operation(client, command, argument, reply, invoked, responded))

    def check(self, held: bytes | None, now_s: float) -> None:
        """The key's owner holds this, at rest; raises Impossible where no order explains all that was answered."""
        if self.uncertain:
            return
        last = Operation(-1, "GET", b"", held, now_s, now_s)
        begins = [(-math.inf, None), *self._set_back]
        ends = [at_s for at_s, _ in self._set_back] + [math.inf]
        for (begin_s, start), end_s in zip(begins, ends, strict=True):
            said = error(_within([*self.operations, last], begin_s, end_s), start)
            if said is not None:
                raise Impossible(f"{self.key!r} {said}")

    def set_back(self, held: bytes | None, now_s: float) -> None:
        """Its shard goes on with this; what else was acknowledged is lost."""
        self._set_back.append((now_s, held))


def _within(operations: Iterable[Operation], begin_s: float, end_s: float) -> Iterator[Operation]:
    """What may have happened between these times; nobody knows it of what was not asked and answered between them."""
    for operation in operations:
        if operation.invoked >= end_s or operation.responded <= begin_s:
            continue
        if begin_s <= operation.invoked and operation.responded < end_s:
            yield operation
        elif operation.command != "GET":
            yield replace(operation, reply=None, responded=math.inf)


@dataclass(eq=False)
class Queue:
    """A list to which clients push and from which they pop: nothing comes out twice, and nothing is lost."""

    key: bytes
    pushed: set[bytes] = field(default_factory=set)
    perhaps_pushed: set[bytes] = field(default_factory=set)
    popped: set[bytes] = field(default_factory=set)
    perhaps_popped: int = 0
    uncertain: bool = False

    def came(self, token: bytes) -> None:
        """A client was given this element."""
        if self.uncertain:
            return
        if token in self.popped:
            raise Impossible(f"{self.key!r}: {token!r} was popped twice")
        self.popped.add(token)

    def check(self, elements: list[bytes]) -> None:
        """The key's owner holds these, at rest."""
        if self.uncertain:
            return
        if len(set(elements)) < len(elements) or self.popped.intersection(elements):
            raise Impossible(f"{self.key!r} holds elements twice, or such as were popped: {elements}")
        unknown = (self.popped | set(elements)) - self.pushed - self.perhaps_pushed
        if unknown:
            raise Impossible(f"{self.key!r}: nobody has pushed {sorted(unknown)}")
        missing = self.pushed - self.popped - set(elements)
        if len(missing) > self.perhaps_popped:
            raise Impossible(
                f"{self.key!r} has lost {sorted(missing)}; {self.perhaps_popped} elements may have been popped unseen"
            )


@dataclass(eq=False)
class Pair:
    """Two keys that are only counted up together."""

    one: bytes
    other: bytes
    uncertain: bool = False
    counted: int = 0
    perhaps: int = 0
    set_back_at_ms: float = -1.0

    def done(self, begin_ms: float) -> None:
        """It was counted up by somebody who asked at that time."""
        if begin_ms > self.set_back_at_ms:
            self.counted += 1
        else:
            self.perhaps += 1  # nobody knows whether the loss included it

    def set_back(self, number: int, now_ms: float) -> None:
        """Their shard goes on with this; what else was counted is lost."""
        self.counted, self.set_back_at_ms = number, now_ms

    def seen(self, answers: list[object], what: str) -> None:
        """A transaction or a script has read both."""
        if not self.uncertain and answers[0] != answers[1]:
            raise Impossible(f"{self.one!r} and {self.other!r}, which change together, were {answers} in {what}")

    def check(self, get: Callable[[bytes], bytes | None]) -> None:
        """What the owners of both hold, at rest."""
        held = [get(self.one), get(self.other)]
        self.seen(list(held), "the end")
        number = int(held[0] or b"0")
        if not self.uncertain and not self.counted <= number <= self.counted + self.perhaps:
            raise Impossible(
                f"{self.one!r} stands at {number}: {self.counted} times counted, perhaps {self.perhaps} more"
            )
