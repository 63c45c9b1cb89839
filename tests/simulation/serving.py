"""A router's connection at a server: its commands one after the other, transactions, and the wait for elements."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation import data, standing
from tests.simulation.data import raw

from helios.engines.memory.connection import MemoryConnection
from helios.errors import EngineDenied
from helios.resp.encoding import NULL_ARRAY, OK, array, bulk, error_reply, integer
from helios.resp.wire import RequestParser

if TYPE_CHECKING:
    from tests.simulation.servers import SimServer

_SPLIT = frozenset((b"MGET", b"MSET", b"DEL", b"UNLINK", b"EXISTS"))
_FOR_EVER = float("inf")
_LINGER_S = 0.01


class Serving:
    """What the server does on one connection. `tell` sends what comes later than the reply to what was received."""

    def __init__(self, server: SimServer, connection: MemoryConnection, tell: Callable[[bytes], None]) -> None:
        self.connection = connection
        self.waits_for: list[bytes] | None = None  # the keys of a command that blocks
        self.since_s = 0.0
        self.dirty = False  # whether a watched key has been changed
        self._server = server
        self._tell = tell
        self._parser = RequestParser()
        self._ahead: deque[list[bytes]] = deque()
        self._queued: list[list[bytes]] | None = None
        self._watched: set[bytes] = set()
        self._waits = 0
        self._aborted = False  # whether a command was refused that was to be part of the transaction
        self._written = 0  # how far the server was when it last wrote for this connection

    def take(self, received: bytes) -> bytes:
        """Carry out what has been received as a whole; the replies that there are at once."""
        self._parser.feed(received)
        self._ahead.extend(argv for _, argv in self._parser.take())
        return self._go_on()

    def _go_on(self) -> bytes:
        replies = []
        while self._ahead and self.waits_for is None:
            replies.append(self._one(self._ahead.popleft()))
            self._server.serve_waiting()
        return b"".join(replies)

    def _one(self, argv: list[bytes]) -> bytes:
        name = argv[0].upper()
        if name == b"HELLO":
            return self._hello(argv)
        if not self.connection.joined:
            return error_reply("NOAUTH Authentication required.")
        refused = standing.refusal(self._server, name)
        if refused:
            self._aborted = self._aborted or self._queued is not None
            return error_reply(refused)
        if self._queued is not None and name not in (b"EXEC", b"DISCARD"):
            self._queued.append(argv)
            return b"+QUEUED\r\n"
        handler = _HANDLERS.get(name)
        if handler is not None:
            return handler(self, argv)
        with self._server.replication.together():
            return self._server.carry_out(self.connection.user, argv)

    # Who it is, and others

    def _hello(self, argv: list[bytes]) -> bytes:
        password = None
        if b"AUTH" in argv:
            user, password = (word.decode() for word in argv[argv.index(b"AUTH") + 1 :][:2])
            self.connection.user = user
        try:
            self._server.join(self.connection, password)
        except EngineDenied as error:
            return error_reply(f"WRONGPASS {error}")
        return array([bulk(b"server"), bulk(b"memory"), bulk(b"id"), integer(self._server.number(self.connection))])

    def _client(self, argv: list[bytes]) -> bytes:
        if argv[1].upper() == b"UNBLOCK":
            other = self._server.serving(int(argv[2]))
            if other is None or other.waits_for is None:
                return integer(0)
            other.resume(b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
            return integer(1)
        return integer(self._server.kill(dict(zip(argv[2::2], argv[3::2], strict=True)), self))

    # Transactions

    def _multi(self, _: list[bytes]) -> bytes:
        self._queued, self._aborted = [], False
        return OK

    def _exec(self, _: list[bytes]) -> bytes:
        queued, self._queued = self._queued or [], None
        aborted, self._aborted = self._aborted, False
        dirty = self.dirty
        self._unwatch([])
        refused = next(filter(None, (standing.refusal(self._server, argv[0].upper()) for argv in queued)), "")
        if aborted or refused:
            return error_reply(f"EXECABORT Transaction discarded because of: {refused or 'previous errors.'}")
        if dirty:
            return NULL_ARRAY[2]
        with self._server.replication.together():
            return array([self._one(argv) for argv in queued])

    def _watch(self, argv: list[bytes]) -> bytes:
        for key in argv[1:]:
            self._server.read(key)  # which ends what has expired: that is no change any more
            self._watched.add(key)
            self._server.watchers.setdefault(key, {})[self] = None
        return OK

    def _unwatch(self, _: list[bytes]) -> bytes:
        for key in self._watched:
            self._server.watchers.get(key, {}).pop(self, None)
        self._watched.clear()
        self.since_s = 0.0
        self.dirty = False
        return OK

    # Waiting

    def _blpop(self, argv: list[bytes]) -> bytes:
        keys, seconds = argv[1:-1], float(argv[-1])
        found = self._server.pop(self.connection.user, keys)
        if found is not None:
            return found
        self.waits_for = keys
        self._waits += 1
        self._server.waiting.append(self)
        self._server.in_time(seconds or _FOR_EVER, self._over, self._waits)
        return b""

    def stand_down(self) -> None:
        """The server leads no more: what waits is told so, and the connection ends."""
        if self.waits_for is not None:
            self.resume(standing.STOOD_DOWN)
            self._server.after_delay(lambda: self._server.end(self.connection), also_s=_LINGER_S)

    # Followers

    def _spublish(self, _: list[bytes]) -> bytes:
        if self._server.replication.leads:
            self._written = self._server.replication.say()
        return integer(0)

    def _wait(self, argv: list[bytes]) -> bytes:
        if not self._server.replication.leads:
            return error_reply("ERR WAIT cannot be used with replica instances.")
        count, timeout_s = int(argv[1]), int(argv[2]) / 1000
        done = self._server.replication.wait(self._written, count, timeout_s)
        if done.done():
            return integer(done.result())
        self.waits_for = []
        self._waits += 1
        done.add_done_callback(partial(self._counted, self._waits))
        return b""

    def _counted(self, wait: int, done: asyncio.Future[int]) -> None:
        if self.waits_for is not None and self._waits == wait and self.connection.lost is None:
            if done.exception() is None:
                self.resume(integer(done.result()))
            else:
                self.stand_down()

    def resume(self, reply: bytes) -> None:
        """What the command waited for has come; those behind it go on."""
        self.waits_for = None
        self._tell(reply + self._go_on())

    def _over(self, wait: int) -> None:
        if self.waits_for is not None and self._waits == wait and self.connection.lost is None:
            self.resume(NULL_ARRAY[2])


def split(server: SimServer, user: str, argv: list[bytes]) -> bytes:
    """A command with any number of keys, all of them here."""
    name, rest = argv[0].upper().decode(), argv[1:]
    if name == "MSET":
        for key, value in zip(rest[::2], rest[1::2], strict=True):
            server.act(user, "SET", key, (value,))
        return OK
    each = {"MGET": "GET", "UNLINK": "DEL"}.get(name, name)
    answers = [server.act(user, each, key, ()) for key in rest]
    if name == "MGET":
        return raw(answers)
    return integer(sum(answer for answer in answers if isinstance(answer, int)))


def plain(server: SimServer, user: str, argv: list[bytes]) -> bytes:
    """A command for one key."""
    name, key, arguments = data.from_argv(argv)
    if name not in data.ACTS:
        return error_reply(f"ERR unknown command {name!r}")
    return raw(server.act(user, name, key, arguments))


def _info(serving: Serving, _: list[bytes]) -> bytes:
    server = serving._server
    said = f"run_id:{server.info().run_id}\r\nredis_version:9.0.0\r\ncmdstat_eval:calls={server.script_calls}\r\n"
    return bulk(said.encode() + standing.info(server.replication.state()))


_HANDLERS: dict[bytes, Callable[[Serving, list[bytes]], bytes]] = {
    b"INFO": _info,
    b"CLIENT": Serving._client,
    b"MULTI": Serving._multi,
    b"EXEC": Serving._exec,
    b"WATCH": Serving._watch,
    b"UNWATCH": Serving._unwatch,
    b"BLPOP": Serving._blpop,
    b"SPUBLISH": Serving._spublish,
    b"WAIT": Serving._wait,
    b"ROLE": lambda serving, argv: standing.role(serving._server.replication.state()),
    b"PING": lambda serving, argv: b"+PONG\r\n",
}
SPLIT = _SPLIT
