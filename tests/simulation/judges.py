"""The judges of a life: for each key that clients use, what its answers allow, and whether the servers hold that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.simulation.data import Value, perform
from tests.simulation.history import CounterHistory, Impossible, KeyHistory
from tests.simulation.invariants import Invariants
from tests.simulation.library import Library
from tests.simulation.scenario import Scenario
from tests.simulation.shared import Pair, Queue, Register


class Judges:
    """Of the keys that have one client each (`histories`), and of those that several clients use at once."""

    def __init__(self, scenario: Scenario, histories: Callable[[], list[KeyHistory]]) -> None:
        self.counters = [CounterHistory(f"n:{number}".encode()) for number in range(scenario.counters)]
        self.registers = [Register(f"r:{number}".encode()) for number in range(scenario.registers)]
        self.queues = [Queue(f"q:{number}".encode()) for number in range(scenario.queues)]
        self.pairs = [Pair(b"p:{%d}:one" % number, b"p:{%d}:other" % number) for number in range(scenario.pairs)]
        self.library = Library()
        self.made_up: dict[bytes, set[bytes]] = {}  # by scripts, and what these may have written there
        self._histories = histories

    @property
    def histories(self) -> list[KeyHistory]:
        """Of all keys that have one client."""
        return self._histories()

    def keys(self) -> Iterator[bytes]:
        """All of them."""
        yield from (history.key for history in self.histories)
        yield from (counter.key for counter in self.counters)
        yield from (register.key for register in self.registers)
        yield from (queue.key for queue in self.queues)
        for pair in self.pairs:
            yield from (pair.one, pair.other)

    def doubt(self, invariants: Invariants, shard: str) -> None:
        """What this shard owns, or is about to own, may have become another thing by itself."""

        def touched(key: bytes) -> bool:
            return invariants.owns(shard, key) or invariants.about_to_own(shard, key)

        for register in self.registers:
            register.uncertain |= touched(register.key)
        for queue in self.queues:
            queue.uncertain |= touched(queue.key)
        for pair in self.pairs:
            pair.uncertain |= touched(pair.one) or touched(pair.other)
        for counter in self.counters:
            counter.uncertain = True

    def doubt_order(self) -> None:
        """Counters and queues may begin anew at any time."""
        for counter in self.counters:
            counter.uncertain = True
        for queue in self.queues:
            queue.uncertain = True
        for pair in self.pairs:
            pair.uncertain = True

    def set_back(
        self, owns: Callable[[bytes], bool], read: Callable[[bytes], Value], now_s: float, now_ms: float
    ) -> int:
        """The owner of these keys goes on with what `read` says; how many of its clients' own keys lose anything."""
        lost = 0
        for history in filter(lambda one: owns(one.key), self.histories):
            lost += history.set_back(read(history.key), now_ms)
        for counter in filter(lambda one: owns(one.key), self.counters):
            counter.set_back(read(counter.key).data, now_ms)
        for register in filter(lambda one: owns(one.key), self.registers):
            register.set_back(read(register.key).data, now_s)
        for queue in filter(lambda one: owns(one.key), self.queues):
            queue.uncertain = True
        for pair in filter(lambda one: owns(one.one), self.pairs):
            pair.set_back(int(read(pair.one).data or b"0"), now_ms)
        return lost

    def doubt_until(self, owns: Callable[[bytes], bool], until_ms: float) -> None:
        """Till then, what is acknowledged of these keys may be lost: a leader that was replaced may still be asked."""
        for history in filter(lambda one: owns(one.key), self.histories):
            history.doubtful_until_ms = until_ms
        for counter in filter(lambda one: owns(one.key), self.counters):
            counter.set_back_at_ms = until_ms
        for register in filter(lambda one: owns(one.key), self.registers):
            register.uncertain = True
        for pair in filter(lambda one: owns(one.one), self.pairs):
            pair.set_back_at_ms = until_ms

    def check(self, get: Callable[[bytes], bytes | None], now_s: float, now_ms: float) -> None:
        """Everything is at rest, and owners hold what `get` says; raises Impossible where that cannot be."""
        for history in self.histories:
            history.check(get(history.key), now_ms)
        for counter in self.counters:
            counter.check(get(counter.key))
        for register in self.registers:
            register.check(get(register.key), now_s)
        for queue in self.queues:
            _, elements = perform("LRANGE", Value(get(queue.key)), ())
            assert isinstance(elements, list)
            queue.check(elements)
        for pair in self.pairs:
            pair.check(get)
        for key in self.made_up:
            self.check_made_up(key, get(key))

    def check_made_up(self, key: bytes, data: bytes | None) -> None:
        """The key's owner holds this; raises Impossible where no script has written it."""
        if data is not None and data not in self.made_up[key]:
            raise Impossible(f"{key!r} holds {data!r}, which no script has written")
