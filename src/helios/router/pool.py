"""The connections of a router to all shards' leaders, for the time of one session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from helios.model.topology import Topology
from helios.resp.wire import encode_command
from helios.router.callers import FutureReply
from helios.router.member import MemberHost, MemberLink
from helios.router.options import RouterOptions

Mark = tuple[MemberLink, int]


class Pool:
    """Links by RESP version and shard, opened when first needed. `links[protocol]` stays the same dict for ever."""

    def __init__(self, host: MemberHost, options: RouterOptions) -> None:
        self.links: dict[int, dict[str, MemberLink]] = {2: {}, 3: {}}
        self._host = host
        self._options = options
        self._topology = Topology(epoch=0)

    def apply(self, topology: Topology) -> None:
        """Let go of the links to servers that lead their shard no longer."""
        self._topology = topology
        leaders = {shard.id: shard.leading for shard in topology.shards}
        for links in self.links.values():
            for shard, link in list(links.items()):
                leader = leaders.get(shard)
                if leader is None or (leader.id, leader.address) != (link.member.id, link.member.address):
                    del links[shard]
                    link.close("the shard has another leader" if leader else "the shard is no longer in the cluster")

    def link(self, shard_id: str, protocol: int) -> MemberLink:
        """The link to the leader of a shard of the present topology."""
        links = self.links[protocol]
        link = links.get(shard_id)
        if link is None:
            shard = self._topology.shard(shard_id)
            assert shard is not None, f"the placement names {shard_id}, which the topology does not have"
            link = links[shard_id] = MemberLink(shard_id, shard.leading, protocol, self._host, self._options)
        return link

    def marks(self, shards: Iterable[str]) -> list[Mark]:
        """What has been issued to these shards so far and not been answered."""
        return [
            (link, link.issued)
            for shard in set(shards)
            for links in self.links.values()
            if (link := links.get(shard)) is not None and link.answered < link.issued
        ]

    def ask(self, shard: str, argv: Sequence[bytes], protocol: int = 2) -> asyncio.Future[bytes]:
        """The raw reply of a shard's leader to a command of the router's own."""
        reply = FutureReply()
        self.link(shard, protocol).send(encode_command(argv), reply)
        return reply

    def close(self, reason: str) -> None:
        """End every connection; what was in flight is answered with an error."""
        for links in self.links.values():
            for link in links.values():
                link.close(reason)
            links.clear()
