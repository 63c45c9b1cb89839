"""Whether what clients saw of a key could have come from one copy of it that does one thing at a time.

Wing and Gong's search with the memory that Lowe added: operations are put in an order, one by one, that agrees with
their times and their replies; a set of placed operations with the value behind them is never looked at twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Value = bytes | None
Reply = bytes | int | None

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Operation:
    """One command to one key, as its client saw it; seconds of one clock for all clients.

    `responded` is infinite where no answer came: it happened once, at any time since, or never.
    """

    client: int
    command: str
    argument: bytes
    reply: Reply
    invoked: float
    responded: float

    @property
    def open(self) -> bool:
        """Whether nobody knows if it happened."""
        return math.isinf(self.responded)

    def __str__(self) -> str:
        words = f"{self.command} {self.argument.decode()}".strip()
        answer = "?" if self.open else repr(self.reply)
        return f"{self.invoked:.6f}–{self.responded:.6f} client {self.client}: {words} → {answer}"


def perform(value: Value, operation: Operation) -> tuple[Value, Reply]:
    """What the command does to one copy of the key, and what it answers."""
    before = value or b""
    match operation.command:
        case "GET":
            return value, value
        case "SET":
            return operation.argument, b"OK"
        case "GETSET":
            return operation.argument, value
        case "DEL":
            return None, int(value is not None)
        case "FLUSHALL":
            return None, b"OK"
        case "APPEND":
            return before + operation.argument, len(before + operation.argument)
        case "INCR":
            number = int(value or 0) + 1
            return b"%d" % number, number
    raise ValueError(f"the model does not know {operation.command}")


def error(history: Iterable[Operation], start: Value = None) -> str | None:
    """None if the history of one key is linearizable, else where every attempt to order it ends."""
    # What nobody answered may have had no effect. A read never has, and of what no reply has a trace it is tried first.
    operations = [operation for operation in history if not (operation.open and operation.command == "GET")]
    replies = b"\0".join(operation.reply for operation in operations if isinstance(operation.reply, bytes))
    traced = [operation for operation in operations if not operation.open or operation.argument in replies]
    said = _search(traced, start)
    return said if said is None or len(traced) == len(operations) else _search(operations, start)


def _search(history: Sequence[Operation], start: Value) -> str | None:
    operations = sorted(history, key=lambda operation: operation.invoked)
    answered = _bits(number for number, operation in enumerate(operations) if not operation.open)
    stack: list[tuple[int, Value]] = [(0, start)]
    seen = set(stack)
    furthest, stuck_value = 0, start
    while stack:
        placed, value = stack.pop()
        if placed & answered == answered:
            return None
        if placed.bit_count() > furthest.bit_count():
            furthest, stuck_value = placed, value
        # The last is tried first: what was answered before what was not.
        for number in sorted(_next(operations, placed), key=lambda number: not operations[number].open):
            after, reply = perform(value, operations[number])
            following = (placed | 1 << number, after)
            if (operations[number].open or reply == operations[number].reply) and following not in seen:
                seen.add(following)
                stack.append(following)
    return _described(operations, furthest, stuck_value)


def _next(operations: Sequence[Operation], placed: int) -> list[int]:
    """The operations that may come first of those that are left: none of them ended before another began.

    Of unanswered ones that do the same it is enough to try the first.
    """
    first_end = math.inf
    candidates = []
    tried: set[tuple[str, bytes]] = set()
    number = ((placed + 1) & ~placed).bit_length() - 1  # the first that is not placed
    while number < len(operations) and operations[number].invoked <= first_end:
        operation = operations[number]
        does = (operation.command, operation.argument)
        if not placed >> number & 1 and not (operation.open and does in tried):
            candidates.append(number)
            first_end = min(first_end, operation.responded)
            if operation.open:
                tried.add(does)
        number += 1
    return [number for number in candidates if operations[number].invoked <= first_end]


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


def _described(operations: Sequence[Operation], placed: int, value: Value) -> str:
    left = [operation for number, operation in enumerate(operations) if not placed >> number & 1]
    before = [operation for number, operation in enumerate(operations) if placed >> number & 1]
    lines = ["not linearizable: no order explains these replies; placed last:"]
    lines += [f"  {operation}" for operation in before[-_SHOWN:]]
    lines += [f"the value is then {value!r}, and none of these can follow:"]
    lines += [f"  {operation}" for operation in left[:_SHOWN]]
    return "\n".join(lines)
