"""Which commands a transaction takes, and what becomes of it when one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from helios.resp.commands import TABLE, How, find
from helios.resp.wire import encode_command
from helios.router.commands.queueing import QUEUED as OWN
from helios.router.commands.queueing import queue, refusal
from helios.router.commands.transactions import AT_ONCE
from helios.router.frontend.caller import IN_MULTI, Caller, Outbox
from helios.router.frontend.transaction import Transaction
from helios.router.options import RouterOptions

QUEUED = b"+QUEUED\r\n"
SMALL = RouterOptions(transaction_commands=3, transaction_bytes=200)


class Nobody:
    def hold(self, caller: Caller) -> None: ...
    def delay(self, caller: Caller) -> None: ...
    def forget(self, caller: Caller) -> None: ...


@pytest.fixture
def caller() -> Iterator[Caller]:
    loop = asyncio.new_event_loop()
    made = Caller(lambda caller, raw, argv: 0, Outbox(loop), Nobody())
    made.transaction, made.modes = Transaction(), IN_MULTI
    yield made
    loop.close()


def ask(caller: Caller, line: str, options: RouterOptions = SMALL) -> bytes:
    argv = [word.encode() for word in line.split()]
    queue(options, caller, encode_command(argv), argv)
    (reply,) = caller.take_ready()
    return reply


def test_commands_are_queued_with_their_keys(caller: Caller) -> None:
    transaction = caller.transaction
    assert transaction is not None
    seen = []
    for line in ("get a", "MSET b 1 c 2", "lmpop x d left"):
        assert ask(caller, line) == QUEUED
        seen.append((list(transaction.keys), transaction.writes))
    assert seen == [([b"a"], False), ([b"a", b"b", b"c"], True), ([b"a", b"b", b"c"], True)]
    assert transaction.frames[0] == encode_command([b"get", b"a"])
    assert transaction.size == sum(map(len, transaction.frames))


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("nosuch a", b"-ERR unknown command 'nosuch', with args beginning with: 'a' \r\n"),
        ("get", b"-ERR wrong number of arguments for 'get' command\r\n"),
        ("object nosuch a", b"-ERR unknown subcommand 'nosuch'. Try OBJECT HELP.\r\n"),
        ("copy a b db 1", b"-ERR 'COPY ... DB' is refused: Helios has one database, number 0\r\n"),
        ("dbsize", b"-ERR 'DBSIZE' is refused inside a transaction, which one shard carries out as a whole\r\n"),
        ("shutdown", b"-ERR 'SHUTDOWN' is refused: stop the process that runs the cluster instead\r\n"),
        ("set a " + "v" * 300, b"-OVERLOADED a transaction may have 3 commands and 200 bytes; it is discarded\r\n"),
    ],
)
def test_a_refused_command_spoils_the_transaction(caller: Caller, line: str, reply: bytes) -> None:
    transaction = caller.transaction
    assert transaction is not None
    assert ask(caller, "get a") == QUEUED
    assert ask(caller, line) == reply
    assert transaction.failed
    assert ask(caller, "get b") == QUEUED
    assert (transaction.frames, transaction.keys, transaction.size) == ([], [], 0)


def test_a_transaction_has_so_many_commands_at_most(caller: Caller) -> None:
    assert [ask(caller, "get a") for _ in range(3)] == [QUEUED] * 3
    assert ask(caller, "get a").startswith(b"-OVERLOADED")


def test_only_what_one_shard_can_do_is_queued() -> None:
    for command in TABLE.values():
        argv = [b"x"] * 5 if command.name not in ("xread", "xreadgroup") else [b"x", b"streams", b"a", b"0"]
        taken = refusal(argv, command) is None
        own = command.how in (How.FORWARD, How.SPLIT, How.BLOCKING, How.ANYWHERE)
        own = own and command.name not in ("hscan", "sscan", "zscan")  # whose cursors name a server
        passing = ("ping", "echo", "time", "unwatch", "publish", "spublish", "function|list", "function|dump")
        assert taken == (own or command.name in passing or command.name in OWN), command.name
    assert {"hello", "info", "client|id", "select", "config|get", "pubsub|numsub", "command|info"} <= set(OWN)
    assert not {"dbsize", "keys", "scan", "flushall", "client|reply", "subscribe"} & set(OWN)
    assert all(find(name.encode()) for name in AT_ONCE)
