"""The judge of all lives: what the answers to a key's commands allow, and what they rule out."""

from __future__ import annotations

import pytest
from tests.simulation.history import Command, CounterHistory, Impossible, KeyHistory


def _appended(history: KeyHistory, data: bytes, length: int, at_ms: float) -> None:
    history.answered(Command("APPEND", data), length, at_ms, at_ms + 1)


def test_what_was_acknowledged_must_be_there() -> None:
    history = KeyHistory(b"k")
    _appended(history, b"a", 1, 0)
    _appended(history, b"b", 2, 10)
    history.check(b"ab", 100)
    for wrong in (b"a", b"b", b"abb", None):
        with pytest.raises(Impossible):
            history.check(wrong, 100)


def test_a_deleted_key_must_not_come_back() -> None:
    history = KeyHistory(b"k")
    _appended(history, b"a", 1, 0)
    history.answered(Command("DEL"), 1, 10, 11)
    with pytest.raises(Impossible):
        history.answered(Command("GET"), b"a", 20, 21)


def test_an_unanswered_command_may_have_run_or_run_later_but_only_once() -> None:
    history = KeyHistory(b"k")
    history.unanswered(Command("APPEND", b"a"), 0, 1)
    _appended(history, b"b", 1, 10)
    history.check(b"b", 100)
    history.check(b"ba", 100)
    for wrong in (b"ab", b"aba", b"baa", None):
        with pytest.raises(Impossible):
            history.check(wrong, 100)


def test_a_read_that_was_under_way_during_a_flush_may_have_come_before_it() -> None:
    history = KeyHistory(b"k")
    history.answered(Command("SET", b"a"), b"OK", 0, 1)
    for asked_ms in (10, 20):
        history.done(history.asked(Command("FLUSH"), asked_ms), asked_ms + 1)
    history.answered(Command("GET"), b"a", 5, 30)
    with pytest.raises(Impossible):
        history.answered(Command("GET"), b"a", 31, 32)


def test_a_refused_command_must_not_have_run() -> None:
    history = KeyHistory(b"k")
    history.refused(Command("SET", b"a"), "held too long", 1)
    with pytest.raises(Impossible):
        history.check(b"a", 100)


def test_a_value_ends_at_its_time_and_not_before() -> None:
    history = KeyHistory(b"k")
    history.answered(Command("SET", b"a", expire_at_ms=50), b"OK", 0, 1)
    history.answered(Command("GET"), b"a", 10, 11)
    with pytest.raises(Impossible):
        history.answered(Command("GET"), None, 20, 21)
    history.answered(Command("GET"), None, 60, 61)
    with pytest.raises(Impossible):
        history.check(b"a", 70)


def test_a_power_cut_takes_only_what_is_young() -> None:
    history = KeyHistory(b"k")
    _appended(history, b"a", 1, 0)
    _appended(history, b"b", 2, 1000)
    history.power_lost(since_ms=500, now_ms=1500)
    history.check(b"a", 2000)
    history.check(b"ab", 2000)
    with pytest.raises(Impossible):
        history.check(None, 2000)


@pytest.mark.parametrize("told_ms", [400, 1100], ids=["told-before", "told-after"])
def test_a_power_cut_may_undo_what_is_acknowledged_only_after_it(told_ms: int) -> None:
    history = KeyHistory(b"k")
    _appended(history, b"a", 1, 0)
    if told_ms < 1000:
        number = history.asked(Command("FLUSH"), 400)
    history.power_lost(since_ms=500, now_ms=1000)
    if told_ms > 1000:
        number = history.asked(Command("DEL"), 400)
    history.done(number, 1100)
    history.check(b"a", 2000)
    history.check(None, 2000)


def test_what_a_power_cut_took_stays_lost_where_a_command_of_that_time_is_refused() -> None:
    history = KeyHistory(b"k")
    _appended(history, b"a", 1, 0)
    _appended(history, b"b", 2, 1000)
    number = history.asked(Command("FLUSH"), 1200)
    history.power_lost(since_ms=500, now_ms=1500)
    history.not_done(number, 1600)
    history.check(b"a", 2000)
    history.check(b"ab", 2000)
    with pytest.raises(Impossible):
        history.check(None, 2000)


def test_what_is_asked_for_after_a_power_cut_stays_done() -> None:
    history = KeyHistory(b"k")
    _appended(history, b"a", 1, 0)
    history.power_lost(since_ms=500, now_ms=600)
    history.done(history.asked(Command("DEL"), 1000), 1001)
    with pytest.raises(Impossible):
        history.check(b"a", 2000)


def test_what_may_come_once_more_does_so_although_nobody_has_seen_that_it_had_come() -> None:
    history = KeyHistory(b"k")
    arriving = Command("IMPORT", b"a")
    for at_ms in (0, 10):
        history.may_come(arriving, at_ms)
    history.answered(Command("DEL"), 1, 20, 21)
    history.check(b"a", 30)
    history.answered(Command("DEL"), 1, 40, 41)
    with pytest.raises(Impossible):
        history.check(b"a", 50)


def test_a_counter_gives_each_number_once_and_never_goes_back() -> None:
    counter = CounterHistory(b"n", asked=3)
    counter.answered(2, 0, 1)
    with pytest.raises(Impossible):
        counter.answered(2, 0, 1)
    with pytest.raises(Impossible):
        counter.answered(1, 5, 6)
    counter.answered(1, 0, 1)
    counter.unanswered = 1
    counter.check(b"2")
    counter.check(b"3")
    for wrong in (b"1", b"4"):
        with pytest.raises(Impossible):
            counter.check(wrong)
