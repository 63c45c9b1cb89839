"""What is said of a command that several shards carry out, where they answer differently."""

from __future__ import annotations

import pytest

from helios.router.commands.scatter import Gathering, Part, all_ok, total
from helios.router.errors import in_part

DOWN = b"-CLUSTERDOWN shard-1 does not answer at a:1 (refused); nothing was executed\r\n"
LOST = (
    b"-UNKNOWN the connection to shard-2 at b:2 was lost (it is gone): the command may or may not have been executed; "
    b"outcome unknown\r\n"
)


class Waiter:
    def __init__(self) -> None:
        self.reply = b""

    def fill(self, reply: bytes) -> None:
        self.reply = reply


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        ((DOWN, DOWN), DOWN),
        ((LOST,), LOST),
        (
            (DOWN, LOST),
            b"-UNKNOWN the connection to shard-2 at b:2 was lost (it is gone); it may have been on shard-2; "
            b"it was not on shard-1\r\n",
        ),
        (
            (LOST, LOST),
            b"-UNKNOWN the connection to shard-2 at b:2 was lost (it is gone); "
            b"it may have been on shard-1, shard-2\r\n",
        ),
        (
            (DOWN, b"+OK\r\n"),
            b"-CLUSTERDOWN shard-1 does not answer at a:1 (refused); it was carried out on shard-2; "
            b"it was not on shard-1\r\n",
        ),
        (
            (DOWN, LOST, b"+OK\r\n"),
            b"-UNKNOWN the connection to shard-2 at b:2 was lost (it is gone); it was carried out on shard-3; "
            b"it may have been on shard-2; it was not on shard-1\r\n",
        ),
        (
            (b"+OK\r\n", b"-OOM command not allowed\r\n", None),
            b"-OOM command not allowed; it was carried out on shard-1; it was not on shard-2, shard-3\r\n",
        ),
        ((b"-ERR no\r\n", None), b"-ERR no\r\n"),
        (
            (LOST, None),
            b"-UNKNOWN the connection to shard-2 at b:2 was lost (it is gone); it may have been on shard-1; "
            b"it was not on shard-2\r\n",
        ),
    ],
)
def test_the_error_says_where_a_command_was_carried_out(replies: tuple[bytes | None, ...], said: bytes) -> None:
    assert in_part({f"shard-{number}": reply for number, reply in enumerate(replies, 1)}) == said
    if None not in replies:
        waiter = Waiter()
        gathering = Gathering([f"shard-{number + 1}" for number in range(len(replies))], waiter, all_ok)
        for index in reversed(range(len(replies))):
            Part(gathering, index).fill(replies[index] or b"")
        assert waiter.reply == said


def test_replies_without_an_error_become_one() -> None:
    waiter = Waiter()
    gathering = Gathering(["shard-1", "shard-2"], waiter, total)
    gathering.fill(1, b":2\r\n")
    assert waiter.reply == b""
    gathering.fill(0, b":40\r\n")
    assert waiter.reply == b":42\r\n"
