"""CLIENT TRACKING: clients that cache what they read are told when it changes.

Each shard's leader names every key that changes on one connection to this router, for as long as any client tracks.
Who has read what is remembered here, from when the read is sent: so what a change makes stale is told behind its reply.

Where a change may go unheard, clients are told that anything may have changed: when a connection to a server begins or
is lost, and when keys have another owner. A key of a shard that is not heard is told of at once, behind its reply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.resp.encoding import NULL, array, bulk, integer
from helios.router.frontend.caller import CLOSED, IN_SUBSCRIPTION
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.tracking import Tracking, Wish
from helios.router.options import RouterOptions
from helios.router.tracking.interests import Interests
from helios.router.tracking.link import InvalidationLink
from helios.router.tracking.prefixes import Prefixes
from helios.router.upstream.connection import Identities

_MAX_BYTES = 64 * 1024 * 1024  # what is remembered of reads
_MAX_KEYS = 2048  # of one command; one with more is followed by the word that anything may have changed
_INVALIDATE = {
    2: b"*3\r\n" + bulk(b"message") + bulk(b"__redis__:invalidate"),
    3: b">2\r\n" + bulk(b"invalidate"),
}


def _message(keys: Sequence[bytes] | None) -> dict[int, bytes]:
    """What clients of each protocol are told: that these have changed, or that anything may have."""
    if keys is None:
        return {protocol: head + NULL[protocol] for protocol, head in _INVALIDATE.items()}
    names = array([bulk(key) for key in keys])
    return {protocol: head + names for protocol, head in _INVALIDATE.items()}


_ANYTHING = _message(None)


class Tracker:
    """Remembers who caches what, and tells of changes."""

    def __init__(
        self, identities: Identities, options: RouterOptions, find: Callable[[int], ClientConnection | None]
    ) -> None:
        """`find` gives a client of the router by its id."""
        self.interests = Interests(_MAX_BYTES)
        self.prefixes = Prefixes()
        self._identities = identities
        self._options = options
        self._find = find
        self._topology = Topology(epoch=0)
        self._routes: Routes | None = None
        self._clients: dict[int, ClientConnection] = {}
        self._links: dict[str, InvalidationLink] = {}

    def __len__(self) -> int:
        return len(self._clients)

    # --- for the router ---

    def apply(self, topology: Topology, routes: Routes) -> None:
        """Use this topology."""
        before = self._topology
        self._topology, self._routes = topology, routes
        leaders = {shard.id: (shard.leading.id, shard.leading.address) for shard in topology.shards}
        for shard, link in list(self._links.items()):
            if leaders.get(shard) != (link.member.id, link.member.address):
                del self._links[shard]
                link.close("the shard has another leader" if shard in leaders else "the shard has left")
        if not self._clients:
            return
        self._connect()
        if set(before.fences).difference(topology.fences):
            # Keys may have another owner: what the one of before said last may not have been read yet.
            self.anything_changed()

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts from now on."""
        self._options = options
        for link in self._links.values():
            link.configure(options)

    def close(self, reason: str) -> None:
        """Hear nothing more, as the session ends; the next one hears anew."""
        links, self._links = self._links, {}
        for link in links.values():
            link.close(reason)

    def forget(self, client: ClientConnection) -> None:
        """A client has gone, or caches nothing any more."""
        tracking, client.tracking = client.tracking, None
        if tracking is None:
            return
        del self._clients[client.id]
        self.prefixes.remove(client.id, tracking.wish.prefixes)
        client.become(client.identity)
        if not self._clients:
            self.interests.clear()
            self.close("no client tracks any more")

    # --- for clients ---

    async def follow(self, client: ClientConnection, wish: Wish) -> None:
        """Tell a client of changes from now on; returns when every server that can be reached is heard."""
        while undecided := self._undecided():
            for link in undecided:
                await link.decided.wait()
        if client.stops & CLOSED:
            if not self._clients:
                self.close("no client tracks")
            return
        if client.tracking is None:
            client.tracking = Tracking(wish)
            client.become(client.identity)  # each of its commands is looked at from now on
            self._clients[client.id] = client
        else:
            client.tracking.wish, client.tracking.broken = wish, False
        self.prefixes.add(client.id, wish.prefixes)

    def _undecided(self) -> list[InvalidationLink]:
        """The connections, one to each shard, of which it is not known yet whether they hear anything."""
        self._connect()
        return [link for link in self._links.values() if not link.decided.is_set()]

    def read(self, client: ClientConnection, keys: Sequence[bytes]) -> None:
        """A client has just sent a command that reads these."""
        tracking, routes = client.tracking, self._routes
        if tracking is None or routes is None or routes.empty:
            return
        if len(keys) > _MAX_KEYS:
            self._tell_anything(client, tracking)
            return
        for key in keys:
            link = self._links.get(routes.owner(key))
            if link is None or not link.hears:
                self._tell(client, _message([key]))
            elif tracking.remembers:
                tracking.empty = False
                self.interests.note(key, client.id)
        for key, ids in self.interests.surplus():
            self._tell_each(ids, key)

    def wrote(self, client: ClientConnection, keys: Sequence[bytes]) -> None:
        """A client has just sent a command that may write these: it is told behind the reply, as by a server."""
        tracking = client.tracking
        if tracking is None or tracking.wish.bcast or tracking.wish.noloop:
            return
        if len(keys) > _MAX_KEYS:
            self._tell_anything(client, tracking)
            return
        for key in keys:
            if self.interests.take_from(key, client.id):
                self._tell(client, _message([key]))

    def own_write(self, client: ClientConnection, shard: str, keys: Sequence[bytes], *, changed: bool) -> None:
        """A command that `Tracking.own` knows as sent is answered; whether that proves that it changed its keys."""
        link = self._links.get(shard)
        settle = partial(self._settle, client, keys, changed=changed)
        if link is not None and changed:
            link.read_to_here(settle)  # the server has named the keys before it answers this
        else:
            settle()

    def _settle(self, client: ClientConnection, keys: Sequence[bytes], *, changed: bool) -> None:
        tracking = client.tracking
        if tracking is None:
            return
        for key in keys:
            if tracking.own.settled(key, changed=changed):
                self.interests.take_from(key, client.id)
                self._tell(client, _message([key]))

    def unblocked(self, client: ClientConnection, keys: Sequence[bytes], *, writes: bool) -> None:
        """A client's command that waited has been answered: what it has read may have changed again before that."""
        if writes:
            self.wrote(client, keys)
        elif client.tracking is not None and client.tracking.remembers:
            for key in keys:
                self._tell(client, _message([key]))

    # --- for the connections ---

    def changed(self, shard: str, keys: Sequence[bytes]) -> None:
        """A server has changed these keys. Copies that it does not own concern nobody."""
        routes = self._routes
        if routes is None or routes.empty:
            return
        moving = self._topology.transition is not None or bool(self._topology.unclean)
        for key in keys:
            if key in self.interests and not (moving and routes.owner(key) != shard):
                self._tell_each(self.interests.take(key), key)
        if not self.prefixes:
            return
        if moving:
            keys = [key for key in keys if routes.owner(key) == shard]
        for prefix, found in self.prefixes.sort(keys).items():
            message = _message(found)
            for client in self._known(self.prefixes.clients(prefix)):
                rights, tracking = client.rights, client.tracking
                if tracking is None:
                    continue
                if not tracking.own and (rights is None or rights.sees_all):
                    self._tell(client, message)
                elif seen := [key for key in found if rights is None or rights.sees(key)]:
                    foreign = [key for key in seen if not tracking.own.heard(key)]
                    if foreign:
                        self._tell(client, _message(foreign))

    def anything_changed(self) -> None:
        """A server may have changed any key."""
        self.interests.clear()
        for client in self._known(self._clients):
            if client.tracking is not None:
                self._tell_anything(client, client.tracking)

    # --- within ---

    def _connect(self) -> None:
        for shard in self._topology.shards:
            if shard.id not in self._links:
                self._links[shard.id] = InvalidationLink(shard.id, shard.leading, self, self._identities, self._options)

    def _known(self, ids: Collection[int]) -> list[ClientConnection]:
        """Those of them that still track."""
        return [self._clients[each] for each in ids if each in self._clients]

    def _tell_each(self, ids: Collection[int], key: bytes) -> None:
        if not ids:
            return
        message = _message([key])
        for client in self._known(ids):
            if client.tracking is None or client.tracking.wish.bcast:
                continue
            if client.rights is not None and not client.rights.sees(key):
                continue  # it has read the key as another user
            if client.tracking.own.heard(key):
                self.interests.note(key, client.id)
            else:
                self._tell(client, message)

    def _tell_anything(self, client: ClientConnection, tracking: Tracking) -> None:
        """Once is enough for who has read nothing since; but what is read by BCAST clients is not known."""
        if not tracking.empty or tracking.wish.bcast:
            tracking.empty = True
            self._tell(client, _ANYTHING)

    def _tell(self, client: ClientConnection, message: dict[int, bytes]) -> None:
        """Tell a client, or whom it has named in its place; behind the reply to everything that it has sent."""
        tracking = client.tracking
        assert tracking is not None, "only those that track are told"
        told = client
        if tracking.wish.redirect:
            found = self._find(tracking.wish.redirect)
            if found is None:
                tracking.broken = True
                if client.protocol == 3:
                    gone = b">2\r\n" + bulk(b"tracking-redir-broken") + integer(tracking.wish.redirect)
                    client.push_in_turn(gone)
                return
            told = found
        if told.protocol == 3 or told.modes & IN_SUBSCRIPTION:
            told.push_in_turn(message[told.protocol])
