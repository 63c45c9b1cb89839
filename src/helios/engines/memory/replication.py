"""How servers in memory follow each other, as late as a test wants it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha1
from typing import TYPE_CHECKING, TypeAlias

from helios.errors import EngineError
from helios.model.ids import Address
from helios.ports.engine import Follower, Replication

if TYPE_CHECKING:
    from helios.engines.memory.server import MemoryServer

# One piece of what a leader has done, done again by a follower.
Done: TypeAlias = Callable[["MemoryServer"], None]

Login: TypeAlias = tuple[str, str | None]  # a user and its password

RECONNECT_S = 1.0


def _nothing(_server: MemoryServer) -> None:
    """What the message of a round does."""


@dataclass(eq=False, slots=True)
class Link:
    """One follower at one leader. What is on the way keeps its order each way, and arrives also after the end."""

    leader: MemoryServer
    follower: MemoryServer
    address: Address  # of the follower
    login: Login | None = None
    acknowledged: int = 0
    acknowledged_at: float = 0.0
    online: bool = False
    outward: deque[Callable[[], None]] = field(default_factory=deque)
    homeward: deque[Callable[[], None]] = field(default_factory=deque)
    due: float = 0.0  # when the last of what is on the way to the follower is due there

    def to_follower(self, act: Callable[[], None]) -> None:
        """Have something arrive at the follower."""
        self.outward.append(act)
        now = asyncio.get_running_loop().time()
        self.due = max(self.due, now + self.follower.replication.lag_s())
        self.follower.after_delay(lambda: self.follower.arrive(lambda: self._next(self.outward)), also_s=self.due - now)

    def to_leader(self, act: Callable[[], None]) -> None:
        """Have something arrive at the leader."""
        self.homeward.append(act)
        self.leader.after_delay(lambda: self.leader.arrive(lambda: self._next(self.homeward)))

    @staticmethod
    def _next(way: deque[Callable[[], None]]) -> None:
        if way:  # a crash of either end empties both ways
            way.popleft()()

    def clear(self) -> None:
        """Lose what is on the way."""
        self.outward.clear()
        self.homeward.clear()


@dataclass(eq=False, slots=True)
class _Round:
    target: int
    count: int
    done: asyncio.Future[int]


class MemoryReplication:
    """What one server is to others: the history that it writes or follows, and how far it has come in it.

    Every change counts one. `lag_s` is asked how much longer than other messages each one of the leader's takes to
    this server; it may be replaced at any time. `kept` is how many changes a leader remembers for followers that
    come back; `detached_at_start`: whether a restarted server leads only when it is told to; `made`: which server of
    that name this is.
    """

    def __init__(self, server: MemoryServer) -> None:
        self.lag_s: Callable[[], float] = lambda: 0.0
        self.kept = 1000
        self.detached_at_start = False
        self.made = 1
        self.copies = 0  # whole ones that followers were given
        self.leads = True
        self.in_sync = True
        self._server = server
        self._histories = 0
        self._history = ""  # of a leader: none before it is followed
        self._offset = 0
        self._former = ("", 0)
        self._recent: deque[Done] = deque()
        self._leader: Address | None = None
        self._login: Login | None = None  # as whom it comes to its leader; None: as nobody, whom all let in
        self._servers: Mapping[Address, MemoryServer] = {}
        self._link: Link | None = None  # to its leader
        self._links: list[Link] = []  # from its followers
        self._coming: list[Link] = []  # from those that it has not answered yet
        self._rounds: list[_Round] = []
        self._together: list[Done] | None = None  # what has been done in the transaction that runs

    def state(self) -> Replication:
        """What the server says of all this."""
        now = asyncio.get_running_loop().time()
        followers = [
            Follower(each.address, each.acknowledged, now - each.acknowledged_at, each.online) for each in self._links
        ]
        return Replication(
            self.leads,
            self._history,
            self._offset,
            *self._former,
            self._leader,
            self.in_sync,
            tuple(followers) if self.leads else (),
        )

    # As a leader.

    def did(self, done: Done) -> None:
        """The server has changed something by itself: followers are to do it, too."""
        if self._together is not None:
            self._together.append(done)
        else:
            self._did([done])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have followers do what the server does within the block at once, or nothing of it: it is one transaction."""
        if self._together is not None:
            yield
            return
        self._together = []
        try:
            yield
        finally:
            pieces, self._together = self._together, None
            self._did(pieces)

    def _did(self, pieces: list[Done]) -> None:
        """Followers do nothing before the last piece has come."""
        for number, done in enumerate(pieces, 1):
            self._offset += 1
            if not self._history:
                continue
            self._recent.append(done)
            while len(self._recent) > self.kept:
                self._recent.popleft()
            for link in self._links:
                self._send(link, pieces if number == len(pieces) else [])

    def round(self, count: int, timeout_s: float) -> asyncio.Future[int]:
        """How many followers have all that was done before, when that are `count`, or the time is up."""
        if not self.leads:
            raise EngineError(f"{self._server.name} does not lead: it can begin no round")
        return self.wait(self.say(), count, timeout_s)

    def say(self) -> int:
        """Give followers a message that changes nothing; where the server is behind it."""
        self.did(_nothing)
        return self._offset

    def wait(self, target: int, count: int, timeout_s: float) -> asyncio.Future[int]:
        """How many followers have come so far, when that are `count`, or the time is up."""
        loop = asyncio.get_running_loop()
        begun = _Round(target, count, loop.create_future())
        self._rounds.append(begun)
        end = partial(self._server.arrive, partial(self._end_round, begun))
        loop.call_later(timeout_s, end, context=copy_context())
        self._look_at_rounds()
        return begun.done

    def _look_at_rounds(self) -> None:
        for begun in [one for one in self._rounds if self._reached(one) >= one.count]:
            self._end_round(begun)

    def _reached(self, begun: _Round) -> int:
        return sum(link.online and link.acknowledged >= begun.target for link in self._links)

    def _end_round(self, begun: _Round) -> None:
        if begun in self._rounds:
            self._rounds.remove(begun)
            if not begun.done.done():
                begun.done.set_result(self._reached(begun))

    def _send(self, link: Link, pieces: list[Done]) -> None:
        link.to_follower(lambda: link.follower.replication.receive(link, pieces))

    def await_follower(self, link: Link) -> None:
        """A follower is on its way: should this server end before it hears of that, the follower learns of the end."""
        self._coming.append(link)

    def serve(self, link: Link, history: str, offset: int) -> None:
        """A follower asks for what it lacks, or all."""
        self._coming.remove(link)
        if not (self._server.up and self.leads and self._lets_in(link)):
            link.to_follower(lambda: link.follower.replication.lose(link))
            return
        if not self._history:
            self._history = self._new_history()
        self._links.append(link)
        mine, now_at = self._history, self._offset
        if self._continues(history, offset):
            link.to_follower(lambda: link.follower.replication.go_on(link, mine))
            for done in list(self._recent)[len(self._recent) - (now_at - offset) :]:
                self._send(link, [done])
            return
        self.copies += 1
        everything = self._server.everything()
        link.to_follower(lambda: link.follower.replication.begin(link, mine, now_at, everything))

    def _lets_in(self, link: Link) -> bool:
        return link.login is None or self._server.knows(*link.login)

    def end_login(self, user: str) -> None:
        """Whoever follows as this user is cut off."""
        for link in [one for one in self._links if one.login is not None and one.login[0] == user]:
            self._links.remove(link)
            link.to_follower(partial(link.follower.replication.lose, link))

    def _continues(self, history: str, offset: int) -> bool:
        if not history or not self._offset - len(self._recent) <= offset <= self._offset:
            return False
        return history == self._history or (history == self._former[0] and offset <= self._former[1])

    def acknowledge(self, link: Link, offset: int) -> None:
        """A follower has this much."""
        if link in self._links:
            link.acknowledged, link.online = offset, True
            link.acknowledged_at = asyncio.get_running_loop().time()
            self._look_at_rounds()

    def dismiss(self, link: Link) -> None:
        """A follower has gone."""
        if link in self._links:
            self._links.remove(link)

    def _dismiss_all(self) -> None:
        for link in self._links:
            link.to_follower(partial(link.follower.replication.lose, link))
        self._links.clear()

    def promote(self) -> Replication:
        """Lead, under a new history."""
        if not self.leads:
            self._leave()
            self._leader = None
            self._former = (self._history, self._offset) if self._history else ("", 0)
            self.leads = self.in_sync = True
            self._history = ""
            self._dismiss_all()  # they are to know of the new history
        if not self._history:
            self._history = self._new_history()
        return self.state()

    def _new_history(self) -> str:
        self._histories += 1
        return sha1(f"{self._server.name}~{self.made}~{self._histories}".encode(), usedforsecurity=False).hexdigest()

    # As a follower.

    def follow(self, leader: Address, servers: Mapping[Address, MemoryServer], login: Login | None = None) -> None:
        """Follow the server at that address, as soon as it can be reached and lets it in."""
        self._login = login
        if self._leader != leader:
            self.detach()
            self._leader, self._servers = leader, servers
            self._connect()

    def forget_login(self) -> None:
        """Have only a password that is nobody's."""
        self._login = "", None

    def detach(self) -> Replication:
        """Follow nobody, and take no writes."""
        self._leave()
        self._leader = None
        self.leads = self.in_sync = False
        for begun in self._rounds:
            if not begun.done.done():
                begun.done.set_exception(EngineError(f"{self._server.name} leads no more: the round ended with that"))
        self._rounds.clear()
        self._server.stood_down()
        return self.state()

    def _leave(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            link.to_leader(lambda: link.leader.replication.dismiss(link))

    def _connect(self) -> None:
        if self._leader is None or self._link is not None or not self._server.up:
            return
        leader = self._servers.get(self._leader)
        if leader is None or not self._reaches(leader):
            self._server.after_delay(lambda: self._server.arrive(self._connect), also_s=RECONNECT_S)
            return
        address = next(address for address, server in self._servers.items() if server is self._server)
        link = self._link = Link(leader, self._server, address, self._login)
        history, offset = self._history, self._offset
        leader.replication.await_follower(link)
        link.to_leader(lambda: leader.replication.serve(link, history, offset))

    def _reaches(self, leader: MemoryServer) -> bool:
        return leader.reachable_from(self._server.name) and self._server.reachable_from(leader.name)

    def go_on(self, link: Link, history: str) -> None:
        """The leader gives what is missing; under its history, from now on."""
        if link is self._link:
            if history != self._history:
                self._former = (self._history, self._offset)
                self._dismiss_all()
            self._history = history
            self.in_sync = True
            self._tell(link)

    def begin(self, link: Link, history: str, offset: int, everything: Done) -> None:
        """The leader gives everything that it had at that point."""
        if link is self._link:
            everything(self._server)
            self._history, self._offset, self._former = history, offset, ("", 0)
            self._recent.clear()
            self._dismiss_all()
            self.in_sync = True
            self._tell(link)

    def receive(self, link: Link, pieces: list[Done]) -> None:
        """Do what the leader has done."""
        if link is self._link:
            for done in pieces:
                done(self._server)
                self.did(done)
            self._tell(link)

    def _tell(self, link: Link) -> None:
        offset = self._offset
        link.to_leader(lambda: link.leader.replication.acknowledge(link, offset))

    def lose(self, link: Link) -> None:
        """The link to the leader has broken: try again."""
        if link is self._link:
            self._link = None
            self.in_sync = False
            self._server.after_delay(lambda: self._server.arrive(self._connect), also_s=RECONNECT_S)

    # Faults.

    def cut(self, other: str) -> None:
        """The network between this server and the one of that name has failed; what was on the way arrives."""
        for link in [*self._links, *([self._link] if self._link else [])]:
            if other in (link.leader.name, link.follower.name):
                link.follower.replication.lose(link)
                link.leader.replication.dismiss(link)

    def crash(self) -> None:
        """The server has ended: nobody follows it, it follows nobody, and its position is gone with it."""
        link, self._link = self._link, None
        if link is not None:
            link.clear()
            link.leader.replication.dismiss(link)
        for link in (*self._links, *self._coming):
            link.clear()
            link.follower.replication.lose(link)
        self._links.clear()
        self._coming.clear()
        self._rounds.clear()

    def restart(self) -> None:
        """The server has started: without a history, and following nobody."""
        self.leads = self.in_sync = not self.detached_at_start
        self._leader = self._login = None
        self._history, self._offset, self._former = "", 0, ("", 0)
        self._recent.clear()
