"""What a repair brings to owners, and what it leaves where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.memory_shards import MemoryShards, memory_shards

from helios.coordinator.access import Access, Identity
from helios.coordinator.repair import repair
from helios.engines.memory import MemoryConnector
from helios.model.topology import Member
from helios.placement.routing import Routes
from helios.ports.engine import Engine


class Open(Access):
    """Lets anybody in."""

    def __init__(self, cluster: MemoryShards) -> None:
        self._addresses = cluster.addresses
        self._servers = MemoryConnector({cluster.addresses[name]: one for name, one in cluster.servers.items()})

    @contextmanager
    def identity(self) -> Iterator[Identity]:
        yield Identity("anybody", "")

    async def open_source(self, shard_id: str, identity: Identity) -> Engine:
        return await self._servers.open(Member(f"{shard_id}.0", shard_id, self._addresses[shard_id]))

    async def on_majority(self, shard_id: str, engine: Engine) -> None:
        """Each is the only server of its shard."""


@pytest.mark.parametrize("unclean", [False, True])
async def test_what_lies_on_an_unclean_shard_is_brought_to_no_owner(unclean: bool) -> None:
    """It may be the copy that a move has made of a key that clients have deleted since."""
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        topology = await cluster.topology()
        stray = next(key for key in (b"stray %d" % n for n in range(100)) if Routes(topology).owner(key) == "b")
        a, b = cluster.servers["a"], cluster.servers["b"]
        a.set(stray, b"value")
        said = await repair(Open(cluster), replace(topology, unclean=frozenset({"a"} if unclean else ())))
        if unclean:
            assert "1 stray keys left: a move has left copies on a, which are swept soon" in said
            assert (a.get(stray), b.get(stray)) == (b"value", None)
        else:
            assert "1 stray keys moved to their owners" in said
            assert (a.get(stray), b.get(stray)) == (None, b"value")
