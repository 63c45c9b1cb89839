"""Subscriptions of a router's clients: one connection to each shard's leader serves them all.

Everything is subscribed at every shard, and each message is published at one: at the owner of a key that is called as
its channel, unless a script or a transaction publishes it where it runs. So a channel that moves finds its
subscribers there already, and nothing comes twice.

A pattern is subscribed as soon as every shard that answers has confirmed it: what the others publish comes when they
do, as it does for earlier subscriptions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import islice
from typing import TypeAlias

from helios.model.topology import Member, Topology
from helios.placement.routing import Routes
from helios.ports.engine import UserRole
from helios.resp.encoding import error_reply
from helios.router._fast_path import Lease
from helios.router.frontend.caller import IN_SUBSCRIPTION, Waiter
from helios.router.frontend.connection import ClientConnection
from helios.router.options import RouterOptions
from helios.router.pubsub.link import SubscriberLink
from helios.router.pubsub.ordering import Handover, InOrder
from helios.router.pubsub.subscriptions import AT_ONCE, Kind, Subscriptions, Topic
from helios.router.upstream.connection import Credentials, Identities
from helios.router.upstream.leaders import why_left

_MAX_WAITING_BYTES = 64 * 1024 * 1024
Mark: TypeAlias = tuple[SubscriberLink, int]


class _Joining:
    """A SUBSCRIBE that is answered when the servers that matter have confirmed it."""

    def __init__(self, client: ClientConnection, topics: list[Topic], waiter: Waiter, confirmation: bytes) -> None:
        self.client = client
        self.topics = topics  # those that the command has added, to be taken back if it fails
        self.waiter = waiter
        self.confirmation = confirmation
        self.missing: set[tuple[str, Topic]] = set()


class Hub:
    """Keeps what clients want subscribed, and hands each message to those who want it."""

    def __init__(self, host: Identities, options: RouterOptions) -> None:
        self.topics: Subscriptions[ClientConnection] = Subscriptions()
        self._host = host
        self._options = options
        self._topology = Topology(epoch=0)
        self._routes: Routes | None = None
        self._links: dict[str, SubscriberLink] = {}
        self._joining: dict[tuple[str, Topic], list[_Joining]] = {}
        self._order: InOrder[tuple[Topic, bytes]] = InOrder(_MAX_WAITING_BYTES)

    # --- for the router ---

    def apply(self, topology: Topology, routes: Routes) -> list[Mark]:
        """Use this topology; gives what must be confirmed before its epoch is acknowledged."""
        self._topology, self._routes = topology, routes
        begun = self._order.apply(routes)
        for handover in begun:
            link = self._links.get(handover.source)
            if link is None:
                self._order.end(handover)
            else:
                link.read_to_here(partial(self._read_to_end, handover))
        self._follow_leaders()
        self._deliver(self._order.released())
        if not self.topics:
            return []
        self._connect()
        links = [self._links[shard] for shard in sorted({fence.target for fence in topology.fences if not fence.whole})]
        return [(link, link.mark) for link in links if not link.confirmed(link.mark)]

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts from now on."""
        self._options = options
        for link in self._links.values():
            link.configure(options)

    def close(self, reason: str) -> None:
        """End every connection, as the session ends; what clients want is subscribed again in the next one."""
        links, self._links = self._links, {}
        for link in links.values():
            link.close(reason)
            self.down(link)

    def forget(self, client: ClientConnection) -> None:
        """A client has gone."""
        self.leave(client, list(islice(self.topics.of(client), AT_ONCE)))
        if self.topics.of(client):
            asyncio.get_running_loop().call_soon(self.forget, client)

    # --- for clients ---

    def join(self, client: ClientConnection, topics: Sequence[Topic], confirmation: bytes, waiter: Waiter) -> None:
        """Subscribe a client; confirmed when no message to come can be missed, or an error and no change."""
        added = [topic for topic in dict.fromkeys(topics) if topic not in self.topics.of(client)]
        fresh = [topic for topic in added if self.topics.add(client, topic)]
        self.guard(client)
        self._connect()
        for link in self._links.values():
            link.subscribe(fresh)
        joining = _Joining(client, added, waiter, confirmation)
        for topic in topics:
            for shard in self._decisive(topic):
                link = self._links[shard]
                if link.away:
                    self._fail(joining, link)
                    return
                if not link.has(topic):
                    joining.missing.add((shard, topic))
        for place in joining.missing:
            self._joining.setdefault(place, []).append(joining)
        if not joining.missing:
            waiter.fill(confirmation)

    def leave(self, client: ClientConnection, topics: Iterable[Topic]) -> None:
        """End subscriptions of a client; those that it does not have do not matter."""
        over = [topic for topic in topics if self.topics.remove(client, topic)]
        if over:
            for shard, link in self._links.items():
                link.unsubscribe(over)
                for topic in over:
                    self._need_not_wait((shard, topic))  # its client has gone meanwhile
        self.guard(client)

    def guard(self, client: ClientConnection) -> None:
        """See to it that a subscribed client sends what it may; with RESP2 that is little."""
        if client.protocol == 2 and self.topics.of(client):
            client.modes |= IN_SUBSCRIPTION
        else:
            client.modes &= ~IN_SUBSCRIPTION

    def _decisive(self, topic: Topic) -> set[str]:
        """The shards without whose confirmation a message could be missed."""
        kind, name = topic
        routes = self._routes
        assert routes is not None
        if kind is Kind.PATTERN:
            away = {shard for shard, link in self._links.items() if link.away}
            return self._links.keys() - away or away
        return {routes.owner(name), *(routes.pair(name) or ())}

    def _fail(self, joining: _Joining, link: SubscriberLink) -> None:
        for place in joining.missing:
            others = [other for other in self._joining.pop(place, []) if other is not joining]
            if others:
                self._joining[place] = others
        joining.missing = set()
        self.leave(joining.client, joining.topics)
        joining.waiter.fill(
            error_reply(
                f"CLUSTERDOWN {link.shard} does not answer at {link.member.address} ({link.last_fault}); "
                "nothing was subscribed"
            )
        )

    # --- how many are reached ---

    def reached(self, shard: str, channel: Topic) -> tuple[int, int]:
        """Of a message that the shard's server publishes: how many receivers it sees here, and how many clients get."""
        there = [topic for topic in self.topics.reached_by(channel) if self.subscribed(shard, topic)]
        return len(there), sum(len(self.topics.audience(topic)) for topic in there)

    def subscribed(self, shard: str, topic: Topic) -> bool:
        """Whether this router is subscribed to a topic at the shard's server."""
        link = self._links.get(shard)
        return link is not None and topic in self.topics and link.has(topic)

    # --- for the connections ---

    @property
    def lease(self) -> Lease:
        """The router's."""
        return self._host.lease

    async def credentials(self, member: Member, role: UserRole) -> Credentials | None:
        """The session's user at the member."""
        return await self._host.credentials(member, role)

    def forget_credentials(self, member: Member) -> None:
        """The member does not know the session's user."""
        self._host.forget_credentials(member)

    def socket(self, member: Member) -> str | None:
        """Where the member listens on this very host."""
        return self._host.socket(member)

    def wanted(self) -> Collection[Topic]:
        """Everything that somebody is subscribed to."""
        return self.topics.wanted()

    def established(self, link: SubscriberLink, topic: Topic) -> None:
        """A server has confirmed a subscription."""
        self._need_not_wait((link.shard, topic))

    def down(self, link: SubscriberLink) -> None:
        """A server cannot be reached: who waits for it alone is told so; what had been subscribed goes on elsewhere."""
        others = any(not other.away for other in self._links.values())
        for place in [place for place in self._joining if place[0] == link.shard]:
            _, (kind, _) = place
            if kind is Kind.PATTERN and others:
                self._need_not_wait(place)
                continue
            for joining in self._joining.get(place, [])[:]:
                self._fail(joining, link)

    def _need_not_wait(self, place: tuple[str, Topic]) -> None:
        for joining in self._joining.pop(place, []):
            joining.missing.discard(place)
            if not joining.missing:
                joining.waiter.fill(joining.confirmation)

    def message(self, shard: str, kind: Kind, name: bytes, channel: bytes, frame: bytes) -> None:
        """A message has come for what was subscribed by `name`."""
        item = (kind, name), frame
        if not self._order.waits(shard, channel, item, len(frame)):
            self._deliver((item,))

    # --- within ---

    def _connect(self) -> None:
        for shard in self._topology.shards:
            if shard.id not in self._links:
                self._links[shard.id] = SubscriberLink(shard.id, shard.leading, self, self._options)

    def _follow_leaders(self) -> None:
        """Let go of the connections to servers that lead their shard no longer."""
        leaders = {shard.id: shard.leading for shard in self._topology.shards}
        for shard, link in list(self._links.items()):
            if reason := why_left(link.member, leaders.get(shard)):
                del self._links[shard]
                if shard in leaders:
                    # Who waits for a confirmation gets that of the current leader.
                    link.close(reason)
                else:
                    # It is read to the end: what it had to say was published before it left.
                    link.retire(reason)
                    self.down(link)

    def _read_to_end(self, handover: Handover) -> None:
        self._order.end(handover)
        self._deliver(self._order.released())

    def _deliver(self, items: Iterable[tuple[Topic, bytes]]) -> None:
        for topic, frame in items:
            plain = b""
            for client in list(self.topics.audience(topic)):
                if client.protocol == 2:
                    # RESP2 knows no pushes: there the same is an array.
                    plain = plain or b"*" + frame[1:]
                    client.push(plain)
                else:
                    client.push(frame)
