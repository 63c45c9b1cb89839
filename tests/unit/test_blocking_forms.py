from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.errors import InvalidInput
from helios.resp.blocking import Timeout, new_entries_of, timeout_of
from helios.resp.commands import TABLE, Command, How, find


def split(line: str) -> tuple[Command, list[bytes]]:
    argv = [word.encode() for word in line.split()]
    command = find(argv[0])
    assert command is not None
    return command, argv


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("blpop a b 5", 5.0),
        ("brpop a 0.25", 0.25),
        ("bzpopmin a 0", None),
        ("bzpopmax a .5", 0.5),
        ("blmove a b left right 1.", 1.0),
        ("brpoplpush a b 3", 3.0),
        ("blmpop 2 1 a left", 2.0),
        ("bzmpop 0.0 1 a min", None),
        ("xread count 1 block 1500 streams a 0", 1.5),
        ("xread block 0 streams a $", None),
        ("xreadgroup group block c block 20 streams a >", 0.02),
        ("xread block 1 block 2000 streams a 0", 2.0),
    ],
)
def test_the_time_out_is_found(line: str, seconds: float | None) -> None:
    timeout = timeout_of(*split(line))
    assert timeout is not None
    assert timeout.seconds(split(line)[1]) == seconds


@pytest.mark.parametrize("text", ["x", "-1", "inf", "nan", "1e3", "0x10", "1_0", "", "9" * 30, "1.5.2"])
def test_a_time_out_that_is_not_plain_is_left_to_the_server(text: str) -> None:
    assert Timeout(0).seconds([text.encode()]) is None
    assert Timeout(0, milliseconds=True).seconds([b"1.5"]) is None


@pytest.mark.parametrize("line", ["xread streams a 0", "xreadgroup group g block streams a >", "get a"])
def test_what_does_not_wait(line: str) -> None:
    assert timeout_of(*split(line)) is None


def test_every_blocking_command_of_the_servers_is_treated_so() -> None:
    blocking = {command.name for command in TABLE.values() if "blocking" in command.flags}
    assert blocking - {"wait", "waitaof"} == {c.name for c in TABLE.values() if c.how is How.BLOCKING}


def test_arguments_that_cannot_be_right() -> None:
    with pytest.raises(InvalidInput):
        timeout_of(*split("xread block 5 nonsense streams a"))


@given(st.floats(-5, 1e9, allow_nan=False), st.booleans())
def test_what_is_left_is_never_for_ever(left_s: float, milliseconds: bool) -> None:
    timeout = Timeout(2, milliseconds=milliseconds)
    argv = timeout.shortened([b"c", b"k", b"7", b"x"], left_s)
    assert argv[:2] == [b"c", b"k"] and argv[3:] == [b"x"]
    seconds = timeout.seconds(argv)
    assert seconds is not None
    assert abs(seconds - max(left_s, 0.001)) <= 0.00051


def test_streams_of_which_new_entries_are_wanted() -> None:
    assert new_entries_of(*split("xread block 0 streams a $ c $ 0 $")) == [(4, 7), (6, 9)]
    assert new_entries_of(*split("xread streams a 0")) == []
    assert new_entries_of(*split("xreadgroup group g c streams a >")) == []
