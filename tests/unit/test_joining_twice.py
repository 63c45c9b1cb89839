"""Two requests about one server that joins."""

from __future__ import annotations

import pytest
from tests.memory_shards import memory_shards
from tests.shards import Latch, eventually

from helios.errors import Refused
from helios.ports.failpoints import Point


async def test_a_server_is_not_emptied_while_it_joins_by_an_earlier_request() -> None:
    """It may be a node by the time at which it would be emptied."""
    latch = Latch()
    async with memory_shards(["a", "b"], latch, a=9, b=9, c=9) as cluster:
        cluster.servers["c"].set(b"of c", b"value")
        latch.arm(Point.IMPORTING)
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), import_keys=True)
        await latch.reached.wait()
        with pytest.raises(Refused, match="c at memory:3 joins by an earlier request: wait for its end"):
            await cluster.admin.add_node("c", str(cluster.addresses["c"]), flush=True)
        latch.open()

        async def joined() -> bool:
            return (await cluster.topology()).node("c") is not None

        await eventually(joined, "it joins")
        assert sum(server.get(b"of c") == b"value" for server in cluster.servers.values()) == 1
