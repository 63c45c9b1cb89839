"""Replicas that clients let answer what they read: which of them may be asked now, and what becomes of their replies.

A reply is told while the round that has proved its replica fresh is younger than `max_staleness`. What comes later, or
not at all, or is an error, is asked again, of whoever leads then: a read changes nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Protocol

from helios.control.rounds import Quorum, Standing
from helios.control.staleness import Freshness, by_distance, interval_s
from helios.model.topology import Member, Shard, Topology
from helios.ports.clock import Clock
from helios.router._fast_path import CommandStats
from helios.router.frontend.caller import CLOSED, Slot
from helios.router.frontend.stale_reads import StaleReads
from helios.router.options import RouterOptions
from helios.router.upstream.connection import Wire
from helios.router.upstream.host import ConnectionHost
from helios.router.upstream.leaders import history_of
from helios.router.upstream.link import ServerConnection
from helios.router.upstream.rounds import RoundConnection

_KEPT_S = 10.0  # for which rounds go on after the last read
_LONGEST_WAIT_MS = 100.0  # of a round, for those that acknowledge nothing


class ReplicaHost(ConnectionHost, Protocol):
    """What reads from replicas need of the router around them."""

    clock: Clock


class _Read:
    """Takes a replica's reply to one read, for which `again` is called where it is not to be told."""

    __slots__ = ("_again", "_link", "_slot", "proved")

    def __init__(self, slot: Slot, again: Callable[[Slot], None], link: ReplicaConnection) -> None:
        self._slot = slot
        self._again = again
        self._link = link
        self.proved = link.proved

    def fill(self, reply: bytes) -> None:
        """Take the reply, unless the leader has been asked meanwhile."""
        if self not in self._link.reads:
            return
        del self._link.reads[self]
        if reply[:1] == b"-" or not self._link.is_fresh(self.proved):
            self.again()
        else:
            self._link.counts_of.served += 1
            self._slot.fill(reply)

    def again(self) -> None:
        """Ask whoever leads now, unless nobody waits any more."""
        self._link.counts_of.by_leader += 1
        if not self._slot.caller.stops & CLOSED:
            self._again(self._slot)


class ReadCounts:
    """How many reads of clients that let replicas answer them were answered by one, and how many were not."""

    def __init__(self) -> None:
        self.served = 0
        self.by_leader = 0


class ReplicaConnection(ServerConnection):
    """To a replica. What it has answered before it was lost proves nothing of the server that answers afterwards."""

    def __init__(
        self, shard: str, member: Member, variant: int, host: ReplicaHost, options: RouterOptions, counts: ReadCounts
    ) -> None:
        super().__init__(shard, member, variant, host, options)
        self.counts_of = counts
        self.reads: dict[_Read, None] = {}  # those that wait, the oldest first
        self.proved = -math.inf  # the moment of which it is known to have everything
        self.silent = False  # it has answered nothing of late
        self._clock = host.clock
        self._opened = math.inf
        self._waited = False
        self._seen = 0

    async def _open(self) -> Wire:
        wire = await super()._open()
        self._opened = self._clock.boottime()
        return wire

    def may_be_asked(self, proved: float | None, since: float) -> bool:
        """Whether it has everything of a moment that is late enough; connects where it has to."""
        self.connect()
        if proved is None or not self.ready or self.silent or proved < max(self._opened, since):
            return False
        self.proved = proved
        return self.is_fresh(proved)

    def is_fresh(self, proved: float) -> bool:
        """Whether what is of that moment may be told now."""
        return self._clock.boottime() - proved <= self._options.max_staleness_s

    def ask(self, raw: bytes, slot: Slot, again: Callable[[Slot], None], kind: CommandStats) -> None:
        """Send a read."""
        read = _Read(slot, again, self)
        self.reads[read] = None
        self.send_as(raw, read, kind)

    def watch(self) -> None:
        """To be called now and then: gives it up for the time being where nothing has come since the last time."""
        waits = self.answered < self.issued
        if self.answered != self._seen or not waits:
            self.silent = False
        elif self._waited:
            self.silent = True
            self.recall()
        self._waited, self._seen = waits, self.answered

    def recall(self) -> None:
        """Ask for everything again that it has not answered: it may own the keys no longer, say."""
        reads, self.reads = self.reads, {}
        for read in reads:
            read.again()


