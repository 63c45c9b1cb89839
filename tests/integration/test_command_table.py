"""The table of commands against a live server: no command unknown, no key position different."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.servers import start_valkey

from helios.resp.commands import TABLE, Command, How, find, key_positions
from helios.resp.facts import FACTS
from helios.router.commands.dispatch import HANDLERS

pytestmark = pytest.mark.processes

# Arguments that make the variable forms of a command; the rest is tried with plain words.
FORMS: dict[str, list[str]] = {
    "sort": ["k BY nosort LIMIT 0 1 STORE d", "k ALPHA STORE d DESC", "k"],
    "georadius": ["k 1 1 1 km STORE d", "k 1 1 1 km COUNT 1 STOREDIST d", "k 1 1 1 km"],
    "georadiusbymember": ["k m 1 km STORE d", "k m 1 km ASC STOREDIST d"],
    "xread": ["COUNT 1 STREAMS a b 0 0", "STREAMS a $", "BLOCK 0 COUNT 2 streams a b c 1 2 3"],
    "xreadgroup": ["GROUP STREAMS c COUNT 1 NOACK STREAMS a b > >", "GROUP g c STREAMS a >"],
    "eval": ["s 2 a b x", "s 0"],
    "evalsha": ["s 1 a x"],
    "eval_ro": ["s 1 a"],
    "evalsha_ro": ["s 1 a"],
    "fcall": ["f 1 a x"],
    "fcall_ro": ["f 2 a b"],
    "blmpop": ["0 2 a b LEFT"],
    "bzmpop": ["0 1 a MIN"],
    "lmpop": ["2 a b LEFT COUNT 3"],
    "zmpop": ["1 a MIN"],
    "msetex": ["2 a 1 b 2 EX 10"],
    "sintercard": ["3 a b c LIMIT 2"],
    "zdiff": ["2 a b WITHSCORES"],
    "zinter": ["2 a b WEIGHTS 1 2"],
    "zintercard": ["1 a LIMIT 1"],
    "zunion": ["2 a b AGGREGATE MAX"],
    "zdiffstore": ["d 2 a b"],
    "zinterstore": ["d 1 a"],
    "zunionstore": ["d 3 a b c WEIGHTS 1 2 3"],
    "mset": ["a 1 b 2 c 3"],
    "msetnx": ["a 1 b 2"],
    "del": ["a", "a b c"],
    "blpop": ["a b c 0"],
    "lcs": ["a b LEN"],
    "bitop": ["AND d a b c"],
    "pfmerge": ["d a b"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    folder: Path = tmp_path_factory.mktemp("valkey")
    with start_valkey(folder) as running, redis.Redis(port=running.port, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def live(server: redis.Redis) -> dict[str, Any]:
    """What the server says of each of its commands and subcommands, by name."""
    server.set_response_callback("COMMAND INFO", lambda reply, **_: reply)
    found: dict[str, Any] = {}
    names: Any = server.execute_command("COMMAND LIST")
    for row in server.execute_command("COMMAND INFO", *names):
        for each in (row, *row[9]):
            found[each[0]] = each
    return found


def test_no_command_of_the_server_is_unknown(live: dict[str, Any]) -> None:
    assert len(live) > 350
    assert {name for name in live if name not in TABLE} == set()
    assert {name for name, *_ in FACTS} == set(live)


def test_arity_flags_and_key_range_are_the_servers(live: dict[str, Any]) -> None:
    for name, arity, flags, notation in FACTS:
        row = live[name]
        assert arity == row[1], name
        assert set(flags.split()) <= set(row[2]), name
        assert ("write" in flags) == ("write" in row[2]), name
        assert ("blocking" in flags) == ("blocking" in row[2]), name
        if name != "migrate":
            assert list(TABLE[name].key_range) == row[3:6], (name, notation)


def test_key_positions_are_those_that_the_server_finds(server: redis.Redis, live: dict[str, Any]) -> None:
    tried = 0
    for command in TABLE.values():
        if command.how is How.VERB or ("movablekeys" in command.flags and command.name not in FORMS):
            assert command.how is How.VERB or command.name in ("georadius_ro", "sort_ro"), command.name
            continue
        if command.name not in live:
            continue  # Only Helios knows it.
        if command.container or command.name in ("clusterscan", "spublish", "ssubscribe", "sunsubscribe"):
            continue  # What the server has at the place of a key is a cursor or a channel.
        for words in FORMS.get(command.name, plain_forms(command)):
            argv = [*command.name.split("|"), *words.split()]
            try:
                theirs = server.execute_command("COMMAND GETKEYS", *argv)
            except redis.ResponseError as error:
                assert "no key arguments" in str(error), (argv, error)
                theirs = []
            encoded = [word.encode() for word in argv]
            ours = [argv[position] for position in key_positions(command, encoded)]
            assert ours == theirs, argv
            tried += 1
    assert tried > 400


def plain_forms(command: Command) -> list[str]:
    least = abs(command.arity) - len(command.name.split("|"))
    counts = {least} if command.arity > 0 else {least, least + 1, least + 2}
    return [" ".join(f"w{i}" for i in range(count)) for count in sorted(counts) if count >= 0]


def test_every_command_of_the_routers_own_has_a_handler() -> None:
    containers = {command.name for command in TABLE.values() if command.container and command.name != "command"}
    own = {command.name for command in TABLE.values() if command.how is How.ROUTER}
    assert own - containers == set(HANDLERS)


def test_words_find_their_command_in_any_case() -> None:
    for word in (b"get", b"GET", b"GeT"):
        command = find(word)
        assert command is not None and command.name == "get" and command.one_key == 1
    assert find(b"object|encoding") is None
    assert find(b"\xff" * 1000) is None
