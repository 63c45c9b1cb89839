"""The same commands to one server and to a router over three: the replies are the same, down to their RESP types.

What the documents except is excepted here, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from tests.drawn_commands import KEYS, Words, sequences
from tests.routers import RouterLab, served_aside
from tests.servers import Server
from tests.typed_replies import Reply, TypedClient

from helios.errors import InvalidInput
from helios.resp.commands import find, key_positions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")

# In no order, or in one by chance.
UNORDERED = frozenset(
    b"keys smembers sinter sunion sdiff spop srandmember sscan hscan hrandfield zrandmember command".split()
)
# Told from a clock, so that it may pass between the two servers.
CLOCKED = frozenset(b"ttl pttl expiretime pexpiretime httl hexpiretime".split())
CLOCK_MS = 20_000
# Only the type is compared: what is in it is of the moment, of one server, or chosen by chance.
ANYHOW = frozenset(b"time randomkey hello lolwut dump".split())
# Not within a transaction: they concern more than one node, or have a cursor.
ALONE = frozenset(
    b"keys dbsize randomkey flushall flushdb script hello select wait command client hscan sscan zscan".split()
)


def keys_told(words: Words) -> bool:
    """Whether the command's arguments tell its keys; where they do not, the router says so in its own words."""
    command = find(words[0])
    try:
        # One with too few arguments is refused before anybody looks for keys.
        return command is None or not command.fits(len(words)) or key_positions(command, words) is not None
    except InvalidInput:
        return False


class Pair:
    """A router over three servers, and a server."""

    def __init__(self, lab: RouterLab, plain: Server) -> None:
        self.lab = lab
        self.plain = plain

    def owners(self, commands: Sequence[Words]) -> set[str]:
        """Who owns the keys of the commands."""
        found: set[str] = set()
        for words in commands:
            command = find(words[0])
            if command is not None and command.fits(len(words)):
                try:
                    found.update(self.lab.owner(words[position]) for position in key_positions(command, words))
                except InvalidInput:
                    continue
        return found


@pytest.fixture(scope="module")
def pair(servers: dict[str, Server], plain: Server) -> Iterator[Pair]:
    with served_aside(servers) as lab:
        assert {lab.owner(key) for key in KEYS} == set(SHARDS)
        yield Pair(lab, plain)


class Conversation:
    """What a connection's commands have led to so far: what the router refuses is not given to the plain server."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._queued: list[Words] | None = None
        self._watched: list[Words] = []
        self.given: list[Words] = []
        # For each command: how it is called in a message, the router's reply, and the commands that EXEC stands for.
        self.compared: list[tuple[Words, Reply | None, tuple[Words, ...]]] = []

    def take(self, words: Words, reply: Reply) -> None:
        """One command and what the router said to it."""
        name = words[0].lower()
        ran: tuple[Words, ...] = ()
        excused = self._excused(words, reply)
        if self._queued is not None:
            if reply == Reply("+", b"QUEUED"):
                self._queued.append(words)
            elif name in (b"exec", b"discard", b"reset") and reply.error != b"ERR":
                ran, self._queued, self._watched = tuple(self._queued), None, []
        elif reply == Reply("+", b"OK"):
            if name == b"multi":
                self._queued = []
            elif name == b"watch":
                self._watched.append(words)
            elif name == b"unwatch":
                self._watched = []
        if not excused:
            self.given.append(words)
            self.compared.append((words, reply, ran))
        elif self._queued is not None or name == b"exec":
            self.given.append((b"DISCARD",) if name == b"exec" else (b"NOSUCH",))
            self.compared.append((words, None, ()))

    def _excused(self, words: Words, reply: Reply) -> bool:
        name = words[0].lower()
        if reply.error == b"CROSSSHARD":
            concerned = [words] if name != b"exec" else [*self._watched, *(self._queued or [])]
            if name == b"watch":
                concerned += self._watched
            assert len(self._pair.owners(concerned)) > 1, f"{words} is refused though its keys are together: {reply}"
            return True
        # A transaction takes nothing that cannot be sent to one node as it is.
        return self._queued is not None and reply.kind == "-" and (name in ALONE or not keys_told(words))


def alike(words: Words, ours: Reply, theirs: Reply, ran: Sequence[Words]) -> bool:
    """Whether a router's reply is the server's, as far as it has to be."""
    name = words[0].lower()
    if ours == theirs:
        return True
    if ran and ours.parts is not None and theirs.parts is not None:
        return len(ours.parts) == len(theirs.parts) == len(ran) and all(
            alike(each, one, other, ()) for each, one, other in zip(ran, ours.parts, theirs.parts, strict=True)
        )
    if ours.kind != theirs.kind:
        return False
    if ours.kind == "-":
        return ours.text == theirs.text or not keys_told(words)
    if name == b"command" and words[1].lower() == b"info":
        return described(ours) == described(theirs)
    if name in ANYHOW:
        return (ours.parts is None) == (theirs.parts is None) and (ours.text is None) == (theirs.text is None)
    if name in CLOCKED:
        return all(abs(one - other) <= CLOCK_MS for one, other in zip(numbers(ours), numbers(theirs), strict=True))
    if name in UNORDERED:
        return in_order(ours) == in_order(theirs)
    return False


def described(reply: Reply) -> list[list[object]]:
    """What COMMAND INFO says of each command: Helios leaves out where the keys are, and flags that clients need not."""
    rows = [(row, row.parts) for row in reply.parts or ()]
    return [[*parts[:2], *(field.kind for field in parts[2:6])] if parts else [row] for row, parts in rows]


def numbers(reply: Reply) -> list[int]:
    """The integers of a reply."""
    return [int(reply.text or b"0")] if reply.parts is None else [n for part in reply.parts for n in numbers(part)]


def in_order(reply: Reply) -> Reply:
    """The reply with its parts sorted."""
    if reply.parts is None:
        return reply
    return Reply(reply.kind, None, tuple(sorted((in_order(part) for part in reply.parts), key=repr)))


@example(commands=[(b"EXEC", b"more")], third=False, at_once=False)
@example(commands=[(b"NOSUCH", b"a", b"b"), (b"WAIT", b"0", b"x"), (b"SELECT", b"x")], third=False, at_once=True)
@example(commands=[(b"COMMAND", b"INFO", b"GET", b"NOSUCH")], third=True, at_once=False)
@example(commands=[(b"COMMAND", b"INFO", b"GET", b"NOSUCH")], third=False, at_once=False)
@given(commands=sequences(), third=st.booleans(), at_once=st.booleans())
def test_the_replies_are_those_of_one_server(pair: Pair, commands: list[Words], third: bool, at_once: bool) -> None:
    with TypedClient(pair.lab.port) as router, TypedClient(pair.plain.port) as plain:
        for client in (router, plain):
            client.ask("FLUSHALL")
            if third:
                client.ask("HELLO", "3")
        conversation = Conversation(pair)
        replies = router.ask_all(commands) if at_once else [router.ask(*words) for words in commands]
        for words, said in zip(commands, replies, strict=True):
            conversation.take(words, said)
        theirs = plain.ask_all(conversation.given)
        for (words, reply, ran), other in zip(conversation.compared, theirs, strict=True):
            event(f"{words[0].decode(errors='replace').upper()} {other.error.decode() or 'ok'}")
            assert reply is None or alike(words, reply, other, ran), f"{words}: {reply} by Helios, {other} by a server"
