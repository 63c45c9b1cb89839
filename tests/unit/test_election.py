"""Who becomes coordinator, and what it costs the store."""

from __future__ import annotations

import asyncio

from tests.simulation.loop import SimClock, SimLoop

from helios.coordinator.election import Leadership, campaign
from helios.stores.memory import MemoryStore

CANDIDATES = 100


class SlowStore(MemoryStore):
    """A store that takes a millisecond for a lease, and counts them."""

    granted = 0

    async def grant(self, ttl_s: float) -> str:
        self.granted += 1
        await asyncio.sleep(0.001)
        return await super().grant(ttl_s)


def test_a_hundred_candidates_do_not_all_write_for_a_place_that_one_of_them_gets() -> None:
    loop = SimLoop()
    clock = SimClock(loop)
    store = SlowStore(clock)

    async def life() -> Leadership:
        first = await campaign(store, clock, "shard-0", 3.0)
        campaigns = [
            asyncio.create_task(campaign(store, clock, f"shard-{number}", 3.0)) for number in range(1, CANDIDATES + 1)
        ]
        await asyncio.sleep(1.0)
        await store.revoke(first.lease)
        (elected,), others = await asyncio.wait(campaigns, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(1.0)
        for other in others:
            other.cancel()
        await store.close()
        return elected.result()

    try:
        assert loop.run_until_complete(life()).term == 2
    finally:
        loop.close()
    assert 2 <= store.granted <= CANDIDATES / 10
