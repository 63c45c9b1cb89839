"""A router's leases, one after the other, on a virtual clock: how soon the next one serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.routers import FailingStore
from tests.simulation.loop import SimClock, SimLoop
from tests.topologies import in_transition

from helios.control.mutations import Fence, Switch, Together
from helios.engines.memory import MemoryConnector
from helios.model.topology import Placement, Topology
from helios.placement.change import with_weights
from helios.ports.engine import BIG_VALUE_BYTES
from helios.ports.records import BIG_KEYS, SESSIONS, TOPOLOGY, BigKeysRecord, SessionRecord, list_records, put_record
from helios.ports.store import Delete
from helios.resp.wire import encode_command
from helios.router.options import RouterOptions
from helios.router.session.keeper import SessionKeeper
from helios.router.session.session import Pending, Session
from helios.router.stats.big_keys import BigKeys
from helios.stores.memory import MemoryStore

OPTIONS = RouterOptions(node="shard-1")
SOON_S = 0.1
LATE_S = 4.5  # of a lease of ten seconds


class SlowStore(FailingStore):
    """A store that can be away, and whose renewals can be late."""

    renewal_s = 0.0

    async def keep_alive(self, lease: str) -> None:
        await asyncio.sleep(self.renewal_s)
        await super().keep_alive(lease)


class Host:
    """A router as its sessions see it. Notes when it was let serve first in each, and when each was over."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.served: list[float] = []
        self.over: list[float] = []
        self.epochs: list[int] = []
        self.big_keys = BigKeys(clock.monotonic)

    def record(self, session_id: str) -> SessionRecord:
        return SessionRecord(session_id, "shard-1")

    def apply(self, topology: Topology) -> Pending:
        self.epochs.append(topology.epoch)
        return Pending()

    def serve_until(self, deadline: float) -> None:
        if len(self.served) == len(self.over):
            self.served.append(self.clock.monotonic())

    def session_over(self, reason: str) -> None:
        if len(self.over) < len(self.served):
            self.over.append(self.clock.monotonic())


class Life:
    """A keeper of sessions, its store and its host, on one virtual clock."""

    def __init__(self, loop: SimLoop) -> None:
        clock = SimClock(loop)
        self.inner = MemoryStore(clock)
        self.store = SlowStore(self.inner)
        self.host = Host(clock)
        self.keeper = SessionKeeper(
            lambda: Session(self.store, MemoryConnector({}), clock, OPTIONS, self.host), self.host
        )


def live(through: Callable[[Life], Awaitable[None]]) -> Life:
    """A keeper's life, on a loop of its own, until `through` returns."""
    loop = SimLoop()
    life = Life(loop)

    async def lived() -> None:
        keeping = asyncio.create_task(life.keeper.run())
        try:
            await through(life)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])
            await life.inner.close()

    try:
        loop.run_until_complete(lived())
    finally:
        loop.close()
    return life


def test_a_revoked_session_is_followed_at_once() -> None:
    async def through(life: Life) -> None:
        for _ in range(3):
            await asyncio.sleep(5)
            (entry,) = (await life.inner.list(SESSIONS)).entries
            assert life.keeper.current().id in entry.key
            await life.inner.commit([Delete(entry.key)])  # as who forces a session off does
        await asyncio.sleep(5)

    host = live(through).host
    assert len(host.served) == 4
    assert all(again - over <= SOON_S for over, again in zip(host.over, host.served[1:], strict=True))


def test_a_store_that_is_back_lets_the_router_serve_again_at_once() -> None:
    back_at: list[float] = []

    async def through(life: Life) -> None:
        await asyncio.sleep(1)
        life.store.away = True
        await asyncio.sleep(OPTIONS.session_ttl_s * 3 + 0.033)
        life.store.away = False
        back_at.append(life.host.clock.monotonic())
        await asyncio.sleep(5)

    host = live(through).host
    assert len(host.over) == 1 and len(host.served) == 2
    assert back_at[0] <= host.served[1] <= back_at[0] + SOON_S


