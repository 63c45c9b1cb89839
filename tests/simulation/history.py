"""What a key may hold by what its clients were told: exact where they had answers, every possibility where not.

A key has one client, which waits for each answer. A command without an answer may have been carried out,
may never be, or may still be at any later time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from tests.simulation.data import ABSENT, READING, Fault, Value, perform

QUESTIONS_MAX = 3


@dataclass(frozen=True, slots=True)
class Command:
    """A command for one key, by its name, first argument and further ones (see `data`); a SET may have an end.

    FLUSH is what FLUSHALL does to the key, IMPORT what comes to it with a server that joins.
    """

    name: str
    data: bytes = b""
    expire_at_ms: int | None = None
    more: tuple[bytes, ...] = ()

    @property
    def arguments(self) -> tuple[bytes, ...]:
        """All but the name and the key, as `data` has them."""
        first = (self.data,) if self.data else ()
        end = () if self.expire_at_ms is None else (b"PXAT", b"%d" % self.expire_at_ms)
        return first + end + self.more

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.name in READING

    def apply(self, value: Value) -> tuple[Value, object]:
        """What the key holds afterwards, and the answer."""
        if self.name == "FLUSH":
            return ABSENT, b"OK"
        if self.name == "IMPORT":
            return (Value(self.data) if value.data is None else value), b"OK"
        return perform(self.name, value, self.arguments)


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
    skew_ms: float = 0.0  # by so much at most a server's clock is wrong
    read_back_ms: float | None = None  # so old a read may be, or ahead of a majority; None: neither
    doubtful_until_ms: float = -1.0  # till when what is acknowledged may be lost
    # Flushes and what was possible before each: commands that were under way may have found that.
    _flushes: list[tuple[float, frozenset[Possible]]] = field(default_factory=list)
    _snapshots: list[tuple[float, frozenset[Possible]]] = field(default_factory=list)
    _asked_at_ms: dict[int, float] = field(default_factory=dict)

    @property
    def questions(self) -> int:
        """How many commands may still be carried out."""
        return max(len(possible.open) for possible in self.possible)

    def answered(self, command: Command, answer: object, begin_ms: float, end_ms: float) -> None:
        """The client got an answer; raises Impossible where it contradicts everything that may be true."""
        # An error acknowledges nothing, and waits for no majority where reads do not.
        if self.read_back_ms is not None and (command.reads or isinstance(answer, Fault)):
            self.looked(command, answer, begin_ms, end_ms, self.read_back_ms)
            return
        before = self._closure(end_ms)
        if begin_ms <= self.doubtful_until_ms:
            self._note(f"{begin_ms:.1f}-{end_ms:.1f} {command} -> {answer!r}, perhaps of a leader that was replaced")
            done = {Possible(command.apply(possible.value)[0], possible.open) for possible in before}
            self._become(before if command.reads else before | done, end_ms)
            return
        after = set()
        for possible in before:
            value = possible.value
            if value.expire_at_ms is not None and value.expire_at_ms <= begin_ms - self.skew_ms:
                continue  # it had ended before this was asked; what it became stands beside it
            following, expected = command.apply(value)
            if expected == answer:
                after.add(Possible(following, possible.open))
        self._note(f"{begin_ms:.1f}-{end_ms:.1f} {command} -> {answer!r}")
        if any(
            command.apply(possible.value)[1] == answer
            for at_ms, states in self._flushes
            if begin_ms <= at_ms <= end_ms
            for possible in self._closure(end_ms, states)
        ):
            after |= self.possible
        if not after:
            raise Impossible(f"{self.key!r}: {command} was answered {answer!r}, possible are {_shown(before)}")
        if begin_ms <= self.lost_at_ms <= end_ms:
            after |= before
        self._become(frozenset(after), end_ms)

    def looked(self, command: Command, answer: object, begin_ms: float, end_ms: float, back_ms: float) -> None:
        """A read was answered by a server that may be so far behind, and ahead of what is acknowledged."""
        self._note(f"{begin_ms:.1f}-{end_ms:.1f} {command} -> {answer!r}, or {back_ms:.0f} ms behind")
        since_ms = begin_ms - back_ms
        shown = [self.possible, *(states for at_ms, states in self._flushes if at_ms >= since_ms)]
        for at_ms, states in reversed(self._snapshots):
            shown.append(states)
            if at_ms < since_ms:
                break
        else:
            shown.append(frozenset({Possible(ABSENT)}))
        values = {possible.value for states in shown for possible in self._closure(end_ms, states)}
        if all(command.apply(value)[1] != answer for value in values):
            raise Impossible(
                f"{self.key!r}: {command} was answered {answer!r}, where in {back_ms:.0f} ms it held one of "
                f"{sorted(repr(value.data) for value in values)}"
            )

    def unanswered(self, command: Command, begin_ms: float, end_ms: float) -> None:
        """The client does not know what became of the command."""
        self._note(f"{begin_ms:.1f}-{end_ms:.1f} {command} -> ?")
        if not command.reads:
            self.asked(command, end_ms)

    def asked(self, command: Command, now_ms: float) -> int:
        """From now on the command may be carried out, once; its number."""
        self.commands.append(command)
        number = len(self.commands) - 1
        self._asked_at_ms[number] = now_ms
        self._become(frozenset(Possible(p.value, (*p.open, number)) for p in self.possible), now_ms)
        return number

    def done(self, number: int, now_ms: float) -> None:
        """The command of this number has been carried out by now, if only before a power cut that undid it."""
        before = self._closure(now_ms)
        if self.commands[number].name == "FLUSH":
            self._flushes.append((now_ms, before))
        after = {p for p in before if number not in p.open}
        if self._asked_at_ms[number] <= self.lost_at_ms <= now_ms or now_ms <= self.doubtful_until_ms:
            after |= {_without(number, p) for p in before}
        self._become(frozenset(after), now_ms)

    def not_done(self, number: int, now_ms: float) -> None:
        """The command of this number has not been carried out, and will not be."""
        left = [p for p in self.possible if number in p.open]
        if not left:
            raise Impossible(f"{self.key!r}: {self.commands[number]} was refused, and carried out all the same")
        self._become(frozenset(_without(number, p) for p in left), now_ms)

    def may_come(self, command: Command, now_ms: float) -> None:
        """The command may be carried out once from now on, also where it has been already."""
        self.commands.append(command)
        number = len(self.commands) - 1
        waiting = {number for number, other in enumerate(self.commands) if other == command}
        self._become(
            frozenset(
                p if waiting.intersection(p.open) else Possible(p.value, (*p.open, number))
                for p in self._closure(now_ms)
            ),
            now_ms,
        )

    def flushed(self, now_ms: float) -> None:
        """The key's server was emptied in this moment."""
        self._note(f"{now_ms:.1f} flushed")
        self._flushes.append((now_ms, self.possible))
        self._become(frozenset(Possible(ABSENT, p.open) for p in self._closure(now_ms)), now_ms)

    def refused(self, command: Command, reason: str, now_ms: float) -> None:
        """The client was told that nothing was executed."""
        self._note(f"-{now_ms:.1f} {command} -> {reason}")

    def power_lost(self, since_ms: float, now_ms: float) -> None:
        """The key's server went back to what it held at some time after `since_ms`."""
        held = [states for at_ms, states in self._snapshots if at_ms >= since_ms]
        earlier = [states for at_ms, states in self._snapshots if at_ms < since_ms]
        held.append(earlier[-1] if earlier else frozenset({Possible(ABSENT)}))
        # What was asked after such a time is as open as before the cut.
        under_way = {number for possible in self.possible for number in possible.open}
        back = {replace(p, open=tuple(sorted(under_way.union(p.open)))) for states in held for p in states}
        self.lost_at_ms = now_ms
        self._note(f"{now_ms:.1f} power lost, back to {since_ms:.1f} at most")
        self._become(self.possible | back, now_ms)

    def set_back(self, value: Value, now_ms: float) -> bool:
        """Its shard goes on with this; whether anything acknowledged is lost by it. What is open stays so."""
        self._note(f"{now_ms:.1f} set back to {value}")
        before = self._closure(now_ms)
        self._flushes.append((now_ms, before))
        self.lost_at_ms = now_ms
        under_way = {number for possible in self.possible for number in possible.open}
        self._become(frozenset({Possible(value, tuple(sorted(under_way)))}), now_ms)
        return all(possible.value.data != value.data for possible in before)

    def listed(self, *, there: bool, begin_ms: float, end_ms: float) -> None:
        """A scan between these times, in which the key's client did nothing else, has found the key, or not."""
        possible = self._closure(end_ms)
        if any(begin_ms <= at_ms <= end_ms for at_ms, _ in self._flushes) or begin_ms <= self.lost_at_ms <= end_ms:
            return
        sure = {
            p.value.data is not None for p in possible if (p.value.expire_at_ms or math.inf) > begin_ms - self.skew_ms
        }
        if sure == {not there}:
            raise Impossible(
                f"{self.key!r} was {'listed' if there else 'not listed'} by a scan, possible are {_shown(possible)}"
            )

    def check(self, data: bytes | None, now_ms: float) -> None:
        """The key's owner holds this, at rest; raises Impossible where it cannot."""
        values = {
            possible.value.data
            for possible in self._closure(now_ms)
            if possible.value.expire_at_ms is None or possible.value.expire_at_ms > now_ms - self.skew_ms
        }
        if data not in values:
            raise Impossible(f"{self.key!r} holds {data!r} in the end, possible are {sorted(map(repr, values))}")

    def _become(self, possible: frozenset[Possible], now_ms: float) -> None:
        self.possible = possible
        self._snapshots.append((now_ms, possible))

    def _closure(self, now_ms: float, among: frozenset[Possible] | None = None) -> frozenset[Possible]:
        """With everything that may have happened by itself: open commands carried out, values ended."""
        found = set(self.possible if among is None else among)
        queue = list(found)
        while queue:
            possible = queue.pop()
            value = possible.value
            following = []
            if value.expire_at_ms is not None and value.expire_at_ms <= now_ms + self.skew_ms:
                following.append(Possible(ABSENT, possible.open))
            for number in possible.open:
                changed, _ = self.commands[number].apply(value)
                following.append(replace(_without(number, possible), value=changed))
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
    base: int = 0  # where it was set back to, by a loss that was accepted
    set_back_at_ms: float = -1.0

    def answered(self, answer: int, begin_ms: float, end_ms: float) -> None:
        """One client got this number."""
        self.log.append(f"{begin_ms:.1f}-{end_ms:.1f} INCR -> {answer}")
        if self.uncertain:
            return
        if begin_ms <= self.set_back_at_ms:
            self.unanswered += 1  # nobody knows whether the loss included it
            return
        if answer in self.answers:
            raise Impossible(f"{self.key!r}: two clients were answered {answer}")
        earlier = max((other for other, at_ms in self.answers.items() if at_ms < begin_ms), default=self.base)
        if not earlier < answer <= self.asked:
            raise Impossible(f"{self.key!r}: answered {answer} after {earlier}, having been asked {self.asked} times")
        self.answers[answer] = end_ms

    def set_back(self, data: bytes | None, now_ms: float) -> None:
        """Its shard goes on with this; what else was counted is lost."""
        self.log.append(f"{now_ms:.1f} set back to {data!r}")
        self.base, self.set_back_at_ms = int(data or b"0"), now_ms
        self.answers.clear()

    def check(self, data: bytes | None) -> None:
        """The key's owner holds this, at rest."""
        number = int(data or b"0")
        least = self.base + len(self.answers)
        if not self.uncertain and not (least <= number <= least + self.unanswered):
            raise Impossible(
                f"{self.key!r} stands at {number}: {least} were answered and {self.unanswered} may have been counted"
            )


def _without(number: int, possible: Possible) -> Possible:
    """The same, but that the command of this number is no longer open."""
    return replace(possible, open=tuple(other for other in possible.open if other != number))


def _shown(possible: frozenset[Possible]) -> str:
    return "; ".join(sorted(f"{one.value.data!r} until {one.value.expire_at_ms}" for one in possible))
