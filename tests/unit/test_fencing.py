"""Until when a session that is over may still act where nobody can force it off."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from tests.waiting import until

from helios.coordinator.fencing import Fencing
from helios.coordinator.publisher import Publisher
from helios.coordinator.sessions import MARGIN_S, Sessions
from helios.engines.memory import MemoryConnector, MemoryServer
from helios.errors import EngineUnreachable
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import SESSION_PREFIXES, UserRole
from helios.ports.records import SESSIONS, TERM, SessionRecord, put_record
from helios.ports.store import Delete, Put, Snapshot
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore


class Listings:
    """A store that counts how often it is listed."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.count = 0

    async def list(self, prefix: str) -> Snapshot:
        self.count += 1
        return await self._store.list(prefix)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


MEMBER = "external.0"
TTL_S = 3.0


class Hands:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def wall(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s

    boottime = monotonic


class Followed:
    def __init__(self, store: MemoryStore, publisher: Publisher) -> None:
        self.store = store
        self.clock = Hands()
        self.sessions = Sessions(publisher, self.clock, lambda: TTL_S)
        self.fencing = Fencing(publisher, self.sessions, ack_timeout_s=0.0)

    async def begin(self, name: str, *as_default: str) -> None:
        await self.store.commit([put_record(SESSIONS + name, session(name, *as_default))])

    async def end(self, name: str) -> None:
        await self.store.commit([Delete(SESSIONS + name)])

    async def are(self, *records: SessionRecord) -> None:
        """These are the sessions now."""
        gone = [Delete(entry.key) for entry in (await self.store.list(SESSIONS)).entries]
        await self.store.commit(gone)
        await self.store.commit([put_record(SESSIONS + record.id, record) for record in records])
        await self.sessions.look()

    def left_s(self, member: str = MEMBER, *, unknown: bool = False) -> float:
        return self.sessions.left_s(member, unknown=unknown)


def session(name: str, *as_default: str) -> SessionRecord:
    return SessionRecord(name, "shard-1", as_default=as_default, ttl_s=TTL_S)


@pytest.fixture
async def followed() -> Followed:
    store = MemoryStore()
    version = await store.commit([Put(TERM, b"1")])
    return Followed(store, await Publisher.open(store, SystemClock(), 1, version))


def test_before_it_began_anything_may_have_been_revoked(followed: Followed) -> None:
    followed.clock.now_s += 1.0
    assert followed.left_s(unknown=True) == pytest.approx(TTL_S + MARGIN_S - 1.0)
    assert followed.left_s() == 0.0
    followed.clock.now_s += TTL_S
    assert followed.left_s(unknown=True) == 0.0


async def test_an_expired_session_has_ended_but_for_a_margin(followed: Followed) -> None:
    await followed.are(session("one", MEMBER), session("two"))
    await followed.are(session("two"))
    assert followed.left_s() == pytest.approx(MARGIN_S)
    assert followed.left_s("other.0") == 0.0
    followed.clock.now_s += MARGIN_S
    await followed.are()
    assert followed.left_s() == 0.0


async def test_a_revoked_one_may_believe_in_its_lease_to_the_end(followed: Followed) -> None:
    await followed.are(session("one", MEMBER))
    followed.sessions.revoking("one")
    await followed.are()
    assert followed.left_s() == pytest.approx(TTL_S + MARGIN_S)


async def test_a_revoked_one_may_act_elsewhere_until_its_lease_has_ended(followed: Followed) -> None:
    followed.clock.now_s += TTL_S + MARGIN_S
    await followed.are(session("one"), session("two"))
    await followed.are(session("two"))  # it has expired, and stopped before
    assert followed.sessions.revoked_left_s() == 0.0
    followed.sessions.revoking("two")
    await followed.are()
    assert followed.sessions.revoked_left_s() == pytest.approx(TTL_S + MARGIN_S)


def test_one_that_was_revoked_before_it_began_may_act_elsewhere(followed: Followed) -> None:
    assert followed.sessions.revoked_left_s() == pytest.approx(TTL_S + MARGIN_S)


async def test_a_topology_is_not_known_to_one_that_was_forced_off_elsewhere(followed: Followed) -> None:
    followed.clock.now_s += TTL_S + MARGIN_S
    await followed.are(session("one"))
    followed.sessions.revoking("one")
    await followed.are()
    known = asyncio.create_task(followed.fencing.known())
    await asyncio.wait([known], timeout=0.3)
    assert not known.done()
    followed.clock.now_s += TTL_S + MARGIN_S
    await known


async def test_one_that_was_forced_off_elsewhere_is_ended_before_a_membership_settles(followed: Followed) -> None:
    member = Member("shard-1.0", "shard-1", Address("host", 1))
    connector = MemoryConnector({member.address: MemoryServer("leader", wall=time.time)})
    administrator = await connector.open(member)
    for name in ("gone", "here"):
        await administrator.allow(f"helios-s-{name}", "secret", UserRole.ROUTER)
    gone = await connector.open(member, user="helios-s-gone", password="secret")
    await followed.are(session("here"))
    present = await followed.fencing.session_users(administrator, member)
    assert present == {"gone", "here"}
    assert await followed.fencing.end_those_over(member, present, lambda: connector.open(member))
    assert sorted(await administrator.users()) == ["default", "helios-s-here"]
    with pytest.raises(EngineUnreachable):
        await gone.count()


async def test_where_nobody_can_be_forced_off_one_that_is_over_is_waited_out(followed: Followed) -> None:
    member = Member(MEMBER, "external", Address("host", 1))
    followed.clock.now_s += TTL_S + MARGIN_S
    connector = MemoryConnector({member.address: MemoryServer("leader", wall=time.time)})
    await followed.are(session("one", MEMBER))
    followed.sessions.revoking("one")
    await followed.are()
    assert not await followed.fencing.end_those_over(member, set(), lambda: connector.open(member))
    followed.clock.now_s += TTL_S + MARGIN_S
    assert await followed.fencing.end_those_over(member, set(), lambda: connector.open(member))


async def test_all_users_of_a_silent_session_are_ended() -> None:
    store, server, clock = MemoryStore(), MemoryServer("source", wall=time.time), Hands()
    publisher = await Publisher.open(store, clock, 1, await store.commit([Put(TERM, b"1")]))
    member = Member("shard-1.0", "shard-1", Address("host", 1))
    connector = MemoryConnector({member.address: server})
    await store.commit([put_record(SESSIONS + "silent", session("silent"))])
    administrator = await connector.open(member)
    users = []
    for role, prefix in SESSION_PREFIXES.items():
        await administrator.allow(prefix + "silent", "secret", role)
        users.append(await connector.open(member, user=prefix + "silent", password="secret"))
    sessions = Sessions(publisher, clock, lambda: TTL_S)
    fencing = Fencing(publisher, sessions, ack_timeout_s=0.0)
    assert await fencing.settle(member, connector.open(member)) == 1
    assert await administrator.users() == ["default"]
    for engine in users:
        with pytest.raises(EngineUnreachable):
            await engine.flush()
    assert (await store.list(SESSIONS)).entries == ()


class Fence:
    """A fence of one member, among sessions that are followed."""

    def __init__(self, store: MemoryStore, publisher: Publisher) -> None:
        self.store = store
        self.listings = publisher.store = Listings(store)
        self.publisher = publisher
        self.sessions = Sessions(publisher, SystemClock(), lambda: TTL_S)
        self._member = Member("shard-1.0", "shard-1", Address("host", 1))
        self._connector = MemoryConnector({self._member.address: MemoryServer("source", wall=time.time)})

    async def settled(self) -> int:
        await self.publisher.publish(lambda topology: topology)
        fencing = Fencing(self.publisher, self.sessions, ack_timeout_s=30.0)
        return await fencing.settle(self._member, self._connector.open(self._member))

    async def acknowledge(self, *names: str) -> None:
        for name in names:
            record = replace(session(name), acked_epoch=self.publisher.topology.epoch)
            await self.store.commit([put_record(SESSIONS + name, record)])


@pytest.fixture
async def fence() -> Fence:
    store = MemoryStore()
    return Fence(store, await Publisher.open(store, SystemClock(), 1, await store.commit([Put(TERM, b"1")])))


async def test_acknowledgements_tell_of_all_sessions_that_were_there_before_them(fence: Fence) -> None:
    names = [f"s{number:03}" for number in range(100)]
    await fence.store.commit([put_record(SESSIONS + name, session(name)) for name in names])
    following = asyncio.create_task(fence.sessions.follow())
    await until(lambda: len(fence.sessions.present) == 100)
    before, fence.listings.count = fence.publisher.topology.epoch, 0
    settling = asyncio.create_task(fence.settled())
    await until(lambda: fence.publisher.topology.epoch > before)
    await fence.acknowledge(*names)
    assert await settling == 0
    following.cancel()
    await asyncio.wait([following])
    assert fence.listings.count < 10  # where acknowledgements are slow to come it is looked again; not once a change


async def test_a_session_whose_news_come_late_is_waited_for(fence: Fence) -> None:
    """The one that is known has acknowledged, but of before the fence not everything is known yet."""
    await fence.store.commit([put_record(SESSIONS + "known", replace(session("known"), acked_epoch=99))])
    await fence.sessions.look()
    await fence.store.commit([put_record(SESSIONS + "unknown", session("unknown"))])
    settling = asyncio.create_task(fence.settled())
    await until(lambda: "unknown" in fence.sessions.present)
    assert not settling.done()
    await fence.acknowledge("unknown")
    assert await settling == 0


async def test_one_that_comes_and_goes_between_two_fences_is_noticed(followed: Followed) -> None:
    following = asyncio.create_task(followed.sessions.follow())
    await followed.begin("before")
    await followed.begin("one", MEMBER)
    await followed.end("one")
    await until(lambda: followed.left_s() > 0)
    following.cancel()
    await asyncio.wait([following])
