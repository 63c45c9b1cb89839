"""The checker of histories: known good and bad ones, and a slow, obvious checker beside it."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.linearizability import Operation, Reply, Value, error, perform


def op(begin: float, end: float, command: str, argument: str = "", reply: Reply = b"OK") -> Operation:
    return Operation(0, command, argument.encode(), reply, begin, end)


GOOD = {
    "nothing": [],
    "one after the other": [op(0, 1, "SET", "a"), op(2, 3, "GET", reply=b"a"), op(4, 5, "DEL", reply=1)],
    "a read beside a write sees the new": [op(0, 5, "SET", "a"), op(1, 2, "GET", reply=b"a")],
    "or the old": [op(0, 5, "SET", "a"), op(1, 2, "GET", reply=None), op(3, 4, "GET", reply=b"a")],
    "writes beside each other in either order": [
        op(0, 5, "SET", "a"),
        op(0, 5, "SET", "b"),
        op(6, 7, "GET", reply=b"a"),
    ],
    "an unanswered write that happened late": [
        op(0, math.inf, "SET", "a"),
        op(1, 2, "GET", reply=None),
        op(3, 4, "GET", reply=b"a"),
    ],
    "an unanswered write that never happened": [op(0, math.inf, "SET", "a"), op(1, 2, "GET", reply=None)],
    "an unanswered step of a counter": [
        op(0, 1, "INCR", reply=1),
        op(2, math.inf, "INCR"),
        op(3, 4, "INCR", reply=3),
    ],
    "counters beside each other": [op(0, 5, "INCR", reply=2), op(1, 4, "INCR", reply=1), op(2, 3, "GET", reply=None)],
    "appended pieces": [op(0, 3, "APPEND", "a", 2), op(0, 3, "APPEND", "b", 1), op(4, 5, "GET", reply=b"ba")],
}

BAD = {
    "a read of the old after the write": [op(0, 1, "SET", "a"), op(2, 3, "GET", reply=None)],
    "new and then old": [op(0, 9, "SET", "a"), op(1, 2, "GET", reply=b"a"), op(3, 4, "GET", reply=None)],
    "never written": [op(0, 1, "SET", "a"), op(2, 3, "GET", reply=b"b")],
    "a lost step": [op(0, 1, "INCR", reply=1), op(2, 3, "INCR", reply=1)],
    "a step done twice": [op(0, 1, "INCR", reply=1), op(2, 3, "INCR", reply=3)],
    "a deleted key back": [op(0, 1, "SET", "a"), op(2, 3, "DEL", reply=1), op(4, 5, "GET", reply=b"a")],
    "two owners": [
        op(0, 1, "SET", "a"),
        op(2, 3, "SET", "b"),
        op(4, 5, "GET", reply=b"b"),
        op(6, 7, "GET", reply=b"a"),
    ],
    "two readers that disagree about the order": [
        op(0, 9, "SET", "a"),
        op(0, 9, "SET", "b"),
        op(10, 11, "GET", reply=b"a"),
        op(12, 13, "GET", reply=b"b"),
    ],
    "an unanswered write seen, then gone": [
        op(0, math.inf, "SET", "a"),
        op(1, 2, "GET", reply=b"a"),
        op(3, 4, "GET", reply=None),
    ],
    "a lost piece": [op(0, 1, "APPEND", "a", 1), op(2, 3, "APPEND", "b", 2), op(4, 5, "GET", reply=b"a")],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_good_histories_pass(history: list[Operation]) -> None:
    assert error(history) is None


@pytest.mark.parametrize("history", BAD.values(), ids=BAD)
def test_bad_histories_are_shown(history: list[Operation]) -> None:
    said = error(history)
    assert said is not None
    assert str(history[-1]) in said


def test_a_long_history_is_no_burden() -> None:
    history = []
    for number in range(1500):
        history.append(op(number, number + 2.5, "SET", str(number)))
        history.append(op(number + 0.5, number + 2.6, "GET", reply=str(number).encode()))
    assert error(history) is None
    history.append(op(2000, 2001, "GET", reply=b"3"))
    assert error(history) is not None


def slow(history: list[Operation]) -> bool:
    """Try every order of every subset that leaves out nothing but unanswered operations."""
    answered = [operation for operation in history if not operation.open]
    unanswered = [operation for operation in history if operation.open]
    for count in range(len(unanswered) + 1):
        for chosen in itertools.combinations(unanswered, count):
            if any(map(explains, itertools.permutations([*answered, *chosen]))):
                return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    value: Value = None
    for number, operation in enumerate(order):
        if any(later.responded < operation.invoked for later in order[number + 1 :]):
            return False
        value, reply = perform(value, operation)
        if not operation.open and reply != operation.reply:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Short histories whose replies are often possible, but need not be."""
    history = []
    value: Value = None
    for _ in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, 10))
        end = draw(st.one_of(st.integers(begin, 12), st.just(math.inf)))
        command = draw(st.sampled_from(["GET", "SET", "DEL", "APPEND", "GETSET"]))
        asked = op(begin, end, command, draw(st.sampled_from("ab")))
        value, reply = perform(value, asked)
        wrong = draw(st.sampled_from([None, b"a", b"b", 0, 1, 2]))
        reply = wrong if draw(st.integers(0, 9)) == 0 else reply
        history.append(Operation(0, command, asked.argument, reply, begin, end))
    return history


@given(histories())
def test_it_agrees_with_trying_every_order(history: list[Operation]) -> None:
    assert (error(history) is None) == slow(history)


def test_many_that_were_never_answered_are_no_labour() -> None:
    unanswered = [op(2 + number / 100, math.inf, command) for number in range(40) for command in ("INCR", "GET")]
    history = [op(0, 1, "INCR", reply=1), *unanswered, op(4, 5, "GET", reply=b"9")]
    assert error(history) is None
    assert error([*history, op(6, 7, "GET", reply=b"42")]) is not None
    registers = [op(2 + number / 100, math.inf, "SET", f"{number}.") for number in range(40)]
    assert error([*registers, op(4, 5, "GET", reply=b"9."), op(6, 7, "GETSET", "x", b"30.")]) is None
