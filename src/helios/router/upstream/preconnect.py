"""Connecting to every leader before the first command for it comes."""

from __future__ import annotations

import asyncio
from typing import Protocol

from helios.model.topology import Topology

_PROTOCOL = 2
_REST = 2.0  # times what the last connection took: clients come first


class Link(Protocol):
    """A connection to a leader that may not have been opened yet."""

    def connect(self) -> bool:
        """Open the connection if nothing has been sent yet; whether that was so."""

    async def tried(self) -> None:
        """Return when the first attempt at a connection has succeeded, or failed, or is wanted no more."""


class Links(Protocol):
    """The links of a router."""

    def link(self, shard_id: str, variant: int) -> Link:
        """The link to the leader of a shard of the present topology."""


class Preconnect:
    """Connects a router to the leaders of its topology, one after the other.

    Where that waited for the first commands, a hundred routers that begin to serve would make ten thousand connections
    at the moment when their clients come. Nothing fails by it: what cannot be reached is tried again by whoever needs
    it.
    """

    def __init__(self, pool: Links) -> None:
        self._pool = pool
        self._shards: tuple[str, ...] = ()
        self._applied = asyncio.Event()

    def apply(self, topology: Topology, node: str) -> None:
        """These are the shards from now on. Each node begins behind its own, so that not all connect to the same."""
        ids = [shard.id for shard in topology.shards]
        self._shards = (*(name for name in ids if name > node), *(name for name in ids if name <= node))
        self._applied.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._applied.wait()
            self._applied.clear()
            await self._connect_all()

    async def _connect_all(self) -> None:
        loop = asyncio.get_running_loop()
        for shard in self._shards:
            link = self._pool.link(shard, _PROTOCOL)
            if link.connect():
                began_s = loop.time()
                await link.tried()
                await asyncio.sleep(_REST * (loop.time() - began_s))
            if self._applied.is_set():
                return  # Other shards may be there now.
