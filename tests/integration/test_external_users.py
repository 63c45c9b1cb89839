"""The ACL users that Helios has on external servers: who is forced off by them, and that none stay behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.shards import Shards, running_shards
from tests.waiting import until

from helios.coordinator.access import OUR_PREFIXES
from helios.model.topology import Node, PairPhase
from helios.ports.engine import users_of
from helios.ports.records import DEPARTED, SESSIONS, SessionRecord, list_records, put_record
from helios.ports.store import Delete

pytestmark = pytest.mark.processes

PAIRS = {f"user:{n}".encode(): f"value {n}".encode() for n in range(500)}


async def joined(shards: Shards) -> Node:
    """A plain server that has joined and owns keys."""
    node = await shards.server("external", supervised=False)
    await shards.admin.add_node("external", str(node.address))
    await shards.settled()
    await shards.fill(PAIRS)
    return node


async def ours(shards: Shards) -> set[str]:
    """The users of Helios on the external server."""
    users = await shards.execute("external", "ACL", "USERS")
    assert isinstance(users, list)
    return {user.decode() for user in users if user.decode().startswith(OUR_PREFIXES)}


async def session(shards: Shards, record: SessionRecord) -> None:
    """A router's session that no router keeps, with its users on the external server."""
    await shards.store.commit([put_record(SESSIONS + record.id, record)])
    for user in users_of(record.id):
        await shards.execute("external", "ACL", "SETUSER", user, "on", ">secret", "~*", "+@all")


async def fenced(shards: Shards, phase: PairPhase) -> bool:
    """Whether the one pair that moves is in this phase."""
    transition = (await shards.topology()).transition
    return transition is not None and transition.pairs[0].phase is phase


async def none_left(shards: Shards) -> None:
    async def clean() -> bool:
        return not await ours(shards) and not await list_records(shards.store, dict, DEPARTED)

    await until(clean, "no user of ours is left on the external server", limit_s=20)


async def test_a_silent_router_is_forced_off_an_external_server(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await joined(shards)
        await session(shards, SessionRecord("silent", "test"))
        view = await shards.admin.migrate("external", "shard-1", "user:*")
        await shards.settled()
        migration = await shards.admin.migration(view.id)
        assert migration.status == "completed"
        assert await list_records(shards.store, SessionRecord, SESSIONS) == []
        await none_left(shards)
        await shards.assert_whole(PAIRS)


async def test_a_silent_router_without_a_user_is_waited_out_though_others_have_one(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await joined(shards)
        await session(shards, SessionRecord("silent", "test", as_default=("external.0",)))
        view = await shards.admin.migrate("external", "shard-1", "user:*")
        await until(lambda: fenced(shards, PairPhase.FENCED), "the keys are fenced")
        await until(lambda: fenced(shards, PairPhase.COPYING), "the fence is lifted, since a session is silent")
        assert [record.value.id for record in await list_records(shards.store, SessionRecord, SESSIONS)] == ["silent"]
        await shards.store.commit([Delete(SESSIONS + "silent")])  # as the end of its lease does
        await shards.settled()
        assert (await shards.admin.migration(view.id)).status == "completed"
        await shards.assert_whole(PAIRS)


async def test_a_router_whose_target_is_slow_to_take_subscriptions_is_not_forced_off(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await joined(shards)
        deaf = SessionRecord("deaf", "test", (await shards.topology()).epoch + 1000, deaf=True)
        await session(shards, deaf)
        view = await shards.admin.migrate("external", "shard-1", "user:*")
        await until(lambda: fenced(shards, PairPhase.FENCED), "the keys are fenced")
        await until(lambda: fenced(shards, PairPhase.COPYING), "the fence is lifted, for it cannot hear yet")
        records = await list_records(shards.store, SessionRecord, SESSIONS)
        assert [record.value for record in records] == [deaf]
        await shards.store.commit([put_record(SESSIONS + "deaf", replace(deaf, deaf=False))])
        await shards.settled()
        assert (await shards.admin.migration(view.id)).status == "completed"
        await shards.store.commit([Delete(SESSIONS + "deaf")])
        await none_left(shards)


async def test_a_server_that_leaves_keeps_none_of_our_users(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await joined(shards)
        epoch = (await shards.topology()).epoch
        await session(shards, SessionRecord("late", "test", epoch + 1000))
        assert set(users_of("late")) <= await ours(shards)
        await shards.admin.remove_node("external")
        await shards.settled()
        await none_left(shards)


async def test_nor_one_that_is_away_while_it_leaves(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await joined(shards)
        epoch = (await shards.topology()).epoch
        await session(shards, SessionRecord("late", "test", epoch + 1000))
        await shards.admin.remove_node("external")

        async def empty() -> bool:
            return (await shards.topology()).node("external") is None

        await until(empty, "the server has left")
        shards.servers["external"].stop()
        await shards.settled()
        for coordinator in shards.coordinators:
            coordinator.cancel()
        shards.coordinate("next")
        shards.servers["external"].cont()
        await session(shards, SessionRecord("later", "test", epoch + 1000))
        await none_left(shards)


async def test_nor_one_that_is_not_taken_in(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await shards.fill({b"both": b"cluster's"})
        node = await shards.server("external", supervised=False)
        await shards.execute("external", "MSET", "both", "external's", "only", "there")
        await shards.admin.add_node("external", str(node.address), import_keys=True)
        await shards.settled()
        assert (await shards.topology()).node("external") is None
        await none_left(shards)
