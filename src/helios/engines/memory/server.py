"""A server in memory: keys, users, and the faults that a test gives it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from helios.engines.memory.connection import MemoryConnection, Request
from helios.engines.memory.keyspace import Keyspace, Stored
from helios.engines.memory.replication import Done, MemoryReplication
from helios.errors import EngineDenied, EngineError, EngineUnreachable
from helios.ports.engine import EngineInfo, UserRole


@dataclass(frozen=True, slots=True)
class _User:
    password: str | None  # None: anyone may be this user
    administers: bool


@dataclass(eq=False, slots=True)
class Listener:
    """Where a server names the keys that it changes, for one connection; but for what `writer` changes."""

    connection: MemoryConnection
    writer: MemoryConnection | None = None
    beginning: bytes = b""
    pending: set[bytes] = field(default_factory=set)
    broken: str | None = None


class MemoryServer(Keyspace):
    """One server: its keys, users, connections and change streams, and the faults that a test gives it.

    `admin` is the name and password of the administrator; without one everybody may enter as `default` and
    do everything, but for the administration of users where `acl` is off, as managed services have it.
    `delay_s` is asked for each request and each reply how long it travels; it may be replaced at any time.
    Connections keep their order. The methods that are not `async` act at once, past all connections.
    """

    def __init__(
        self,
        name: str,
        *,
        wall: Callable[[], float],
        admin: tuple[str, str] | None = None,
        delay_s: Callable[[], float] = lambda: 0.0,
        aof_fsync: str = "everysec",
        version: int = 1,
        acl: bool = True,
    ) -> None:
        super().__init__(name, wall=wall, aof_fsync=aof_fsync, version=version)
        self.admin = admin
        self.acl = acl
        self.delay_s = delay_s
        self.starts = 1
        self.unnamed = 0  # changes of which nobody was told
        self.up = True
        self._frozen = False
        self.script_calls = 0  # since its start; it runs none by itself
        self._users = self._configured_users()
        self._connections: list[MemoryConnection] = []
        self._listeners: list[Listener] = []
        self._arrived_frozen: deque[Callable[[], None]] = deque()
        self._served: MemoryConnection | None = None  # whose request is being carried out
        self._cut_off: set[str] = set()
        self._context = copy_context()  # what travels does so whatever becomes of the task that sent it
        self.replication = MemoryReplication(self)

    # Keys.

    def touched(self, key: bytes) -> None:
        """Called when a key has been changed, whoever is told of it; for whoever waits for keys."""

    def stood_down(self) -> None:
        """Called when the server leads no more; for whoever waits for something that only a leader gives."""

    def flush(self) -> None:
        """Remove every key, which ends every change stream."""
        for key in list(self._entries):
            self._write(key, None)
        for listener in self._listeners:
            listener.broken = "the server was flushed"

    def replace_libraries(self, libraries: Mapping[bytes, bytes]) -> None:
        """Have these libraries of functions and no others."""
        super().replace_libraries(libraries)
        if self.replication.leads:
            self.replication.did(lambda follower: follower.replace_libraries(libraries))

    def everything(self) -> Done:
        """What gives another server all that this one has now, and nothing else."""
        entries, libraries = dict(self._entries), self.libraries

        def become(other: MemoryServer) -> None:
            for key in [*other._entries, *entries]:
                other._write(key, entries.get(key))
            other.replace_libraries(libraries)

        return become

    def now_s(self) -> float:
        """What its clock says."""
        return self._wall()

    def info(self) -> EngineInfo:
        """What the server says of itself; `run_id` differs after each start."""
        used = sum(len(key) + len(entry.value) for key, entry in self._entries.items())
        run_id = f"{self.name}#{self.starts}"
        return EngineInfo(
            "memory",
            str(self.version),
            run_id,
            len(self.keys()),
            used,
            aof_enabled=True,
            aof_fsync=self.aof_fsync,
            script_calls=self.script_calls,
        )

    # Users and connections.

    def users(self) -> list[str]:
        """The names of the users."""
        self._administered()
        return list(self._users)

    def allow(self, user: str, password: str, role: UserRole) -> None:
        """Create or replace a user; connections that it has stay."""
        self._administered()
        self._users[user] = _User(password, administers=role in (UserRole.MOVER, UserRole.REPLICATOR))

    def _administered(self) -> None:
        if not self.acl:
            raise EngineDenied(f"{self.name} knows no ACL")

    def force_off(self, user: str) -> None:
        """Delete a user and end its connections with everything that they had not yet carried out."""
        self._users.pop(user, None)
        self.replication.end_login(user)
        for connection in [c for c in self._connections if c.user == user]:
            self.end(connection)

    def connections(self) -> list[MemoryConnection]:
        """Those that stand or have something under way, in the order in which they were opened."""
        return list(self._connections)

    def end(self, connection: MemoryConnection) -> None:
        """End one connection at the server: what it sent and was not carried out never will be."""
        connection.inbox.clear()
        if connection in self._connections:
            self._connections.remove(connection)
        self._listeners = [listener for listener in self._listeners if listener.connection is not connection]
        connection.lose("the server closed the connection")

    def abandon(self, connection: MemoryConnection, reason: str) -> None:
        """End one connection at the client's side: what is under way is still carried out."""
        connection.lose(reason)
        if not connection.inbox:
            self.end(connection)

    # Faults.

    def freeze(self) -> None:
        """Let nothing be carried out until `thaw`; what arrives waits, also when its client gives up."""
        self._frozen = True

    def thaw(self) -> None:
        """Carry out what arrived in the meantime, in order, and go on."""
        self._frozen = False
        while self._arrived_frozen and not self._frozen:
            self._arrived_frozen.popleft()()

    def cut(self, origin: str) -> None:
        """Separate the clients of a connector, or another server: connections are lost, and what was sent arrives."""
        self._cut_off.add(origin)
        for connection in [c for c in self._connections if c.origin == origin]:
            self.abandon(connection, "the network failed")
        self.replication.cut(origin)

    def heal(self, origin: str) -> None:
        """Let the clients of a connector reach the server again."""
        self._cut_off.discard(origin)

    def crash(self, *, lose_unsynced: bool = False) -> None:
        """End the server and all its connections; optionally with what was never brought to disk."""
        self.up = False
        self._frozen = False
        for connection in list(self._connections):
            self.end(connection)
        self._arrived_frozen.clear()
        self.replication.crash()
        if lose_unsynced and self.aof_fsync != "always":
            self.lose_unsynced()
        self._forget_unsynced()
        self.script_calls = 0

    def restart(self) -> None:
        """Start after a crash, with the keys on disk and the users of the configuration."""
        self.up = True
        self.starts += 1
        self._users = self._configured_users()
        self.replication.restart()

    def reachable_from(self, origin: str) -> bool:
        """Whether a new connection from there is answered."""
        return self.up and origin not in self._cut_off

    # What connections call.

    def join(self, connection: MemoryConnection, password: str | None) -> None:
        """Let a connection in. Raises EngineDenied."""
        if not self.knows(connection.user, password):
            raise EngineDenied(
                f"{connection.endpoint} denies a login to {connection.user}: wrong password or no such user"
            )
        connection.joined = True

    def knows(self, user: str, password: str | None) -> bool:
        """Whether somebody may enter as this user with this password."""
        known = self._users.get(user)
        return known is not None and known.password in (None, password)

    def accept(self, connection: MemoryConnection) -> None:
        """Know a connection that has not said who it is."""
        self._connections.append(connection)

    def listen(self, listener: Listener) -> None:
        """Name every change to `listener` from now on, until its connection ends."""
        self._expire_all()
        self._listeners.append(listener)

    def name_expired(self) -> None:
        """Remove, and name to the listeners, every key whose time has passed."""
        self._expire_all()

    def submit(self, connection: MemoryConnection, request: Request) -> None:
        """Take a request on its way; it is carried out when it arrives, if its connection still stands."""
        connection.inbox.append(request)
        self.after_delay(lambda: self.arrive(lambda: self._run(connection)))

    def arrive(self, act: Callable[[], None]) -> None:
        """Do what has arrived, when the server is not frozen."""
        if self._frozen or self._arrived_frozen:
            self._arrived_frozen.append(act)
        else:
            act()

    def _run(self, connection: MemoryConnection) -> None:
        if not connection.inbox:  # the connection was ended while this travelled
            return
        request = connection.inbox.popleft()
        user = self._users.get(connection.user)
        outcome: Any = None
        failure: EngineError | None = None
        try:
            if connection.joined and (user is None or (request.administers and not user.administers)):
                raise EngineDenied(f"{connection.endpoint} denies this to {connection.user}")
            self._served = connection
            outcome = request.run()
        except EngineError as error:
            failure = error
        finally:
            self._served = None
        if connection.lost is not None:
            self.abandon(connection, connection.lost)
        if isinstance(outcome, asyncio.Future):
            outcome.add_done_callback(partial(self._answer_late, connection, request), context=self._context)
        else:
            self.after_delay(lambda: connection.deliver(request, outcome, failure))

    def _answer_late(self, connection: MemoryConnection, request: Request, done: asyncio.Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, EngineError):
            self.after_delay(lambda: connection.deliver(request, None, error))
        else:
            self.after_delay(lambda: connection.deliver(request, done.result(), None))

    def after_delay(self, act: Callable[[], None], *, also_s: float = 0.0) -> None:
        """Have something arrive that travels to or from the server, for so much longer than other things."""
        delay_s = self.delay_s() + also_s
        loop = asyncio.get_running_loop()
        if delay_s > 0:
            loop.call_later(delay_s, act, context=self._context)
        else:
            loop.call_soon(act, context=self._context)

    def _configured_users(self) -> dict[str, _User]:
        if self.admin is None:
            return {"default": _User(None, administers=True)}
        name, password = self.admin
        return {name: _User(password, administers=True)}

    def _check_serves(self) -> None:
        if self._served is not None and not self.replication.in_sync:
            raise EngineUnreachable(f"{self._served.endpoint} is not ready: it follows nobody, or is not in sync yet")

    def _expire(self, key: bytes) -> None:
        if self.replication.leads:  # others wait for their leader's word, and give it to nobody meanwhile
            self._write(key, None)
            self._name(key, None)

    def _write(self, key: bytes, entry: Stored | None, *, named: bool = True) -> None:
        if not self.replication.leads and self._served is not None:
            raise EngineError(f"{self._served.endpoint} refused a write: it follows another server, and is read-only")
        super()._write(key, entry)
        if self.replication.leads:
            self.replication.did(lambda follower: follower._write(key, entry, named=named))
        if named:
            self._name(key, self._served)
        else:
            self.unnamed += 1
        self.touched(key)

    def _name(self, key: bytes, changed_by: MemoryConnection | None) -> None:
        for listener in self._listeners:
            if key.startswith(listener.beginning) and (changed_by is None or listener.writer is not changed_by):
                listener.pending.add(key)
