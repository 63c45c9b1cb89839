"""By what CLIENT LIST and CLIENT KILL choose connections."""

from __future__ import annotations

import pytest

from helios.errors import InvalidInput
from helios.router.commands.client_filter import parse

FIELDS: dict[str, object] = {
    "id": 7,
    "addr": "127.0.0.1:5000",
    "laddr": "127.0.0.1:6379",
    "name": "worker",
    "age": 100,
    "idle": 5,
    "flags": "Pb",
    "capa": "r",
    "db": 0,
    "user": "default",
    "lib-name": "redis-py",
    "lib-ver": "6",
}


def chosen_by(words: str, me: int = 1, *, skip_me: bool = False) -> bool:
    return parse(words.split(), lambda name: name in ("default", "bob"), skip_me=skip_me).chooses(FIELDS, me)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("", True),
        ("ID 7", True),
        ("ID 1 7 3", True),
        ("CAPA r USER default NOT-USER bob", True),
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
        ("IDLE 6", False),
        ("FLAGS b", True),
        ("FLAGS bx", False),
        ("LIB-NAME redis-py LIB-VER 6", True),
        ("ID 7 SKIPME yes", True),
    ],
)
def test_options_choose(words: str, chosen: bool) -> None:
    assert chosen_by(words) is chosen


def test_one_does_not_choose_oneself_unless_asked() -> None:
    assert not chosen_by("", me=7, skip_me=True)
    assert not chosen_by("ID 7 SKIPME yes", me=7)
    assert chosen_by("ID 7 SKIPME no", me=7, skip_me=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ID", "syntax error"),
        ("ID x", "syntax error"),
        ("ID 0", "client-id should be greater than 0"),
        ("ID 1 -1", "client-id should be greater than 0"),
        ("NAME", "syntax error"),
        ("NOSUCH x", "syntax error"),
        ("SKIPME maybe", "syntax error"),
        ("NOT-SKIPME yes", "syntax error"),
        ("NOT-IDLE 5", "syntax error"),
        ("MAXAGE x", "maxage is not an integer or out of range"),
        ("MAXAGE 0", "maxage should be greater than 0"),
        ("IDLE -1", "idle should be greater than 0"),
        ("TYPE x", "Unknown client type 'x'"),
        ("FLAGS qP", "Unknown flags found in the provided filter: q"),
        ("NOT-CAPA x", "Unknown capa found in the NOT-CAPA filter: x"),
        ("USER nosuch", "No such user 'nosuch'"),
        ("NOT-USER nosuch", "No such user 'nosuch'"),
        ("DB x", "DB is not an integer or out of range"),
        ("DB 16", "DB number should be between 0 and 15"),
        ("7", "syntax error"),
    ],
)
def test_what_makes_no_sense_is_said(words: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        chosen_by(words)
    assert str(caught.value) == message
