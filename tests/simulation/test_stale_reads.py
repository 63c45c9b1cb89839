"""What servers that are behind may show: nothing older than the bound, and nothing that nobody has written."""

from __future__ import annotations

import pytest
from tests.simulation.data import NO_KEY, Value
from tests.simulation.history import Command, Impossible, KeyHistory

READ = Command("GET")


def test_a_read_is_as_old_as_the_bound_at_most() -> None:
    history = KeyHistory(b"k")
    for at_ms, value in ((0, b"a"), (100, b"b"), (200, b"c")):
        history.answered(Command("SET", value), b"OK", at_ms, at_ms + 1)
    history.looked(READ, b"c", 250, 251, 100)
    history.looked(READ, b"b", 250, 251, 100)
    for wrong in (b"a", b"d", None):
        with pytest.raises(Impossible):
            history.looked(READ, wrong, 250, 251, 100)
    history.looked(READ, None, 250, 251, 1000)
    history.check(b"c", 300)


def test_a_read_may_show_what_is_not_acknowledged_yet_and_proves_nothing_of_it() -> None:
    history = KeyHistory(b"k", read_back_ms=50)
    history.unanswered(Command("SET", b"a"), 0, 1)
    history.answered(READ, b"a", 100, 101)
    history.answered(READ, None, 200, 201)
    history.check(None, 300)


def test_an_error_may_tell_of_what_is_not_acknowledged_yet_and_proves_nothing_of_it() -> None:
    history = KeyHistory(b"k", read_back_ms=50)
    history.answered(Command("XADD", b"1-0", more=(b"field", b"a")), b"1-0", 0, 1)
    with pytest.raises(Impossible):
        history.answered(Command("XSETID", b"2-0"), NO_KEY, 60, 61)
    history.unanswered(Command("FLUSH"), 100, 101)
    history.answered(Command("XSETID", b"3-0"), NO_KEY, 200, 201)
    history.answered(Command("XSETID", b"4-0"), b"OK", 300, 301)


def test_an_acknowledgement_of_a_replaced_leader_may_be_lost_and_later_ones_not() -> None:
    history = KeyHistory(b"k")
    history.set_back(Value(b"a"), 10)
    history.doubtful_until_ms = 50
    history.answered(Command("APPEND", b"b"), 7, 20, 21)
    history.check(b"a", 30)
    history.check(b"ab", 30)
    history.answered(Command("SET", b"c"), b"OK", 60, 61)
    with pytest.raises(Impossible):
        history.check(b"ab", 70)
