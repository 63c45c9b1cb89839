"""The connections of a router to all shards' leaders, for the time of one session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from helios.model.fences import Fence
from helios.model.topology import Shard, Topology
from helios.ports.engine import UserRole
from helios.resp.wire import encode_command
from helios.router._fast_path import OWN, CommandStats
from helios.router.frontend.caller import NO_TOUCH, FutureReply
from helios.router.options import RouterOptions
from helios.router.stats.counters import Retired
from helios.router.upstream.dedicated import DedicatedConnection, DedicatedConnections, Mark
from helios.router.upstream.leaders import LeftBehind, why_ended
from helios.router.upstream.link import ServerConnection
from helios.router.upstream.marks import Told
from helios.router.upstream.replicas import ReplicaHost, Replicas
from helios.router.upstream.rounds import AllRounds

_VARIANTS = (2, 3, NO_TOUCH, NO_TOUCH + 1)  # see `Caller.variant`
__all__ = ["Mark", "Pool"]


class FlushConnection(ServerConnection):
    """What a client's FLUSHALL goes through: what else clients send, scripts above all, empties no server."""

    role = UserRole.FLUSHER


class Pool:
    """Links by variant (see `Caller.variant`) and shard, opened when first needed.

    `links[variant]` stays the same dict forever.
    """

    def __init__(self, host: ReplicaHost, options: RouterOptions) -> None:
        self.links: dict[int, dict[str, ServerConnection]] = {variant: {} for variant in _VARIANTS}
        self._heavy_links: dict[int, dict[str, ServerConnection]] = {variant: {} for variant in _VARIANTS}
        self._spare_links: dict[int, dict[str, ServerConnection]] = {variant: {} for variant in _VARIANTS}
        self._flush_links: dict[str, ServerConnection] = {}
        self._rounds = AllRounds(host, options)
        self.dedicated = DedicatedConnections(host, options, lambda shard: self.link(shard, 2), self._rounds.tie)
        self.replicas = Replicas(host, options)
        self.retired = Retired()
        self._left = LeftBehind()
        self._host = host
        self._options = options
        self._topology = Topology(epoch=0)

    def apply(self, topology: Topology) -> None:
        """Let go of the links to servers that lead their shard no longer."""
        before, self._topology = self._topology, topology
        shards = {shard.id: shard for shard in topology.shards}
        # What a phase of a move leaves as it was is the same object, and most of a large cluster is.
        altered = [shard for shard in before.shards if shards.get(shard.id) is not shard]
        ended = {shard.id: why for shard in altered if (why := why_ended(shard, shards.get(shard.id)))}
        for links in self._all():
            for shard in ended.keys() & links.keys():
                link = links.pop(shard)
                self._left.note(link)
                link.close(ended[shard])
                self.retired.add(link)
        for shard in ended:
            for link in self.dedicated.of(shard):
                self._left.note(link)
        self.dedicated.end(ended)
        self._rounds.apply(shards, ended)
        self.replicas.apply(topology, shards)
        self._tie({shard.id: shards[shard.id] for shard in altered if shard.id in shards})
        for shard_id, role, orphaned in self._left.led_again(topology):
            link = self.flush_link(shard_id) if role is UserRole.FLUSHER else self.link(shard_id, 2)
            link.take_over(orphaned)

    def _tie(self, shards: Mapping[str, Shard]) -> None:
        """Have all links to these shards know what their members have to agree on."""
        for links in self._all():
            for shard in shards.keys() & links.keys():
                self._rounds.tie(shards[shard], links[shard])
        self.dedicated.tie(shards)

    def link(self, shard_id: str, variant: int) -> ServerConnection:
        """The link to the leader of a shard of the present topology."""
        return self._opened(self.links[variant], shard_id, variant)

    def heavy_link(self, shard_id: str, variant: int) -> ServerConnection:
        """Another one beside it, for commands behind which the others should not wait."""
        return self._opened(self._heavy_links[variant], shard_id, variant)

    def flush_link(self, shard_id: str) -> ServerConnection:
        """The one that may empty the shard's server. What it is sent is not ordered with what the others are."""
        return self._opened(self._flush_links, shard_id, 2, FlushConnection)

    def spare_link(self, shard_id: str, variant: int) -> ServerConnection:
        """What takes the place of `link` when that has a big reply on it."""
        return self._opened(self._spare_links[variant], shard_id, variant)

    def reroute(self, link: ServerConnection) -> bool:
        """Where everybody's link has a big reply on it, have the spare one in its place; whether that has been done.

        What a client has under way on the one must be answered before it sends anything over the other. Reads that wait
        behind the big reply are sent over the other once more, unless a fence waits for what has been sent till now.
        """
        shared, spares = self.links[link.variant], self._spare_links[link.variant]
        if shared.get(link.shard) is not link:
            return False
        spare = self.spare_link(link.shard, link.variant)
        spare.connect()
        if not spare.ready or spare.answered < spare.issued:
            return False
        shared[link.shard], spares[link.shard] = spare, link
        if not self._topology.fences:
            link.read_again(spare)
        return True

    def _opened(
        self,
        links: dict[str, ServerConnection],
        shard_id: str,
        variant: int,
        kind: type[ServerConnection] = ServerConnection,
    ) -> ServerConnection:
        link = links.get(shard_id)
        if link is None:
            shard = self._topology.shard(shard_id)
            assert shard is not None, f"the placement names {shard_id}, which the topology does not have"
            link = links[shard_id] = kind(shard_id, shard.leading, variant, self._host, self._options)
            self._rounds.tie(shard, link)
        return link

    def _all(self) -> tuple[dict[str, ServerConnection], ...]:
        apart = (*self._heavy_links.values(), *self._spare_links.values(), self._flush_links)
        return (*self.links.values(), *apart)

    def of(self, shard_id: str) -> list[ServerConnection]:
        """The links to a shard's leader that there are."""
        return [links[shard_id] for links in self._all() if shard_id in links]

    def dedicated_connection(self, shard_id: str, variant: int) -> DedicatedConnection:
        """A connection to the leader of a shard for one client alone. Raises ErrorReply where there can be none."""
        shard = self._topology.shard(shard_id)
        assert shard is not None, f"the placement names {shard_id}, which the topology does not have"
        return self.dedicated.take(shard, variant)

    def marks(self, shards: Iterable[str], fenced: Callable[[bytes], bool]) -> list[Mark]:
        """What has been issued to these shards and not been answered, but for what waits for keys not fenced."""
        shards = set(shards)
        shared: list[Mark] = [
            (link, link.issued)
            for shard in shards
            for links in self._all()
            if (link := links.get(shard)) is not None and link.answered < link.issued
        ]
        return shared + self.dedicated.marks(shards, fenced)

    def untold(self, shards: Iterable[str]) -> list[tuple[ServerConnection, int]]:
        """The connections to these shards of which somebody waits, and what has been issued on each."""
        links = [link for shard in shards for link in (*self.of(shard), *self.dedicated.of(shard))]
        return [(link, link.issued) for link in links if not link.is_told(link.issued)]

    async def answered(self, shards: Sequence[str]) -> None:
        """Wait until all that is in flight has been answered, and can change nothing any more."""
        settled = [link.settled(mark) for link, mark in self.marks(shards, lambda key: True)]
        untold = (*self.untold(shards), *self.replicas.untold())
        await asyncio.gather(*settled, *(link.told(mark) for link, mark in untold))

    def marks_behind(self, fences: Sequence[Fence], fenced: Callable[[bytes], bool]) -> list[Mark | tuple[Told, int]]:
        """What has been issued behind these fences and is under way.

        A shard that is to get another leader may not be waited for forever: what runs late at the old one is void.
        """
        grace_s = self._options.leader_grace_s
        untold = self.untold(fence.shard for fence in fences if fence.whole and not fence.answered)
        return [
            *self.marks((fence.shard for fence in fences if fence.answered or not fence.whole), fenced),
            *((Told(link, grace_s), mark) for link, mark in untold),
        ]

    def ask(
        self, shard: str, argv: Sequence[bytes], protocol: int = 2, kind: CommandStats = OWN
    ) -> asyncio.Future[bytes]:
        """The raw reply of a shard's leader to a command of the router's own."""
        reply = FutureReply()
        self.link(shard, protocol).send_as(encode_command(argv), reply, kind)
        return reply

    def retry(self, shard: str) -> None:
        """Connect at once to a server that was out of reach and is so no longer."""
        for links in self._all():
            if shard in links:
                links[shard].retry()

    def close(self, reason: str) -> None:
        """End every connection; what was in flight is answered with an error."""
        self.dedicated.close(reason)
        self.replicas.close(reason)
        for links in self._all():
            for link in links.values():
                link.close(reason)
                self.retired.add(link)
            links.clear()
        self._rounds.close(reason)
        self._left = LeftBehind()  # Their users end with the session.

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts and limits from now on."""
        self._options = options
        self.dedicated.configure(options)
        self.replicas.configure(options)
        for links in self._all():
            for link in links.values():
                link.configure(options)
        self._rounds.configure(options)
        self._tie({shard.id: shard for shard in self._topology.shards})
