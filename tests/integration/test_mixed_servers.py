"""Servers that cannot read each other's values: no move begins between them, and nothing is half done."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.memory_shards import memory_shards
from tests.shards import Shards, running_shards
from tests.waiting import until

from helios.engines.valkey.engine import ValkeyEngine
from helios.errors import Refused
from helios.resp.info import info_fields


async def test_a_move_to_an_older_server_fails_before_it_begins_and_names_both_versions() -> None:
    async with memory_shards(["new", "old"], new=9, old=7) as cluster:
        before = {name: sorted(server.keys()) for name, server in cluster.servers.items()}
        view = await cluster.admin.migrate("new", "old", "*")
        error = str(await cluster.ended(view.id))
        assert "old (memory 7) cannot read what new (memory 9) writes" in error
        assert (await cluster.admin.migration(view.id)).status == "failed"
        assert {name: sorted(server.keys()) for name, server in cluster.servers.items()} == before
        assert await cluster.admin.rules() == []


async def test_a_move_to_a_newer_server_goes_on() -> None:
    async with memory_shards(["new", "old"], new=9, old=7) as cluster:
        view = await cluster.admin.migrate("old", "new", "*")
        assert await cluster.ended(view.id) is None
        assert len(cluster.servers["new"].keys()) == 100


async def test_what_newer_servers_have_taken_over_cannot_be_called_back() -> None:
    async with memory_shards(["one", "two"], one=7, two=7, newer=9) as cluster:
        await cluster.admin.change_setting("sharding.auto_rebalance", "true")
        cluster.servers["two"].crash()
        await cluster.admin.add_node("newer", str(cluster.addresses["newer"]))

        async def half_done() -> bool:
            transition = (await cluster.topology()).transition
            return transition is not None and bool(transition.no_way_back)

        await until(half_done, "the keys of one have moved")
        [left] = [migration for migration in await cluster.admin.active_migrations() if migration.source_node == "two"]
        with pytest.raises(Refused, match=r"one \(memory 7\) cannot read what newer \(memory 9\) writes"):
            await cluster.admin.cancel_migration(left.id)
        cluster.servers["two"].restart()
        assert await cluster.ended(left.id) is None


async def test_a_node_whose_keys_nobody_can_read_stays() -> None:
    async with memory_shards(["new", "old"], new=9, old=7) as cluster:
        change = await cluster.admin.remove_node("new")

        async def failed() -> bool:
            return (await cluster.admin.change(change.change)).status == "failed"

        await until(failed, "the removal is given up")
        assert "cannot read" in (await cluster.admin.change(change.change)).message
        assert {node.id: node.state for node in await cluster.admin.list_nodes()} == {"new": "active", "old": "active"}


async def test_a_server_that_cannot_take_keys_is_not_let_in() -> None:
    async with memory_shards(["one"], one=8, older=7, newer=9) as cluster:
        with pytest.raises(Refused, match=r"older \(memory 7\) cannot read what one \(memory 8\) writes"):
            await cluster.admin.add_node("older", str(cluster.addresses["older"]))
        cluster.servers["newer"].set(b"brought", b"along")
        # Its own keys would have to move to a server that is older than it.
        with pytest.raises(Refused, match=r"one \(memory 8\) cannot read what newer \(memory 9\) writes"):
            await cluster.admin.add_node("newer", str(cluster.addresses["newer"]), import_keys=True)
        cluster.servers["newer"].flush()
        await cluster.admin.add_node("newer", str(cluster.addresses["newer"]))
        assert [node.id for node in await cluster.admin.list_nodes()] == ["newer", "one"]


async def test_a_server_that_is_away_is_asked_before_any_key_moves_there() -> None:
    async with memory_shards(["new", "old"], new=9, old=7) as cluster:
        cluster.servers["new"].crash()
        refused = await cluster.admin.migrate("old", "new", "*")
        assert "no key can move to new before its server has said what it allows" in str(
            await cluster.ended(refused.id)
        )
        cluster.servers["new"].restart()
        again = await cluster.admin.migrate("old", "new", "*")
        assert await cluster.ended(again.id) is None


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
    return f"valkey {info_fields(text)['valkey_version']}"


def _write_as_the_future(monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    """Let one server's sample look as if a much later version had written it."""
    sample = ValkeyEngine.sample_payload

    async def forged(engine: ValkeyEngine) -> bytes:
        payload = await sample(engine)
        # The footer: two bytes of version, eight of a checksum that is looked at later.
        return payload[:-10] + b"\xff\x7f" + payload[-8:] if engine.connection.endpoint.member == member else payload

    monkeypatch.setattr(ValkeyEngine, "sample_payload", forged)