class _Followers:
    """Those of one shard, under one leader. Rounds go on while somebody reads."""

    def __init__(self, shard: Shard, host: ReplicaHost, options: RouterOptions, counts: ReadCounts) -> None:
        self.shard = shard
        self._host = host
        self._options = options
        self._counts = counts
        self._clock = host.clock
        self._loop = asyncio.get_running_loop()
        self._quorum = Quorum.of(shard)
        self._freshness = Freshness(host.clock.boottime())
        self._groups: tuple[tuple[Member, ...], ...] = ()
        self.links: dict[tuple[str, int], ReplicaConnection] = {}
        self._connection = RoundConnection(shard.id, shard.leading, 2, host, options)
        self._connection.history = history_of(shard)
        self._under_way = False
        self._timer: asyncio.TimerHandle | None = None
        self._asked = -math.inf

    def apply(self, topology: Topology) -> None:
        """Keys, or routes to them, may have changed, though the shard's servers have not."""
        self._groups = by_distance(topology, self.shard, self._options.node)
        for link in self.links.values():
            link.recall()
        self._freshness.begin_anew(self._clock.boottime())

    def configure(self, options: RouterOptions) -> None:
        """Use other times from now on."""
        self._options = options
        for link in (self._connection, *self.links.values()):
            link.configure(options)

    def choose(self, variant: int, reader: StaleReads) -> ReplicaConnection | None:
        """Whom to ask; None where nobody is known to have what the reader is to see."""
        self._asked = self._clock.boottime()
        if self._timer is None:
            self._tick()
        for group in self._groups:
            links = [self._link(member, variant) for member in group]
            fresh = [
                link for link in links if link.may_be_asked(self._freshness.proved(link.member.address), reader.since)
            ]
            if fresh:
                return fresh[reader.turn % len(fresh)]
        return None

    def _link(self, member: Member, variant: int) -> ReplicaConnection:
        link = self.links.get((member.id, variant))
        if link is None:
            link = ReplicaConnection(self.shard.id, member, variant, self._host, self._options, self._counts)
            self.links[member.id, variant] = link
        return link

    def _tick(self) -> None:
        self._timer = None
        for link in self.links.values():
            link.watch()
        if self._clock.boottime() - self._asked > _KEPT_S:
            return
        interval = interval_s(self._options.max_staleness_s)
        if not self._under_way:
            self._under_way = True
            began = self._clock.boottime()
            wait_ms = max(1, int(min(interval * 500, _LONGEST_WAIT_MS)))
            followers = len(self.shard.members) - 1
            self._connection.ask(followers, lambda standing: self._ended(began, standing), wait_ms)
        self._timer = self._loop.call_later(interval, self._tick)

    def _ended(self, began: float, standing: Standing | None) -> None:
        self._under_way = False
        if standing is not None:
            self._freshness.take(began, standing, self._quorum)

    def close(self, reason: str) -> None:
        """End all connections; what waits for them is asked again."""
        if self._timer is not None:
            self._timer.cancel()
        for link in self.links.values():
            link.recall()
            link.close(reason)
        self._connection.close(reason)


class Replicas:
    """Those of all shards. Nothing is connected, and no round asked for, before a client wants them to be read from."""

    def __init__(self, host: ReplicaHost, options: RouterOptions) -> None:
        self.counts = ReadCounts()
        self._host = host
        self._options = options
        self._topology = Topology(epoch=0)
        self._followers: dict[str, _Followers] = {}

    def apply(self, topology: Topology, shards: Mapping[str, Shard]) -> None:
        """These are the shards now. Whatever has been proved until now is not believed any more."""
        self._topology = topology
        for shard_id, followers in list(self._followers.items()):
            if shards.get(shard_id) == followers.shard:
                followers.apply(topology)
            else:
                self._followers.pop(shard_id).close("the shard has other members")

    def link(self, shard_id: str, variant: int, reader: StaleReads) -> ReplicaConnection | None:
        """The link to the replica that is to be asked; None where it has to be the leader."""
        followers = self._followers.get(shard_id)
        if followers is None:
            shard = self._topology.shard(shard_id)
            if shard is None or not history_of(shard):
                return None
            followers = self._followers[shard_id] = _Followers(shard, self._host, self._options, self.counts)
            followers.apply(self._topology)
        return followers.choose(variant, reader)

    def of(self, shard_id: str) -> list[ReplicaConnection]:
        """The links to a shard's replicas that there are."""
        followers = self._followers.get(shard_id)
        return [] if followers is None else list(followers.links.values())

    def untold(self) -> list[tuple[ServerConnection, int]]:
        """The links of which somebody waits, and what has been issued on each."""
        links = (link for followers in self._followers.values() for link in followers.links.values())
        return [(link, link.issued) for link in links if link.reads]

    def configure(self, options: RouterOptions) -> None:
        """Use other times from now on."""
        self._options = options
        for followers in self._followers.values():
            followers.configure(options)

    def close(self, reason: str) -> None:
        """End every connection."""
        for followers in self._followers.values():
            followers.close(reason)
        self._followers.clear()
