"""Servers that cannot read each other's values: no move begins between them, and nothing is half done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.shards import FAST, Shards, eventually, running_shards

from helios.admin.client import Admin
from helios.coordinator.service import Coordinator
from helios.engines.memory import MemoryConnector, MemoryServer
from helios.engines.valkey.engine import ValkeyEngine
from helios.errors import Refused
from helios.model.ids import Address
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, NodeKind, Topology
from helios.placement.routing import Routes
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore
from helios.stores.records import TOPOLOGY, read_record

BY_HAND = ClusterSettings(
    sharding=FAST.sharding.model_copy(update={"auto_rebalance": False}), coordinator=FAST.coordinator
)


class Mixed:
    """A cluster of plain servers in memory, each of some version."""

    def __init__(self, versions: dict[str, int]) -> None:
        self.clock = SystemClock()
        self.servers = {name: MemoryServer(name, wall=self.clock.wall, version=v) for name, v in versions.items()}
        self.addresses = {name: Address("memory", port) for port, name in enumerate(versions, 1)}
        connector = MemoryConnector({self.addresses[name]: server for name, server in self.servers.items()})
        self.store = MemoryStore()
        self.admin = Admin(self.store, connector, self.clock)
        self.coordinator = Coordinator(self.store, connector, self.clock, node_id="test", settings=BY_HAND)

    def node(self, name: str) -> Node:
        """The server as a node."""
        return Node(name, self.addresses[name], NodeKind.EXTERNAL)

    async def fill(self) -> None:
        """Some keys where they belong."""
        record = await read_record(self.store, Topology, TOPOLOGY)
        assert record is not None
        routes = Routes(record.value)
        for n in range(100):
            self.servers[routes.owner(b"%d" % n)].set(b"%d" % n, b"value")

    async def ended(self, migration: str) -> str | None:
        """The error of a migration, when it has ended."""

        async def over() -> bool:
            return (await self.admin.migration(migration)).end_time is not None

        await eventually(over, "the migration ends")
        return (await self.admin.migration(migration)).error


@asynccontextmanager
async def mixed(founders: list[str], **versions: int) -> AsyncIterator[Mixed]:
    """A cluster of `founders` with a coordinator; the other servers are there and not in it."""
    cluster = Mixed(versions)
    coordinating = asyncio.create_task(cluster.coordinator.run())
    try:
        await cluster.admin.found([cluster.node(name) for name in founders])
        await cluster.fill()
        yield cluster
    finally:
        coordinating.cancel()
        with suppress(asyncio.CancelledError):
            await coordinating
        await cluster.store.close()


async def test_a_move_to_an_older_server_fails_before_it_begins_and_names_both_versions() -> None:
    async with mixed(["new", "old"], new=9, old=7) as cluster:
        before = {name: sorted(server.keys()) for name, server in cluster.servers.items()}
        view = await cluster.admin.migrate("new", "old", "*")
        error = str(await cluster.ended(view.id))
        assert "old (memory 7) cannot read what new (memory 9) writes" in error
        assert (await cluster.admin.migration(view.id)).status == "failed"
        assert {name: sorted(server.keys()) for name, server in cluster.servers.items()} == before
        assert await cluster.admin.rules() == []


async def test_a_move_to_a_newer_server_goes_on() -> None:
    async with mixed(["new", "old"], new=9, old=7) as cluster:
        view = await cluster.admin.migrate("old", "new", "*")
        assert await cluster.ended(view.id) is None
        assert len(cluster.servers["new"].keys()) == 100


async def test_what_newer_servers_have_taken_over_cannot_be_called_back() -> None:
    async with mixed(["one", "two"], one=7, two=7, newer=9) as cluster:
        await cluster.admin.change_setting("sharding.auto_rebalance", "true")
        cluster.servers["two"].crash()
        await cluster.admin.add_node("newer", str(cluster.addresses["newer"]))

        async def half_done() -> bool:
            record = await read_record(cluster.store, Topology, TOPOLOGY)
            assert record is not None
            return record.value.transition is not None and bool(record.value.transition.no_way_back)

        await eventually(half_done, "the keys of one have moved")
        [left] = [migration for migration in await cluster.admin.active_migrations() if migration.source_node == "two"]
        with pytest.raises(Refused, match=r"one \(memory 7\) cannot read what newer \(memory 9\) writes"):
            await cluster.admin.cancel_migration(left.id)
        cluster.servers["two"].restart()
        assert await cluster.ended(left.id) is None


async def test_a_node_whose_keys_nobody_can_read_stays() -> None:
    async with mixed(["new", "old"], new=9, old=7) as cluster:
        change = await cluster.admin.remove_node("new")

        async def failed() -> bool:
            return (await cluster.admin.change(change.change)).status == "failed"

        await eventually(failed, "the removal is given up")
        assert "cannot read" in (await cluster.admin.change(change.change)).message
        assert {node.id: node.state for node in await cluster.admin.list_nodes()} == {"new": "active", "old": "active"}


async def test_a_server_that_cannot_take_keys_is_not_let_in() -> None:
    async with mixed(["one"], one=8, older=7, newer=9) as cluster:
        with pytest.raises(Refused, match=r"older \(memory 7\) cannot read what one \(memory 8\) writes"):
            await cluster.admin.add_node("older", str(cluster.addresses["older"]))
        cluster.servers["newer"].set(b"brought", b"along")
        # Its own keys would have to move to a server that is older than it.
        with pytest.raises(Refused, match=r"one \(memory 8\) cannot read what newer \(memory 9\) writes"):
            await cluster.admin.add_node("newer", str(cluster.addresses["newer"]), import_keys=True)
        cluster.servers["newer"].flush()
        await cluster.admin.add_node("newer", str(cluster.addresses["newer"]))
        assert [node.id for node in await cluster.admin.list_nodes()] == ["newer", "one"]


async def test_a_server_that_is_away_is_no_reason() -> None:
    async with mixed(["new", "old"], new=9, old=7) as cluster:
        cluster.servers["new"].crash()
        view = await cluster.admin.migrate("old", "new", "*")

        async def under_way() -> bool:
            return (await cluster.admin.migration(view.id)).status == "in_progress"

        await eventually(under_way, "the move begins")
        cluster.servers["new"].restart()
        assert await cluster.ended(view.id) is None


@pytest.mark.processes
async def test_payloads_of_a_later_version_are_found_out_by_real_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {b"user:%d" % n: b"value" for n in range(200)}
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(pairs)
        _write_as_the_future(monkeypatch, "shard-1.0")
        version = await _version(shards)
        view = await shards.admin.migrate("shard-1", "shard-2", "*")
        await shards.settled()
        ended = await shards.admin.migration(view.id)
        assert ended.status == "failed"
        assert f"shard-2 ({version}) cannot read what shard-1 ({version}) writes" in str(ended.error)
        back = await shards.admin.migrate("shard-2", "shard-1", "user:1*")
        await shards.settled()
        assert (await shards.admin.migration(back.id)).status == "completed"
        await shards.assert_whole(pairs)


async def _version(shards: Shards) -> str:
    text = await shards.execute("shard-1", "INFO", "server")
    assert isinstance(text, bytes)
    fields = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    return f"valkey {fields['valkey_version']}"


def _write_as_the_future(monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    """Let one server's sample look as if a much later version had written it."""
    sample = ValkeyEngine.sample_payload

    async def forged(engine: ValkeyEngine) -> bytes:
        payload = await sample(engine)
        # The footer: two bytes of version, eight of a checksum that is looked at later.
        return payload[:-10] + b"\xff\x7f" + payload[-8:] if engine.connection.endpoint.member == member else payload

    monkeypatch.setattr(ValkeyEngine, "sample_payload", forged)
