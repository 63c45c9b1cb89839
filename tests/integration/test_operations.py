"""What operators ask for beside moving keys: checks, repairs, rules, settings, previews and pauses."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.shards import FAST, Shards, running_shards
from tests.waiting import until

from helios.errors import InvalidInput, NotFound, Refused
from helios.model.sections import ShardingSettings
from helios.model.settings import ClusterSettings
from helios.placement.routing import Routes
from helios.ports.records import SETTINGS, put_record

PAIRS = {f"user:{n}".encode(): f"value {n}".encode() for n in range(1000)}


async def test_a_check_names_strays_and_repair_mends_what_is_safe(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        assert (await shards.admin.check()).clean
        routes = Routes(await shards.topology())
        mine = [key for key in PAIRS if routes.owner(key) == "shard-1"]
        await shards.execute("shard-2", "SET", mine[0], "a stale copy")
        lost, big, listed = [key for n in range(100) if routes.owner(key := b"lost:%d" % n) == "shard-1"][:3]
        await shards.execute("shard-2", "SET", lost, "nobody else has it", "PXAT", 2_000_000_000_000)
        await shards.execute("shard-2", "SET", big, "x" * 1_000_000)
        await shards.execute("shard-2", "RPUSH", listed, "a", "b")
        await shards.execute("shard-1", "ACL", "SETUSER", "helios-s-nobody")

        found = await shards.admin.check()
        kinds = {(finding.kind, finding.node, finding.count) for finding in found.findings}
        # The coordinator's own rounds may have ended the orphaned user by now.
        assert kinds - {("orphaned_user", "shard-1", 1)} == {("double", "shard-2", 1), ("stray", "shard-2", 3)}
        assert mine[0].decode() in str(found.findings)

        mended = await shards.admin.check(repair=True)
        assert mended.repaired == "1 stale copies deleted; 3 stray keys moved to their owners"
        assert [finding.kind for finding in mended.findings if finding.kind != "orphaned_user"] == []
        assert await shards.execute("shard-1", "GET", lost) == b"nobody else has it"
        assert await shards.execute("shard-1", "PEXPIRETIME", lost) == 2_000_000_000_000
        assert await shards.execute("shard-1", "STRLEN", big) == 1_000_000
        assert await shards.execute("shard-1", "LLEN", listed) == 2
        assert await shards.execute("shard-1", "GET", mine[0]) == PAIRS[mine[0]]
        assert await shards.execute("shard-2", "EXISTS", lost, big, listed, mine[0]) == 0

        async def clean() -> bool:
            return (await shards.admin.check()).clean

        await until(clean, "orphaned users are ended by themselves")


async def test_a_pattern_is_collected_from_every_node_and_stays_together(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 3) as shards:
        await shards.fill(PAIRS)
        before = await shards.contents()
        users = {key for key in PAIRS if key.startswith(b"user:")}
        view = await shards.admin.migrate("*", "shard-3", "user:*")
        assert (view.target_node, view.key_pattern) == ("shard-3", "user:*")
        await shards.settled()
        moves = [move for move in await shards.admin.migrations() if move.change == view.change]
        assert {move.source_node for move in moves} == {"shard-1", "shard-2"}
        assert sum(move.keys_moved for move in moves) == len(users - before["shard-3"].keys())
        await shards.assert_whole(PAIRS)
        assert users <= (await shards.contents())["shard-3"].keys()
        (rule,) = await shards.admin.rules()
        assert (rule.source, rule.target, rule.patterns) == ("*", "shard-3", ("user:*",))

        again = await shards.admin.migrate("*", "shard-3", "user:*")
        await shards.settled()
        ended = await shards.admin.migration(again.id)
        assert (ended.source_node, ended.status, ended.keys_moved) == ("*", "cancelled", 0)

        await shards.admin.add_node("shard-4", str((await shards.server("shard-4")).address))
        await shards.settled()
        assert users <= (await shards.contents())["shard-3"].keys()

        await shards.admin.migrate("shard-3", "*", "user:*")
        await shards.settled()
        assert await shards.admin.rules() == []
        await shards.assert_whole(PAIRS)


async def test_rules_are_listed_and_go_with_their_target(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 3) as shards:
        await shards.fill(PAIRS)
        await shards.admin.migrate("shard-1", "shard-3", "user:1*")
        await shards.settled()
        (rule,) = await shards.admin.rules()
        assert (rule.source, rule.target, rule.patterns) == ("shard-1", "shard-3", ("user:1*",))
        await shards.admin.remove_node("shard-3")
        await shards.settled()
        assert await shards.admin.rules() == []
        await shards.assert_whole(PAIRS)


async def test_a_pattern_that_matches_nothing_completes(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        view = await shards.admin.migrate("shard-1", "shard-2", "nothing:*")
        await shards.settled()
        migration = await shards.admin.migration(view.id)
        assert (migration.status, migration.keys_moved, migration.total_keys) == ("completed", 0, 0)


async def test_a_preview_moves_nothing_and_comes_true(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        before = await shards.contents()
        (foreseen,) = await shards.admin.preview_migrate("shard-1", "shard-2", "user:*")
        assert (foreseen.source_node, foreseen.target_node) == ("shard-1", "shard-2")
        assert foreseen.keys == len(before["shard-1"])
        assert foreseen.bytes > 0
        joining = await shards.admin.preview_add_node("shard-3", "localhost:1")
        assert {view.target_node for view in joining} == {"shard-3"}
        leaving = await shards.admin.preview_remove_node("shard-1")
        assert [(view.target_node, view.keys) for view in leaving] == [("shard-2", len(before["shard-1"]))]
        with pytest.raises(Refused, match="a node already"):
            await shards.admin.preview_add_node("shard-1", "localhost:1")
        assert await shards.contents() == before
        assert await shards.admin.migrations() == []


async def test_settings_change_for_all_and_say_what_they_may_be(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 1) as shards:
        changed = await shards.admin.change_setting("sharding.migration_rate", "123")
        assert changed.value == "123"
        assert {view.name: view.value for view in await shards.admin.settings()}["sharding.migration_rate"] == "123"
        with pytest.raises(InvalidInput, match="must be a whole number"):
            await shards.admin.change_setting("sharding.migration_rate", "fast")
        with pytest.raises(NotFound, match="is not a setting that can be changed here"):
            await shards.admin.change_setting("sharding.speed", "1")
        with pytest.raises(Refused, match="fixed once a cluster exists"):
            await shards.admin.change_setting("sharding.virtual_nodes", "10")


async def _slow(shards: Shards) -> None:
    slow = ClusterSettings(
        sharding=ShardingSettings(migration_rate=100, auto_rebalance=True), coordinator=FAST.coordinator
    )
    await shards.store.commit([put_record(SETTINGS, slow)])


async def test_a_move_pauses_and_goes_on_and_takes_a_new_rate_at_once(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        await _slow(shards)
        view = await shards.admin.migrate("shard-1", "shard-2", "*")

        async def begun() -> bool:
            return (await shards.admin.migration(view.id)).keys_moved > 0

        await until(begun, "the first keys are copied")
        await shards.admin.pause_migration(view.id)

        async def paused() -> bool:
            return (await shards.admin.migration(view.id)).paused

        await until(paused, "the migration says that it is paused")
        # At full speed it would be over in a moment; paused it stays where it is.
        await shards.admin.change_setting("sharding.migration_rate", "0")
        before = (await shards.admin.migration(view.id)).keys_moved
        with pytest.raises(AssertionError, match="a paused migration ends"):
            await until(lambda: _ended(shards, view.id), "a paused migration ends", limit_s=1.5)
        assert (await shards.admin.migration(view.id)).keys_moved - before <= FAST.coordinator.copy_batch
        await shards.admin.resume_migration(view.id)
        await shards.settled()
        assert (await shards.admin.migration(view.id)).status == "completed"
        await shards.assert_whole(PAIRS)


async def test_a_cancelled_move_leaves_everything_where_it_was(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        before = await shards.contents()
        await _slow(shards)
        first = await shards.admin.migrate("shard-1", "shard-2", "user:*")
        second = await shards.admin.migrate("shard-2", "shard-1", "user:9*")
        assert second.status == "pending"
        assert (await shards.admin.cancel_migration(second.id)).status == "cancelled"
        assert (await shards.admin.cancel_migration(first.id)).status == "cancelled"
        await shards.settled()
        assert await shards.contents() == before
        assert await shards.admin.rules() == []
        with pytest.raises(Refused, match="is cancelled already"):
            await shards.admin.cancel_migration(first.id)


async def _ended(shards: Shards, migration_id: str) -> bool:
    return (await shards.admin.migration(migration_id)).status != "in_progress"
