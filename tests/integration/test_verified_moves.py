"""Moves whose copies are compared before the switch, on real servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.shards import Shards, running_shards

from helios.engines.valkey.engine import ValkeyEngine
from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.engine import Dumped

pytestmark = pytest.mark.processes

PAIRS = {f"user:{n}".encode(): f"value {n}".encode() for n in range(2000)}


async def _leaving(shards: Shards) -> list[bytes]:
    routes = Routes(await shards.topology())
    return sorted(key for key in PAIRS if routes.owner(key) == "shard-1")


async def test_every_key_of_a_verified_move_is_compared(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        leaving = await _leaving(shards)
        await shards.execute("shard-1", "RPUSH", _free(await shards.topology()), *range(50_000))
        view = await shards.admin.migrate("shard-1", "shard-2", "*", verify=True)
        await shards.settled()
        ended = await shards.admin.migration(view.id)
        assert (ended.status, ended.verified, ended.keys_moved) == ("completed", len(leaving) + 1, len(leaving) + 1)
        assert (await shards.admin.check()).clean


async def test_without_being_asked_nothing_is_compared_unless_the_setting_says_so(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        leaving = await _leaving(shards)
        view = await shards.admin.migrate("shard-1", "shard-2", "*")
        await shards.settled()
        assert (await shards.admin.migration(view.id)).verified == 0
        await shards.admin.change_setting("sharding.verify_moves", "true")
        back = await shards.admin.migrate("shard-2", "shard-1", "*")
        await shards.settled()
        ended = await shards.admin.migration(back.id)
        assert (ended.status, ended.verified) == ("completed", len(leaving))
        await shards.assert_whole(PAIRS)


async def test_keys_that_are_written_meanwhile_are_copied_right(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        leaving = await _leaving(shards)
        hot = [*leaving[:25], *leaving[-25:]]
        await shards.admin.change_setting("sharding.migration_rate", "400")
        view = await shards.admin.migrate("shard-1", "shard-2", "*", verify=True)
        verified = turn = 0
        # Who writes past all routers would not notice a fence: so nothing is written when one may be near.
        while verified < len(leaving) // 4:
            turn += 1
            for key in hot:
                await shards.execute("shard-1", "SET", key, b"turn %d" % turn)
            verified = (await shards.admin.migration(view.id)).verified
        await shards.settled()
        ended = await shards.admin.migration(view.id)
        assert ended.status == "completed", ended.error
        assert ended.verified >= len(leaving) - len(hot)
        await shards.assert_whole(PAIRS | dict.fromkeys(hot, b"turn %d" % turn))


async def test_a_server_that_changes_copies_by_itself_stops_the_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(PAIRS)
        victim = (await _leaving(shards))[100]
        restore = ValkeyEngine.restore

        async def and_spoil(
            engine: ValkeyEngine, items: Sequence[tuple[bytes, Dumped]], *, replace: bool = True
        ) -> list[bool]:
            written = await restore(engine, items, replace=replace)
            if victim in dict(items) and engine.connection.endpoint.member == "shard-2.0":
                await engine.connection.execute("SET", victim, "spoiled")
            return written

        monkeypatch.setattr(ValkeyEngine, "restore", and_spoil)
        view = await shards.admin.migrate("shard-1", "shard-2", "*", verify=True)
        await shards.settled()
        ended = await shards.admin.migration(view.id)
        assert ended.status == "failed"
        assert f"the copy of {victim!r} on shard-2 differs" in str(ended.error)
        await shards.assert_whole(PAIRS)


def _free(topology: Topology) -> bytes:
    """A name that shard-1 owns and nobody uses."""
    routes = Routes(topology)
    return next(key for n in range(1000) if routes.owner(key := b"list:%d" % n) == "shard-1")
