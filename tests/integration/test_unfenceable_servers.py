"""External servers that let nobody make users: no keys move to them, and what has left them does not come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.shards import Latch, Shards, running_shards
from tests.waiting import until

from helios.coordinator.access import FENCING_RIGHTS
from helios.errors import Refused
from helios.model.ids import Address
from helios.model.migration import MigrationStatus
from helios.model.topology import Member
from helios.ports.failpoints import Point

pytestmark = pytest.mark.processes

PAIRS = {f"user:{n}".encode(): f"value {n}".encode() for n in range(500)}
# Users can be made there at all, or be made and not be ended.
DENIED = ("-acl", "+acl -acl|deluser", "+acl -client|kill")


async def as_owner(shards: Shards, *command: str, node_id: str = "external") -> object:
    """A command to an external server, as whoever runs it."""
    address = Address("127.0.0.1", shards.servers[node_id].port)
    engine = await shards.connector.open(Member(f"{node_id}.0", node_id, address), user="owner", password="secret")
    try:
        return await engine.connection.execute(*command, timeout_s=10)
    finally:
        await engine.close()


async def external(shards: Shards, node_id: str = "external") -> str:
    """A plain server, and its address."""
    node = await shards.server(node_id, supervised=False)
    await shards.execute(node_id, "ACL", "SETUSER", "owner", "on", ">secret", "~*", "&*", "+@all")
    return str(node.address)


@pytest.mark.parametrize("rights", DENIED)
async def test_a_server_joins_when_it_allows_what_the_refusal_names(tmp_path: Path, rights: str) -> None:
    async with running_shards(tmp_path, 1, fsync="always") as shards:
        await shards.fill(PAIRS)
        address = await external(shards)
        await as_owner(shards, "ACL", "SETUSER", "default", *rights.split())
        for import_keys, flush in ((False, False), (True, False), (False, True)):
            await as_owner(shards, "SET", "own", "1")
            with pytest.raises(Refused, match="nobody can be forced off") as refused:
                await shards.admin.add_node("external", address, import_keys=import_keys, flush=flush)
            assert FENCING_RIGHTS in str(refused.value)
            assert await as_owner(shards, "DBSIZE") == 1
        await as_owner(shards, "FLUSHALL")
        await as_owner(shards, *FENCING_RIGHTS.split())
        await shards.admin.add_node("external", address)
        await shards.settled()
        assert await as_owner(shards, "DBSIZE") != 0
        await shards.assert_whole(PAIRS)


async def test_keys_leave_such_a_server_for_good(tmp_path: Path) -> None:
    latch = Latch()
    async with running_shards(tmp_path, 1, latch, fsync="always") as shards:
        await shards.admin.add_node("external", await external(shards))
        await shards.settled()
        await shards.fill(PAIRS)
        await as_owner(shards, "ACL", "SETUSER", "default", "-acl")

        view = await shards.admin.migrate("shard-1", "external", "*")
        await shards.settled()
        refused = await shards.admin.migration(view.id)
        assert refused.status == MigrationStatus.FAILED
        assert refused.error is not None
        assert FENCING_RIGHTS in refused.error
        await shards.assert_whole(PAIRS)

        latch.arm(Point.AFTER_SWITCH)
        view = await shards.admin.migrate("external", "shard-1", "*")
        await asyncio.wait_for(latch.reached.wait(), 20)
        with pytest.raises(Refused, match="nobody can be forced off"):
            await shards.admin.cancel_migration(view.id)
        latch.open()

        async def over() -> bool:
            return (await shards.admin.migration(view.id)).status == MigrationStatus.COMPLETED

        await until(over, "the keys leave")
        await shards.settled()
        assert await as_owner(shards, "DBSIZE") == 0
        await shards.assert_whole(PAIRS)


async def test_no_verb_brings_keys_to_such_a_server(tmp_path: Path) -> None:
    """A move by name, the import of another server and joining are told of above and below."""
    async with running_shards(tmp_path, 2, fsync="always") as shards:
        address = await external(shards)
        await shards.admin.add_node("external", address)
        await shards.settled()
        await shards.fill(PAIRS)
        await as_owner(shards, "ACL", "SETUSER", "default", "-acl")
        before = await shards.contents()
        verbs = {"drain": "shard-1", "remove_node": "shard-2"}
        for verb, node in verbs.items():
            change = await getattr(shards.admin, verb)(node)
            await shards.settled()
            ended = await shards.admin.change(change.change)
            assert ended.status == "failed"
            assert FENCING_RIGHTS in ended.message
            assert await shards.contents() == before
        other = await external(shards, "other")
        await as_owner(shards, "ACL", "SETUSER", "default", "-acl", node_id="other")
        with pytest.raises(Refused, match="nobody can be forced off"):
            await shards.admin.add_node("another", other, adopt=True)
        await shards.assert_whole(PAIRS)


async def test_nothing_is_imported_into_such_a_server(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1, fsync="always") as shards:
        await shards.admin.add_node("external", await external(shards))
        await shards.settled()
        await as_owner(shards, "ACL", "SETUSER", "default", "-acl")
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in PAIRS.items() for part in pair])
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await shards.settled()
        assert (await shards.topology()).node("legacy") is None
        assert (await shards.contents())["legacy"] == PAIRS
