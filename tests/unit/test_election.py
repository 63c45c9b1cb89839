"""Who becomes coordinator, what it costs the store, and what is known of the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.simulation.loop import SimClock, SimLoop

from helios.control.silence import Lapse
from helios.coordinator.election import Leadership, campaign, keep, resign
from helios.errors import LeaseLost
from helios.ports.records import AGENTS, COORDINATOR, TERM, CoordinatorRecord, put_record
from helios.ports.store import Delete, Put, Snapshot
from helios.stores.memory import MemoryStore

LEASE_S = 3.0
CANDIDATES = 100


class SlowStore(MemoryStore):
    """A store that takes a millisecond for a lease, and counts what it is asked for."""

    granted = listed = 0

    async def list(self, prefix: str) -> Snapshot:
        self.listed += 1
        return await super().list(prefix)

    async def grant(self, ttl_s: float) -> str:
        self.granted += 1
        await asyncio.sleep(0.001)
        return await super().grant(ttl_s)


class Candidates:
    """Nodes that stand for coordinator in one store, on one virtual clock."""

    def __init__(self, loop: SimLoop) -> None:
        self.clock = SimClock(loop)
        self.store = SlowStore(self.clock)

    async def elect(self, node: str) -> Leadership:
        """Have a node campaign until it is elected."""
        return await campaign(self.store, self.clock, node, LEASE_S)

    async def beat(self, node: str) -> int:
        """The version that the record of a node's agent has from now on."""
        return await self.store.commit([Put(AGENTS + node, b"{}")])


def play(test: Callable[[Candidates], Awaitable[None]]) -> None:
    """Run a test by the virtual clock."""
    loop = SimLoop()

    async def through() -> None:
        candidates = Candidates(loop)
        await test(candidates)
        await candidates.store.close()

    try:
        loop.run_until_complete(through())
    finally:
        loop.close()


def test_whoever_waited_knows_whose_lease_has_ended_and_how_long_that_was_silent() -> None:
    async def test(candidates: Candidates) -> None:
        heartbeat = await candidates.beat("a")
        assert (await candidates.elect("a")).lapse is None
        assert (await candidates.elect("b")).lapse == Lapse("a", LEASE_S, heartbeat)

    play(test)


def test_nothing_is_told_of_one_that_has_resigned() -> None:
    async def test(candidates: Candidates) -> None:
        first = await candidates.elect("a")
        waiting = asyncio.ensure_future(candidates.elect("b"))
        await asyncio.sleep(1)
        await resign(candidates.store, first)
        async with asyncio.timeout(0.1):
            second = await waiting
        assert second.lapse is None
        assert second.term > first.term

    play(test)


def test_a_lease_that_is_renewed_does_not_end() -> None:
    async def test(candidates: Candidates) -> None:
        first = await candidates.elect("a")
        keeping = asyncio.create_task(keep(candidates.store, candidates.clock, first))
        waiting = asyncio.ensure_future(candidates.elect("b"))
        await asyncio.sleep(10 * LEASE_S)
        assert not waiting.done()
        keeping.cancel()
        await asyncio.wait([keeping])
        assert (await waiting).lapse is not None

    play(test)


def test_a_candidate_that_waits_leaves_the_store_alone() -> None:
    async def test(candidates: Candidates) -> None:
        first = await candidates.elect("a")
        keeping = asyncio.create_task(keep(candidates.store, candidates.clock, first))
        waiting = asyncio.ensure_future(candidates.elect("b"))
        await asyncio.sleep(1)
        before = candidates.store.listed
        await asyncio.sleep(10 * LEASE_S)
        assert candidates.store.listed == before
        for task in (keeping, waiting):
            task.cancel()
        await asyncio.wait([keeping, waiting])

    play(test)


def test_one_that_comes_back_to_find_its_lease_gone_is_not_silent() -> None:
    """Another candidate is frozen meanwhile, and wakes with what it has seen before that."""

    async def test(candidates: Candidates) -> None:
        first = await candidates.elect("a")
        waiting = asyncio.ensure_future(candidates.elect("b"))
        await asyncio.sleep(1)
        woken, grant = asyncio.Event(), candidates.store.grant

        async def late(ttl_s: float) -> str:
            await woken.wait()
            return await grant(ttl_s)

        candidates.store.grant = late  # type: ignore[method-assign]
        await asyncio.sleep(LEASE_S)
        with pytest.raises(LeaseLost):
            await candidates.store.keep_alive(first.lease)
        await resign(candidates.store, first)
        woken.set()
        assert (await waiting).lapse is None

    play(test)


def test_nothing_is_told_of_a_coordinator_that_nobody_saw() -> None:
    async def test(candidates: Candidates) -> None:
        await candidates.elect("a")
        await asyncio.sleep(LEASE_S + 1)
        assert (await candidates.elect("b")).lapse is None

    play(test)


def test_a_node_does_not_take_itself_for_silent() -> None:
    async def test(candidates: Candidates) -> None:
        await candidates.elect("a")
        assert (await candidates.elect("a")).lapse is None  # its agent was killed, and has been started again

    play(test)


def test_nothing_is_told_where_others_have_coordinated_since() -> None:
    async def test(candidates: Candidates) -> None:
        await candidates.elect("a")
        waiting = asyncio.ensure_future(candidates.elect("b"))
        await asyncio.sleep(1)
        await candidates.store.commit([Put(TERM, b"7")])
        assert (await waiting).lapse is None

    play(test)


def test_an_earlier_release_does_not_say_how_long_its_lease_is() -> None:
    async def test(candidates: Candidates) -> None:
        store = candidates.store
        await store.commit([Put(TERM, b"4"), put_record(COORDINATOR, CoordinatorRecord("a", 4))])
        waiting = asyncio.ensure_future(candidates.elect("b"))
        await asyncio.sleep(1)
        await store.commit([Delete(COORDINATOR)])
        assert (await waiting).lapse is None

    play(test)


def test_a_hundred_candidates_do_not_all_write_for_a_place_that_one_of_them_gets() -> None:
    async def test(candidates: Candidates) -> None:
        first = await candidates.elect("shard-0")
        campaigns = [asyncio.create_task(candidates.elect(f"shard-{number + 1}")) for number in range(CANDIDATES)]
        await asyncio.sleep(1.0)
        await candidates.store.revoke(first.lease)
        (elected,), others = await asyncio.wait(campaigns, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(1.0)
        for other in others:
            other.cancel()
        assert elected.result().term == 2
        assert 2 <= candidates.store.granted <= CANDIDATES / 10

    play(test)
