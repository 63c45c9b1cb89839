"""A server that joins without keys, and loses its power then."""

from __future__ import annotations

import pytest
from tests.memory_shards import memory_shards


@pytest.mark.parametrize(("flush", "emptied"), [(True, False), (True, True), (False, True)])
async def test_a_power_cut_brings_back_no_key_of_a_server_that_has_joined_empty(*, flush: bool, emptied: bool) -> None:
    """It is emptied as it joins, or was a moment ago: by its owner, or by a coordinator that is gone."""
    async with memory_shards(["a", "b"], a=9, b=9, c=9) as cluster:
        c = cluster.servers["c"]
        c.set(b"of c", b"value")
        c.sync()
        if emptied:
            c.flush()
        await cluster.admin.add_node("c", str(cluster.addresses["c"]), flush=flush)
        c.crash(lose_unsynced=True)
        assert c.get(b"of c") is None
        c.restart()
