"""Data servers of a world: in memory, with a disk that is synced once a second, and an eye on who writes what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import Protocol

from tests.simulation import data, scripts
from tests.simulation.data import Answer, Value, raw
from tests.simulation.serving import SPLIT, Serving, plain, split

from helios.coordinator.sweep import REGISTER
from helios.engines.memory import MemoryServer
from helios.engines.memory.connection import MemoryConnection
from helios.model.topology import NodeKind
from helios.ports.engine import SESSION_PREFIX, Dumped
from helios.resp.encoding import OK, array, bulk, error_reply, integer

ADMIN = ("helios-admin", "password")
_LOOK_AGAIN_S = 0.05
_OUTSIDE = Context()


class Audit(Protocol):
    """Looks at each access in the moment in which a server carries it out."""

    def client(self, server: SimServer, user: str, command: str, key: bytes) -> None:
        """A router's command for a key."""

    def undeclared(self, server: SimServer, key: bytes, value: bytes) -> None:
        """A script gives a value to a key that it does not declare."""

    def mover(self, server: SimServer, deed: str, keys: Sequence[bytes]) -> None:
        """A coordinator writes or deletes keys."""


class SimServer(MemoryServer):
    """A server whose accesses are audited. `shard` is the id of the shard whose keys it has."""

    def __init__(
        self,
        shard: str,
        *,
        wall: Callable[[], float],
        audit: Audit,
        aof_fsync: str,
        admin: tuple[str, str] | None = ADMIN,
        acl: bool = True,
        name: str = "",
    ) -> None:
        super().__init__(name or f"server of {shard}", wall=wall, admin=admin, aof_fsync=aof_fsync, version=9, acl=acl)
        self.shard = shard
        self.kind = NodeKind.EXTERNAL if admin is None else NodeKind.SUPERVISED
        self.on_flush: Callable[[SimServer], None] = lambda _: None
        self.on_dump: Callable[[SimServer], None] = lambda _: None
        self.on_copy: Callable[[SimServer, Sequence[bytes]], None] = lambda *_: None
        self.audit = audit
        self.synced_at = 0.0
        self.frozen = False
        self._seconds = wall
        self.scripts: dict[bytes, bytes] = {}  # by name, since its start
        self.watchers: dict[bytes, dict[Serving, None]] = {}
        self.waiting: list[Serving] = []
        self._pushed = False  # whether a list has been written since those that wait were served
        self._numbered: dict[int, Serving] = {}
        self._last_number = 0
        self._ended: list[asyncio.Future[None]] = []  # of those who wait for its end

    # Routers' connections

    def enter(self, serving: Serving) -> None:
        """Give a router's connection the number by which it can be ended."""
        self._last_number += 1
        serving.since_s = self._seconds()
        self._numbered[self._last_number] = serving

    def number(self, connection: MemoryConnection) -> int:
        """The number of a router's connection."""
        return next(number for number, other in self._numbered.items() if other.connection is connection)

    def serving(self, number: int) -> Serving | None:
        """The connection of that number."""
        serving = self._numbered.get(number)
        return None if serving is None or serving.connection.lost is not None else serving

    def kill(self, wanted: Mapping[bytes, bytes], spared: Serving) -> int:
        """End the connections that have this ID, USER and MAXAGE, but for the one that asks; how many there were."""
        number, user, age_s = wanted.get(b"ID"), wanted.get(b"USER"), int(wanted.get(b"MAXAGE", b"0"))
        found = {
            one: serving
            for one, serving in self._numbered.items()
            if serving is not spared
            and number in (None, b"%d" % one)
            and user in (None, serving.connection.user.encode())
            and self._seconds() - serving.since_s >= age_s
        }
        for one, serving in found.items():
            del self._numbered[one]
            self.end(serving.connection)
        return len(found)

    # What clients ask for

    def carry_out(self, user: str, argv: list[bytes]) -> bytes:
        """One command of a router."""
        name = argv[0].upper()
        if name in SPLIT:
            return split(self, user, argv)
        if name in scripts.COMMANDS:
            return scripts.carry_out(self, user, argv)
        if name == b"SCAN":
            cursor, found = self.scan(int(argv[1]), 3)
            return array([bulk(b"%d" % cursor), array([bulk(key) for key in found])])
        if name == b"KEYS":
            return array([bulk(key) for key in self.keys()])
        if name == b"DBSIZE":
            return integer(len(self.keys()))
        if name in (b"FLUSHALL", b"FLUSHDB"):
            if not self.may_flush(user):
                return error_reply("NOPERM this user may not flush")
            self.flush_for()
            return OK
        if len(argv) < 2:
            return error_reply(f"ERR unknown command {name!r}")
        return plain(self, user, argv)

    def act(self, user: str, name: str, key: bytes, arguments: tuple[bytes, ...]) -> Answer:
        """A client's command for one key."""
        self.audit.client(self, user, name, key)
        before = Value(*self.read(key))
        after, answer = data.perform(name, before, arguments)
        if name not in data.READING and (after is not before or name == "SET"):
            named = name not in data.UNNAMED and (name != "XGROUP" or before.data is None)
            self.write(key, after.data, after.expire_at_ms, named=named)
        return answer

    def write_undeclared(self, key: bytes, value: bytes) -> None:
        """A script writes a key that it does not declare, whoever owns that."""
        self.audit.undeclared(self, key, value)
        self.write(key, value, None)

    def may_flush(self, user: str) -> bool:
        """Whether this user may empty the server: not as whom routers pass on what clients send, scripts too."""
        return not user.startswith(SESSION_PREFIX)

    def empty(self) -> None:
        """Somebody empties the server: a script of a client, or its owner."""
        self.on_flush(self)
        super().flush()

    def flush_for(self) -> None:
        """A client empties the cluster: keys of others may lie here, and are no loss."""
        super().flush()

    # Who waits for keys

    def touched(self, key: bytes) -> None:
        """A key has been changed: transactions that watch it come to nothing, and lists may have elements."""
        for serving in self.watchers.pop(key, ()):
            serving.dirty = True
        self._pushed = True

    def pop(self, user: str, keys: Sequence[bytes]) -> bytes | None:
        """The first element of the first of these lists that has one, as BLPOP answers it."""
        for key in keys:
            if self.read(key)[0] is not None:
                return raw([key, self.act(user, "LPOP", key, ())])
        return None

    def serve_waiting(self) -> None:
        """Give those who wait for elements what has come."""
        if not self._pushed:
            return
        self._pushed = False
        for serving in list(self.waiting):
            if serving.waits_for is None or serving.connection.lost is not None:
                self.waiting.remove(serving)
            elif (found := self.pop(serving.connection.user, serving.waits_for)) is not None:
                self.waiting.remove(serving)
                serving.resume(found)

    def stood_down(self) -> None:
        """It leads no more: those that wait for elements, or for followers, wait in vain."""
        for serving in list(self._numbered.values()):
            if serving.connection.lost is None:
                serving.stand_down()
        self.waiting.clear()

    def contents(self) -> dict[bytes, bytes]:
        """All that it has."""
        return {key: value for key in self.keys() if (value := self.get(key)) is not None}

    async def ended(self) -> None:
        """Return when it has ended."""
        if self.up:
            self._ended.append(asyncio.get_running_loop().create_future())
            await self._ended[-1]

    def in_time(self, delay_s: float, act: Callable[[int], None], argument: int) -> None:
        """Have the server do something later, when it is not stopped."""
        starts = self.starts

        def due() -> None:
            if self.starts == starts and self.up:
                if self.frozen:
                    self.in_time(_LOOK_AGAIN_S, act, argument)
                else:
                    act(argument)

        if delay_s < 1e6:
            asyncio.get_running_loop().call_later(delay_s, due, context=_OUTSIDE)

    # What coordinators do

    def dump(self, keys: Sequence[bytes]) -> list[Dumped | None]:
        """A coordinator reads keys to copy them."""
        self.on_dump(self)
        return super().dump(keys)

    def delete(self, keys: Sequence[bytes]) -> int:
        """A coordinator's deletion."""
        # The register of an import lies where nobody looks for a key of that name.
        self.audit.mover(self, "deletes", [key for key in keys if key != REGISTER])
        return super().delete(keys)

    def restore(self, items: Sequence[tuple[bytes, Dumped]], replace: bool) -> list[bool]:
        """A coordinator's copies. One that replaces nothing brings new keys to their owner: it is an import's."""
        keys = [key for key, _ in items]
        if replace:
            self.audit.mover(self, "writes", keys)
        written = super().restore(items, replace)
        if replace:
            self.on_copy(self, keys)
        return written

    def begin_pieces(self, key: bytes, patch: bool) -> int:
        """A coordinator begins a copy in pieces."""
        self.audit.mover(self, "begins to write", [key])
        return super().begin_pieces(key, patch)

    def put_piece(self, key: bytes, start: int, piece: bytes) -> None:
        """A coordinator's copy of a piece."""
        self.audit.mover(self, "writes a piece of", [key])
        super().put_piece(key, start, piece)

    def end_pieces(self, key: bytes, length: int, expire_at_ms: int | None) -> None:
        """A coordinator ends a copy in pieces."""
        self.audit.mover(self, "ends writing", [key])
        super().end_pieces(key, length, expire_at_ms)
        self.on_copy(self, [key])

    def sync(self) -> bool:
        """Bring everything to disk."""
        done = super().sync()
        if done:
            self.synced_at = self._seconds()
        return done

    def crash(self, *, lose_unsynced: bool = False) -> None:
        """End the server; with `lose_unsynced` as by a power cut."""
        super().crash(lose_unsynced=lose_unsynced)
        self.frozen = False
        self._numbered.clear()
        self.scripts.clear()
        self.watchers.clear()
        self.waiting.clear()
        for waiting in self._ended:
            if not waiting.done():
                waiting.set_result(None)
        self._ended.clear()

    def lose_everything(self) -> None:
        """Its disk has nothing, whoever starts it."""
        self._entries.clear()
        self.libraries = {}

    def freeze(self) -> None:
        """Let nothing be carried out until `thaw`."""
        super().freeze()
        self.frozen = True

    def thaw(self) -> None:
        """Go on."""
        super().thaw()
        self.frozen = False

    def flush(self) -> None:
        """A coordinator empties the server."""
        self.audit.mover(self, "flushes", self.keys())
        super().flush()
