"""By what CLIENT LIST and CLIENT KILL choose connections."""

from __future__ import annotations

import pytest

from helios.errors import InvalidInput
from helios.router.commands.client import matches

FIELDS: dict[str, object] = {
    "id": 7,
    "addr": "127.0.0.1:5000",
    "laddr": "127.0.0.1:6379",
    "name": "worker",
    "age": 100,
    "idle": 5,
    "flags": "Pb",
    "db": 0,
    "user": "default",
    "lib-name": "redis-py",
    "lib-ver": "6",
}


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", True),
        ("ID 7", True),
        ("ID 1 07 3", True),
        ("ID 1 3", False),
        ("NOT-ID 1 3", True),
        ("TYPE pubsub", True),
        ("type NORMAL", False),
        ("NOT-TYPE normal", True),
        ("ADDR 127.0.0.1:5000 LADDR 127.0.0.1:6379", True),
        ("ADDR 127.0.0.1:5000 LADDR 127.0.0.1:1", False),
        ("IP 127.0.0.1", True),
        ("USER default NAME worker DB 0", True),
        ("NOT-NAME worker", False),
        ("MAXAGE 100 IDLE 5", True),
        ("MAXAGE 101", False),
        ("NOT-IDLE 6", True),
        ("FLAGS b", True),
        ("FLAGS bx", False),
        ("LIB-NAME redis-py LIB-VER 6", True),
        ("ID 7 SKIPME yes", True),
    ],
)
def test_options_choose(words: str, chosen: bool) -> None:
    assert matches(FIELDS, words.split(), me=1, skip_me=False) is chosen


def test_one_does_not_choose_oneself_unless_asked() -> None:
    assert not matches(FIELDS, [], me=7, skip_me=True)
    assert not matches(FIELDS, ["ID", "7", "SKIPME", "yes"], me=7, skip_me=False)
    assert matches(FIELDS, ["ID", "7", "SKIPME", "no"], me=7, skip_me=True)


@pytest.mark.parametrize(
    "words", ["ID", "ID x", "NAME", "NOSUCH x", "SKIPME maybe", "MAXAGE x", "MAXAGE -1", "TYPE x", "7"]
)
def test_what_makes_no_sense_is_said(words: str) -> None:
    with pytest.raises(InvalidInput):
        matches(FIELDS, words.split(), me=1, skip_me=False)
