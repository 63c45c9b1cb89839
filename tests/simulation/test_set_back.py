"""A loss that was accepted sets judges back once, and from then on they expect everything again."""

from __future__ import annotations

import pytest
from tests.simulation.data import Value
from tests.simulation.history import Command, CounterHistory, Impossible, KeyHistory
from tests.simulation.shared import Pair, Register


def test_a_key_is_what_its_copy_had_and_keeps_what_follows() -> None:
    history = KeyHistory(b"k")
    history.answered(Command("SET", b"a"), b"OK", 0, 1)
    history.answered(Command("APPEND", b"b"), 2, 2, 3)
    history.set_back(Value(b"a"), 10)
    with pytest.raises(Impossible):
        history.check(b"ab", 20)
    history.answered(Command("APPEND", b"c"), 2, 11, 12)
    history.check(b"ac", 20)
    with pytest.raises(Impossible):
        history.check(b"a", 20)


def test_what_was_under_way_at_a_loss_is_there_or_not() -> None:
    history = KeyHistory(b"k")
    history.answered(Command("SET", b"a"), b"OK", 0, 1)
    history.set_back(Value(None), 10)
    history.answered(Command("APPEND", b"b"), 2, 9, 11)
    history.check(None, 20)
    with pytest.raises(Impossible):
        history.check(b"ab", 20)


def test_a_counter_goes_on_from_what_its_copy_had() -> None:
    counter = CounterHistory(b"n", asked=5)
    for number in (1, 2, 3):
        counter.answered(number, number, number + 0.5)
    counter.set_back(b"1", 10)
    counter.answered(3, 9, 11)  # of before, perhaps
    counter.answered(2, 12, 13)
    counter.check(b"2")
    counter.check(b"3")
    with pytest.raises(Impossible):
        counter.check(b"1")
    with pytest.raises(Impossible):
        counter.answered(2, 14, 15)


def test_a_register_has_one_order_before_a_loss_and_one_behind_it() -> None:
    register = Register(b"r")
    register.add(0, "SET", b"a", b"OK", 0, 1)
    register.add(0, "SET", b"b", b"OK", 2, 3)
    register.set_back(b"a", 5)
    register.add(0, "GETSET", b"c", b"a", 6, 7)
    register.check(b"c", 9)
    register.add(1, "GET", b"", b"b", 7, 8)
    with pytest.raises(Impossible):
        register.check(b"c", 9)


def test_two_keys_are_counted_from_what_their_copy_had() -> None:
    pair = Pair(b"one", b"other", counted=5)
    pair.set_back(2, 10)
    pair.done(9)
    pair.done(11)
    for number in (b"3", b"4"):
        pair.check({b"one": number, b"other": number}.get)
    for number in (b"2", b"5"):
        with pytest.raises(Impossible):
            pair.check({b"one": number, b"other": number}.get)
