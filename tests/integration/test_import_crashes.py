"""A coordinator that dies while it takes the keys of a joining server over: its successor goes on where it stood."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from tests.shards import Authenticator, eventually, running_shards

from helios.ports.failpoints import Point

OWN = {f"old:{n}".encode(): b"%d" % n for n in range(1000)}


async def test_what_clients_have_deleted_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    authenticator = Authenticator()
    async with running_shards(tmp_path, 2, authenticator, fsync="always") as shards:
        node = await shards.server("legacy", supervised=False)
        await shards.execute("legacy", "MSET", *[part for pair in OWN.items() for part in pair])
        authenticator.arm(Point.IMPORTING)
        await shards.admin.add_node("legacy", str(node.address), import_keys=True)
        await asyncio.wait_for(authenticator.reached.wait(), 20)
        [coordinator] = shards.coordinators
        coordinator.cancel()
        with suppress(asyncio.CancelledError):
            await coordinator

        # The keys are their owners' already, and clients use them.
        contents = await shards.contents()
        assert contents["legacy"] == contents["shard-1"] | contents["shard-2"] == OWN
        deleted = sorted(OWN)[:100]
        changed = dict.fromkeys(sorted(OWN)[100:200], b"newer")
        for shard in ("shard-1", "shard-2"):
            await shards.execute(shard, "DEL", *deleted)
        await shards.fill(changed)

        shards.coordinate("successor")

        async def joined() -> bool:
            return (await shards.topology()).node("legacy") is not None

        await eventually(joined, "the successor takes the node in")
        await shards.settled()
        await shards.assert_whole({key: value for key, value in (OWN | changed).items() if key not in deleted})
