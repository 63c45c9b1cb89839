"""What a key may hold by what its clients were told: exact where they had answers, every possibility where not.

A key has one client, which waits for each answer. A command without an answer may have been carried out,
may never be, or may still be at any later time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

QUESTIONS_MAX = 3


@dataclass(frozen=True, slots=True)
class Value:
    """What a key holds; None where it is absent."""

    data: bytes | None = None
    expire_at_ms: int | None = None


ABSENT = Value()


@dataclass(frozen=True, slots=True)
class Command:
    """A command for one key: `name` is GET, SET (with data and perhaps an end), APPEND (with data) or DEL."""

    name: str
    data: bytes = b""
    expire_at_ms: int | None = None

    def apply(self, value: Value) -> tuple[Value, object]:
        """What the key holds afterwards, and the answer."""
        if self.name == "GET":
            return value, value.data
        if self.name == "SET":
            return Value(self.data, self.expire_at_ms), b"OK"
        if self.name == "APPEND":
            whole = (value.data or b"") + self.data
            return Value(whole, value.expire_at_ms), len(whole)
        return ABSENT, 0 if value.data is None else 1


@dataclass(frozen=True, slots=True)
class Possible:
    """One way in which things may stand: the value, and the commands that may still be carried out."""

    value: Value
    open: tuple[int, ...] = ()


class Impossible(AssertionError):
    """An answer that no order of what was asked can give."""


@dataclass(eq=False)
class KeyHistory:
    """Everything that may be true of one key. Times are Unix milliseconds."""

    key: bytes
    commands: list[Command] = field(default_factory=list)
    possible: frozenset[Possible] = frozenset({Possible(ABSENT)})
    log: list[str] = field(default_factory=list)
    lost_at_ms: float = -1.0
    _snapshots: list[tuple[float, frozenset[Possible]]] = field(default_factory=list)

    @property
    def questions(self) -> int:
        """How many commands may still be carried out."""
        return max(len(possible.open) for possible in self.possible)

    def answered(self, command: Command, answer: object, begin_ms: float, end_ms: float) -> None:
        """The client got an answer; raises Impossible where it contradicts everything that may be true."""
        before = self._closure(end_ms)
        after = set()
        for possible in before:
            value = possible.value
            if value.expire_at_ms is not None and value.expire_at_ms <= begin_ms:
                continue  # it had ended before this was asked; what it became stands beside it
            following, expected = command.apply(value)
            if expected == answer:
                after.add(Possible(following, possible.open))
        self._note(f"{begin_ms:.1f}-{end_ms:.1f} {command} -> {answer!r}")
        if not after:
            raise Impossible(f"{self.key!r}: {command} was answered {answer!r}, possible are {_shown(before)}")
        if begin_ms <= self.lost_at_ms <= end_ms:
            after |= before
        self._become(frozenset(after), end_ms)

    def unanswered(self, command: Command, begin_ms: float, end_ms: float) -> None:
        """The client does not know what became of the command."""
        self._note(f"{begin_ms:.1f}-{end_ms:.1f} {command} -> ?")
        if command.name == "GET":
            return
        self.commands.append(command)
        number = len(self.commands) - 1
        self._become(frozenset(Possible(p.value, (*p.open, number)) for p in self.possible), end_ms)

    def refused(self, command: Command, reason: str, now_ms: float) -> None:
        """The client was told that nothing was executed."""
        self._note(f"-{now_ms:.1f} {command} -> {reason}")

    def power_lost(self, since_ms: float, now_ms: float) -> None:
        """The key's server went back to what it held at some time after `since_ms`."""
        held = [states for at_ms, states in self._snapshots if at_ms >= since_ms]
        earlier = [states for at_ms, states in self._snapshots if at_ms < since_ms]
        held.append(earlier[-1] if earlier else frozenset({Possible(ABSENT)}))
        self.lost_at_ms = now_ms
        self._note(f"{now_ms:.1f} power lost, back to {since_ms:.1f} at most")
        self._become(self.possible.union(*held), now_ms)

    def check(self, data: bytes | None, now_ms: float) -> None:
        """The key's owner holds this, at rest; raises Impossible where it cannot."""
        values = {
            possible.value.data
            for possible in self._closure(now_ms)
            if possible.value.expire_at_ms is None or possible.value.expire_at_ms > now_ms
        }
        if data not in values:
            raise Impossible(f"{self.key!r} holds {data!r} in the end, possible are {sorted(map(repr, values))}")

    def _become(self, possible: frozenset[Possible], now_ms: float) -> None:
        self.possible = possible
        self._snapshots.append((now_ms, possible))

    def _closure(self, now_ms: float) -> frozenset[Possible]:
        """With everything that may have happened by itself: open commands carried out, values ended."""
        found = set(self.possible)
        queue = list(found)
        while queue:
            possible = queue.pop()
            value = possible.value
            following = []
            if value.expire_at_ms is not None and value.expire_at_ms <= now_ms:
                following.append(Possible(ABSENT, possible.open))
            for number in possible.open:
                changed, _ = self.commands[number].apply(value)
                following.append(Possible(changed, tuple(other for other in possible.open if other != number)))
            for one in following:
                if one not in found:
                    found.add(one)
                    queue.append(one)
        return frozenset(found)

    def _note(self, line: str) -> None:
        self.log.append(line)


@dataclass(eq=False)
class CounterHistory:
    """A key that many clients count up; answers are unique and never go back in real time."""

    key: bytes
    asked: int = 0
    unanswered: int = 0
    uncertain: bool = False  # a power cut may have taken some back
    answers: dict[int, float] = field(default_factory=dict)  # answer → when it came
    log: list[str] = field(default_factory=list)

    def answered(self, answer: int, begin_ms: float, end_ms: float) -> None:
        """One client got this number."""
        self.log.append(f"{begin_ms:.1f}-{end_ms:.1f} INCR -> {answer}")
        if self.uncertain:
            return
        if answer in self.answers:
            raise Impossible(f"{self.key!r}: two clients were answered {answer}")
        earlier = max((other for other, at_ms in self.answers.items() if at_ms < begin_ms), default=0)
        if not earlier < answer <= self.asked:
            raise Impossible(f"{self.key!r}: answered {answer} after {earlier}, having been asked {self.asked} times")
        self.answers[answer] = end_ms

    def check(self, data: bytes | None) -> None:
        """The key's owner holds this, at rest."""
        number = int(data or b"0")
        least = len(self.answers)
        if not self.uncertain and not (least <= number <= least + self.unanswered):
            raise Impossible(
                f"{self.key!r} stands at {number}: {least} were answered and {self.unanswered} may have been counted"
            )


def _shown(possible: frozenset[Possible]) -> str:
    return "; ".join(sorted(f"{one.value.data!r} until {one.value.expire_at_ms}" for one in possible))
