from __future__ import annotations

import pytest

from helios.errors import InvalidInput
from helios.resp.commands import TABLE, How, find, key_positions, looked_up, objection
from helios.resp.keys import Malformed, compile_keys, key_range


def split(line: str) -> list[bytes]:
    return [word.encode() for word in line.split()]


@pytest.mark.parametrize(
    ("notation", "line", "expected"),
    [
        ("1", "get a", [1]),
        ("1 2", "rename a b", [1, 2]),
        ("1..-1", "del a b c", [1, 2, 3]),
        ("1..-2", "blpop a b 0", [1, 2]),
        ("1..-1/2", "mset a 1 b 2", [1, 3]),
        ("#1", "lmpop 2 a b left", [2, 3]),
        ("#1/2", "msetex 2 a 1 b 2 ex 5", [2, 4]),
        ("1 #2", "zunionstore d 2 a b weights 1 2", [1, 3, 4]),
        ("", "ping", []),
    ],
)
def test_key_notation(notation: str, line: str, expected: list[int]) -> None:
    assert list(compile_keys(notation)(split(line))) == expected


def test_a_notation_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a notation for key positions"):
        compile_keys("1..x")


@pytest.mark.parametrize(("notation", "expected"), [("1 2..-1", (1, -1, 1)), ("1 #2", (1, 1, 1)), ("#1", (0, 0, 0))])
def test_key_ranges(notation: str, expected: tuple[int, int, int]) -> None:
    assert key_range(notation) == expected


@pytest.mark.parametrize(
    "line",
    [
        "sort k store d BY nosort STORE e",
        "georadius k 1 1 1 km STORE x STOREDIST e",
        "georadiusbymember k m 1 km STORE d count 1 storedist e",
    ],
)
def test_the_last_destination_counts_where_a_word_is_given_twice(line: str) -> None:
    argv = split(line)
    command = find(argv[0])
    assert command is not None
    assert [argv[position] for position in key_positions(command, argv)] == [b"k", b"e"]


@pytest.mark.parametrize(
    "line",
    [
        "xread streams a",
        "xread streams a b 0",
        "xread count x streams a 0",
        "xreadgroup group g c block 0.5 streams a >",
        "lmpop x a left",
        "eval x -1",
        "zunion 2 a",
        "msetnx a 1 b",
    ],
)
def test_what_no_server_takes_can_be_sent_to_any(line: str) -> None:
    command = find(split(line)[0])
    assert command is not None
    with pytest.raises(Malformed):
        key_positions(command, split(line))


def test_arguments_of_a_newer_server_are_not_sent_to_any() -> None:
    for line in ("xread nonsense streams a 0", "sort a nonsense store b", "georadius k 1 1 1 km nonsense store d"):
        command = find(split(line)[0])
        assert command is not None
        with pytest.raises(InvalidInput) as caught:
            key_positions(command, split(line))
        assert not isinstance(caught.value, Malformed)


@pytest.mark.parametrize("line", ["xread streams a", "xread count 1", "xread nonsense streams a 0", "lmpop x a left"])
def test_arguments_that_cannot_be_right(line: str) -> None:
    command = find(split(line)[0])
    assert command is not None
    with pytest.raises(InvalidInput):
        key_positions(command, split(line))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("copy a b db 0 replace", None),
        ("copy a b db x db -1", None),
        ("copy a b db 0 db 1", "'COPY ... DB' is refused: Helios has one database, number 0"),
        ("sort a get d_*", None),
    ],
)
def test_objections(line: str, reason: str | None) -> None:
    command = find(split(line)[0])
    assert command is not None
    assert objection(command, split(line)) == reason


@pytest.mark.parametrize(
    ("line", "patterns"),
    [
        ("sort a by w_* get #", [b"w_*"]),
        ("sort_ro a get d_*->f get # get {a}*", [b"d_*->f", b"{a}*"]),
        ("sort a by nosort get # limit 0 1", []),
        ("get a", []),
    ],
)
def test_sort_looks_up_what_its_patterns_stand_for(line: str, patterns: list[bytes]) -> None:
    command = find(split(line)[0])
    assert command is not None
    assert looked_up(command, split(line)) == patterns


def test_what_must_not_pass_is_refused_with_a_reason() -> None:
    for name in (
        "acl|setuser",
        "client|pause",
        "debug",
        "module|load",
        "move",
        "psync",
        "replicaof",
        "shutdown",
        "slaveof",
        "swapdb",
    ):
        assert TABLE[name].how is How.REFUSED
        assert TABLE[name].reason
    assert TABLE["migrate"].how is How.VERB


def test_commands_without_keys_are_never_forwarded_blindly() -> None:
    for command in TABLE.values():
        if command.how in (How.FORWARD, How.SPLIT):
            assert command.notation, command.name
            assert "blocking" not in command.flags, command.name
            assert "pubsub" not in command.flags, command.name
