"""Transitions over real servers, without routers: what the coordinator does to the keys."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.shards import Latch, Shards, running_shards
from tests.waiting import until

from helios.coordinator import changes
from helios.engines.valkey.changes import TrackingStream
from helios.errors import InvalidInput, NotFound, Refused
from helios.placement.routing import Routes
from helios.ports.failpoints import Point

PAIRS = {f"user:{n}".encode(): f"value {n}".encode() for n in range(2000)} | {
    f"order:{n}".encode(): f"order {n}".encode() for n in range(2000)
}


async def test_a_node_that_joins_takes_its_share_and_gives_it_back(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 3) as shards:
        await shards.fill(PAIRS)
        await shards.assert_whole(PAIRS)
        node = await shards.server("shard-4")
        view = await shards.admin.add_node("shard-4", str(node.address))
        assert len(view.migrations) == 3
        await shards.settled()
        await shards.assert_whole(PAIRS)
        contents = await shards.contents()
        assert 0.15 < len(contents["shard-4"]) / len(PAIRS) < 0.35
        for migration_id in view.migrations:
            migration = await shards.admin.migration(migration_id)
            assert migration.status == "completed"
            assert migration.error is None
            assert migration.keys_moved == migration.total_keys > 0
            assert migration.pause_ms is not None

        await shards.admin.remove_node("shard-4")
        await shards.settled()
        assert [view.id for view in await shards.admin.list_nodes()] == ["shard-1", "shard-2", "shard-3"]
        await shards.assert_whole(PAIRS)
        assert (await shards.contents())["shard-4"] == {}


async def test_a_pattern_moves_and_the_way_back_leaves_no_rule(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        before = await shards.contents()
        moving = {key for key in before["shard-1"] if key.startswith(b"user:")}
        view = await shards.admin.migrate("shard-1", "shard-2", "user:*")
        assert (view.source_node, view.target_node, view.key_pattern) == ("shard-1", "shard-2", "user:*")
        await shards.settled()
        await shards.assert_whole(PAIRS)
        assert moving <= (await shards.contents())["shard-2"].keys()
        found = await shards.admin.node_for_key(next(iter(moving)))
        assert (found.node_id, found.decided_by, found.rule) == ("shard-2", "rule", "user:*")
        assert (await shards.admin.migration(view.id)).keys_moved == len(moving)

        await shards.admin.migrate("shard-2", "shard-1", "user:*")
        await shards.settled()
        assert (await shards.topology()).placement.rules == ()
        assert await shards.contents() == before


async def walks(shards: Shards, shard: str, pattern: bytes) -> int:
    """How often a server was asked for all keys of a pattern; some thousand keys come in one piece."""
    slow = await shards.execute(shard, "SLOWLOG", "GET", -1)
    assert isinstance(slow, list)
    return sum(entry[3][0] == b"SCAN" and pattern in entry[3] for entry in slow)


async def test_a_move_of_few_keys_walks_through_its_source_once(tmp_path: Path) -> None:
    latch = Latch()
    async with running_shards(tmp_path, 2, latch) as shards:
        await shards.fill(PAIRS)
        for shard in ("shard-1", "shard-2"):
            await shards.execute(shard, "CONFIG", "SET", "slowlog-log-slower-than", 0, "slowlog-max-len", 100_000)
        latch.arm(Point.CATCHING_UP)
        await shards.admin.migrate("shard-1", "shard-2", "user:*")
        await asyncio.wait_for(latch.reached.wait(), 10)
        # What comes and goes while keys move leaves the source, too.
        routes = Routes(await shards.topology())
        mine = [key for number in range(3000) if routes.owner(key := f"user:{number}".encode()) == "shard-1"]
        gone, new = mine[0], mine[-1]
        await shards.execute("shard-1", "DEL", gone)
        await shards.execute("shard-1", "SET", new, "new")
        latch.open()
        await shards.settled()
        await shards.assert_whole({key: value for key, value in PAIRS.items() if key != gone} | {new: b"new"})
        assert [await walks(shards, shard, b"user:*") for shard in ("shard-1", "shard-2")] == [1, 1]


async def test_types_and_times_to_live_move_exactly(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await shards.execute("shard-1", "RPUSH", "list", "a", "b", b"\x00\xff")
        await shards.execute("shard-1", "HSET", "hash", "f", "1", "g", "2")
        await shards.execute("shard-1", "ZADD", "sorted", "1.5", "x", "2", "y")
        await shards.execute("shard-1", "SADD", "set", "m", "n")
        await shards.execute("shard-1", "XADD", "stream", "5-1", "field", "value")
        await shards.execute("shard-1", "SET", "mortal", "v", "PXAT", 4102444800123)
        names = ["list", "hash", "sorted", "set", "stream", "mortal"]
        dumps = [await shards.execute("shard-1", "DUMP", name) for name in names]
        node = await shards.server("shard-2")
        await shards.admin.add_node("shard-2", str(node.address))
        await shards.settled()
        await shards.admin.migrate("shard-1", "shard-2")
        await shards.settled()
        assert await shards.execute("shard-1", "DBSIZE") == 0
        assert [await shards.execute("shard-2", "DUMP", name) for name in names] == dumps
        assert await shards.execute("shard-2", "PEXPIRETIME", "mortal") == 4102444800123


async def test_a_plain_server_is_taken_in(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        node = await shards.server("legacy", supervised=False)
        own = {f"old:{n}".encode(): b"%d" % n for n in range(500)}
        await shards.execute("legacy", "MSET", *[part for pair in own.items() for part in pair])
        with pytest.raises(Refused, match=r"holds 500 keys already.*--import.*--flush"):
            await shards.admin.add_node("legacy", str(node.address))
        with pytest.raises(Refused, match=r"holds 500 keys already.*--import.*--flush"):
            await shards.admin.preview_add_node("legacy", str(node.address))
        foreseen = await shards.admin.preview_add_node("legacy", str(node.address), import_keys=True)
        brought = {view.target_node: view.keys for view in foreseen if view.source_node == "legacy"}
        assert brought.keys() == {"shard-1", "shard-2"}
        assert sum(brought.values()) == 500
        assert len((await shards.topology()).nodes) == 2
        with pytest.raises(Refused, match=r"only the first node of a cluster is adopted"):
            await shards.admin.add_node("legacy", str(node.address), adopt=True)

        view = await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        assert view.status == "queued"
        await until(lambda: _has(shards, "legacy"), "the emptied server joins")
        await shards.settled()
        await shards.assert_whole(PAIRS | own)
        assert (await shards.contents())["legacy"] != {}


async def test_a_key_on_both_sides_stops_an_import_and_loses_nothing(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill({b"both": b"cluster's"})
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", "both", "legacy's", "only", "there")
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)

        async def moved() -> bool:
            return (await shards.contents())["legacy"] == {b"both": b"legacy's"}

        await until(moved, "the other key moves")
        await shards.settled()
        assert await _has(shards, "legacy") is False
        ended = await shards.admin.migrations()
        assert {(view.status, view.phase) for view in ended} == {("failed", "")}
        contents = await shards.contents()
        merged = contents["shard-1"] | contents["shard-2"]
        assert merged == {b"both": b"cluster's", b"only": b"there"}


async def test_flush_discards(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        await shards.fill(PAIRS)
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "SET", "gone", "soon")
        await shards.admin.add_node("legacy", str(node.address), flush=True)
        await shards.settled()
        await shards.assert_whole(PAIRS)


async def test_requests_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        with pytest.raises(Refused, match="last node"):
            await shards.admin.remove_node("shard-1")
        with pytest.raises(NotFound, match="no node 'nobody'"):
            await shards.admin.remove_node("nobody")
        with pytest.raises(InvalidInput, match="two different nodes"):
            await shards.admin.migrate("shard-1", "shard-1")
        with pytest.raises(Refused, match="is a node already"):
            await shards.admin.add_node("shard-1", f"127.0.0.1:{shards.servers['shard-1'].port}")
        with pytest.raises(NotFound, match="no migration"):
            await shards.admin.cancel_migration("nothing")


async def test_a_first_pass_outlasts_more_changes_than_a_stream_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_EVERY_S", 0.01)
    # Each of the three heaps of new keys below is some 28,000 bytes of names on its way to the coordinator.
    streams: list[TrackingStream] = []
    open_stream = partial(TrackingStream.open, max_bytes=60_000)

    async def opened(*arguments: Any, **options: Any) -> TrackingStream:
        streams.append(await open_stream(*arguments, **options))
        return streams[-1]

    async def taken() -> bool:
        return not any(stream._named for stream in streams)

    monkeypatch.setattr(TrackingStream, "open", opened)
    lost: list[str] = []
    monkeypatch.setattr(TrackingStream, "_break", lambda _, reason: lost.append(reason))
    latch = Latch()
    async with running_shards(tmp_path, 2, latch) as shards:
        await shards.fill(PAIRS)
        latch.arm(Point.COPYING)
        view = await shards.admin.migrate("shard-1", "shard-2", "order:*")
        for part in range(3):
            await asyncio.wait_for(latch.reached.wait(), 20)
            await shards.fill({b"user:new:%d:%d" % (part, n): b"" for n in range(500)})
            await until(taken, "the names are taken while the first pass stands still")
            latch.open()
            if part < 2:
                latch.arm(Point.COPYING)
        await shards.settled()
        assert (await shards.admin.migration(view.id)).status == "completed"
        assert lost == []


async def test_what_consumer_groups_did_during_a_copy_moves_too(tmp_path: Path) -> None:
    latch = Latch()
    async with running_shards(tmp_path, 2, latch) as shards:
        routes = Routes(await shards.topology())
        small, big, bare = [key for n in range(100) if routes.owner(key := b"jobs:%d" % n) == "shard-1"][:3]
        await shards.execute("shard-1", "XADD", bare, "1-1", "field", "value")
        for key, size in ((small, 1), (big, 300_000)):
            for entry in ("1-1", "2-1"):
                await shards.execute("shard-1", "XADD", key, entry, "field", b"v" * size)
            for group in ("workers", "gone"):
                await shards.execute("shard-1", "XGROUP", "CREATE", key, group, "0")
            await shards.execute("shard-1", "XREADGROUP", "GROUP", "workers", "w", "COUNT", 1, "STREAMS", key, ">")
        latch.arm(Point.CATCHING_UP)
        await shards.admin.migrate("shard-1", "shard-2", "*", verify=True)
        await asyncio.wait_for(latch.reached.wait(), 20)
        await shards.execute("shard-1", "XGROUP", "CREATE", bare, "late", "0")
        for key in (small, big):
            await shards.execute("shard-1", "XACK", key, "workers", "1-1")
            await shards.execute("shard-1", "XGROUP", "DESTROY", key, "gone")
            await shards.execute("shard-1", "XGROUP", "CREATE", key, "fresh", "$")
        latch.open()
        await shards.settled()
        for key in (small, big):
            groups = await shards.execute("shard-2", "XINFO", "GROUPS", key)
            assert isinstance(groups, list)
            assert {group[b"name"]: group[b"pending"] for group in groups} == {b"workers": 0, b"fresh": 0}
        groups = await shards.execute("shard-2", "XINFO", "GROUPS", bare)
        assert isinstance(groups, list)
        assert [group[b"name"] for group in groups] == [b"late"]


async def test_what_streams_know_beside_their_entries_moves_too(tmp_path: Path) -> None:
    """No change stream names XSETID, nor acknowledgements in a group, be the value big or small, full or empty."""
    latch = Latch()
    async with running_shards(tmp_path, 2, latch, fsync="always") as shards:
        routes = Routes(await shards.topology())
        small, big, pending = [key for n in range(100) if routes.owner(key := b"s:%d" % n) == "shard-1"][:3]
        await shards.execute("shard-1", "XADD", small, "1-1", "field", "value")
        await shards.execute("shard-1", "XADD", big, "1-1", "field", b"v" * 300_000)
        # Nothing is left of it but what was delivered and not acknowledged, which makes it big.
        fill = "for n = 1, 6000 do redis.call('XADD', KEYS[1], n .. '-1', 'field', 'value') end"
        await shards.execute("shard-1", "EVAL", fill, 1, pending)
        await shards.execute("shard-1", "XGROUP", "CREATE", pending, "g", "0")
        await shards.execute("shard-1", "XREADGROUP", "GROUP", "g", "c", "COUNT", 6000, "STREAMS", pending, ">")
        await shards.execute("shard-1", "XTRIM", pending, "MAXLEN", 0)
        latch.arm(Point.CATCHING_UP)
        await shards.admin.migrate("shard-1", "shard-2", "*")
        await asyncio.wait_for(latch.reached.wait(), 20)
        for key in (small, big):
            await shards.execute("shard-1", "XSETID", key, "100-0", "ENTRIESADDED", 7, "MAXDELETEDID", "50-0")
        for start in range(1, 5001, 500):
            entries = [f"{n}-1" for n in range(start, start + 500)]
            await shards.execute("shard-1", "XACK", pending, "g", *entries)
        before = {key: await shards.execute("shard-1", "XINFO", "STREAM", key) for key in (small, big, pending)}
        latch.open()
        await shards.settled()
        for key, said in before.items():
            after = await shards.execute("shard-2", "XINFO", "STREAM", key)
            assert isinstance(after, dict)
            assert isinstance(said, dict)
            names = (b"last-generated-id", b"entries-added", b"max-deleted-entry-id", b"length", b"groups")
            assert [after[name] for name in names] == [said[name] for name in names], key
        summary = await shards.execute("shard-2", "XPENDING", pending, "g")
        assert isinstance(summary, list)
        assert summary[0] == 1000


async def _has(shards: Shards, node_id: str) -> bool:
    return (await shards.topology()).node(node_id) is not None
