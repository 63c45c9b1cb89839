"""The judges of keys that several clients use at once."""

from __future__ import annotations

import math

import pytest
from tests.simulation.data import ABSENT, perform
from tests.simulation.history import Command, Impossible, KeyHistory
from tests.simulation.shared import Pair, Queue, Register


def test_a_register_has_one_order_of_everything() -> None:
    register = Register(b"r")
    register.add(0, "SET", b"a", b"OK", 0, 1)
    register.add(1, "SET", b"b", b"OK", 2, math.inf)
    register.add(2, "GET", b"", b"b", 3, 4)
    register.check(b"b", 9)
    register.add(0, "GET", b"", b"a", 5, 6)
    with pytest.raises(Impossible):
        register.check(b"b", 9)


def test_a_flush_in_between_takes_a_register_back() -> None:
    register = Register(b"r")
    register.add(0, "SET", b"a", b"OK", 0, 1)
    register.add(1, "FLUSHALL", b"", b"OK", 2, 3)
    register.check(None, 9)
    with pytest.raises(Impossible):
        register.check(b"a", 9)


def test_nothing_comes_out_of_a_queue_twice_and_nothing_is_lost() -> None:
    queue = Queue(b"q", pushed={b"a", b"b"}, perhaps_pushed={b"c"})
    queue.came(b"a")
    queue.check([b"b", b"c"])
    for wrong in ([], [b"a", b"b"], [b"b", b"b"], [b"b", b"d"]):
        with pytest.raises(Impossible):
            queue.check(wrong)
    queue.perhaps_popped = 1
    queue.check([])
    with pytest.raises(Impossible):
        queue.came(b"a")


def test_two_keys_that_change_together_never_differ() -> None:
    pair = Pair(b"one", b"other", counted=2, perhaps=1)
    pair.check({b"one": b"3", b"other": b"3"}.get)
    for one, other in ((b"3", b"2"), (b"1", b"1"), (b"4", b"4")):
        with pytest.raises(Impossible):
            pair.check({b"one": one, b"other": other}.get)


def test_a_flush_that_was_acknowledged_has_happened_once() -> None:
    history = KeyHistory(b"k")
    history.answered(Command("SET", b"a"), b"OK", 0, 1)
    number = history.asked(Command("FLUSH"), 2)
    history.answered(Command("GET"), b"a", 3, 4)
    history.done(number, 5)
    with pytest.raises(Impossible):
        history.answered(Command("GET"), b"a", 6, 7)
    history.answered(Command("SET", b"b"), b"OK", 8, 9)
    history.check(b"b", 10)


def test_a_server_that_was_emptied_gives_nothing_back() -> None:
    history = KeyHistory(b"k")
    history.answered(Command("SET", b"a"), b"OK", 0, 1)
    history.flushed(5)
    history.answered(Command("GET"), b"a", 4, 6)  # it was under way
    with pytest.raises(Impossible):
        history.answered(Command("GET"), b"a", 7, 8)


def test_a_scan_lists_what_is_there_and_nothing_else() -> None:
    history = KeyHistory(b"k")
    history.listed(there=False, begin_ms=0, end_ms=1)
    history.answered(Command("SET", b"a"), b"OK", 2, 3)
    history.listed(there=True, begin_ms=4, end_ms=5)
    with pytest.raises(Impossible):
        history.listed(there=False, begin_ms=6, end_ms=7)
    history.unanswered(Command("DEL"), 8, 9)
    history.listed(there=False, begin_ms=10, end_ms=11)
    history.listed(there=True, begin_ms=10, end_ms=11)


def test_streams_keep_groups_and_what_these_have_not_acknowledged() -> None:
    value, _ = perform("XADD", ABSENT, (b"3-0", b"field", b"x"))
    assert perform("XADD", value, (b"3-0", b"field", b"y"))[0] == value
    value, answer = perform("XREADGROUP", perform("XGROUP", value, (b"g",))[0], (b"g",))
    assert answer == b"3-0"
    assert perform("XREADGROUP", value, (b"g",))[1] is None
    pending = value
    value, answer = perform("XACK", value, (b"g", b"3-0"))
    assert answer == 1
    assert value != pending
    value, _ = perform("XSETID", value, (b"9-0",))
    assert perform("XADD", value, (b"8-0", b"field", b"z"))[0] == value