def test_of_a_fence_that_was_acknowledged_nobody_waits_for_the_next_epoch() -> None:
    acknowledged: list[int] = []

    async def through(life: Life) -> None:
        at_rest = with_weights(Placement(8), {"a": 1.0})
        moving = in_transition(at_rest, with_weights(at_rest, dict.fromkeys("bcd", 1.0)), {})
        both = Together((Fence("a", "b"), Fence("a", "c"))).apply(moving)
        one = Switch("a", "b").apply(both)
        another = Fence("a", "d").apply(one)
        none = Together((Switch("a", "c"), Switch("a", "d"))).apply(another)
        failover = replace(none, fenced_shards=frozenset("a"))
        for epoch, topology in enumerate((moving, both, one, another, none, failover, failover), start=1):
            await life.inner.commit([put_record(TOPOLOGY, replace(topology, epoch=epoch))])
            await asyncio.sleep(SOON_S)
            (session,) = await list_records(life.inner, SessionRecord, SESSIONS)
            acknowledged.append(session.value.acked_epoch)
        await life.inner.commit([put_record(TOPOLOGY, replace(none, epoch=8))])
        await asyncio.sleep(1)
        (session,) = await list_records(life.inner, SessionRecord, SESSIONS)
        acknowledged.append(session.value.acked_epoch)

    live(through)
    # Epochs 3 and 5 are left out; the fence of a whole shard is acknowledged anew, and the last one in its time.
    assert acknowledged == [1, 2, 2, 4, 4, 6, 7, 8]


def test_what_changes_while_the_store_is_away_is_known_when_it_is_back() -> None:
    async def through(life: Life) -> None:
        for epoch in (1, 2, 3, 4):
            life.store.away = epoch in (2, 3)
            await life.inner.commit([put_record(TOPOLOGY, Topology(epoch=epoch))])
            await asyncio.sleep(1)

    life = live(through)
    assert life.keeper.sessions == 1
    assert life.host.epochs == [1, 4]


def test_a_session_that_is_revoked_while_the_store_is_away_is_over_when_it_is_back() -> None:
    async def through(life: Life) -> None:
        await asyncio.sleep(1)
        life.store.away = True
        (entry,) = (await life.inner.list(SESSIONS)).entries
        await life.inner.commit([Delete(entry.key)])
        await asyncio.sleep(1)
        assert not life.host.over
        life.store.away = False
        await asyncio.sleep(1)

    host = live(through).host
    assert len(host.over) == 1 and host.over[0] <= 2 + SOON_S
    assert len(host.served) == 2


def test_a_lease_outlives_renewals_that_are_late() -> None:
    async def through(life: Life) -> None:
        life.store.renewal_s = LATE_S
        await asyncio.sleep(OPTIONS.session_ttl_s * 20)

    life = live(through)
    assert life.keeper.sessions == 1 and not life.host.over
    # It is sent when the one before is there, and as late itself.
    assert round(life.keeper.longest_gap_s, 2) == 2 * LATE_S


def test_a_lease_whose_renewal_is_never_confirmed_ends_in_time() -> None:
    async def through(life: Life) -> None:
        life.store.renewal_s = 10_000
        await asyncio.sleep(OPTIONS.session_ttl_s)
        life.store.renewal_s = 0
        await asyncio.sleep(OPTIONS.session_ttl_s)

    host = live(through).host
    assert host.over == [host.served[0] + OPTIONS.session_ttl_s - OPTIONS.session_margin_s]
    assert host.served[1] - host.over[0] <= SOON_S


def test_big_keys_are_named_in_the_store_for_a_minute_and_no_longer_than_their_session() -> None:
    async def through(life: Life) -> None:
        async def named() -> list[list[bytes]]:
            return [record.value.names() for record in await list_records(life.inner, BigKeysRecord, BIG_KEYS)]

        def big(key: bytes) -> None:
            life.host.big_keys.sent(encode_command([b"SET", key, b"x" * BIG_VALUE_BYTES]))

        await asyncio.sleep(1)
        assert await named() == []
        big(b"\xff")
        await asyncio.sleep(1)
        assert await named() == [[b"\xff"]]
        life.store.away = True
        big(b"b")
        await asyncio.sleep(OPTIONS.session_ttl_s / 2)
        life.store.away = False
        await asyncio.sleep(10)
        assert await named() == [[b"b", b"\xff"]]
        life.store.away = True
        await asyncio.sleep(OPTIONS.session_ttl_s * 2)
        assert await named() == []
        life.store.away = False
        await asyncio.sleep(1)
        assert await named() == [[b"b", b"\xff"]], "the next session knows them"
        await asyncio.sleep(90)
        assert await named() == []

    live(through)
