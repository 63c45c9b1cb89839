"""Balance with real servers: loads collected, evened out unasked and at rest then, weights, draining, silence."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

import pytest
from tests.shards import Shards, running_shards
from tests.waiting import until

from helios.admin.views import BalanceView
from helios.errors import Refused
from helios.model.migration import Change, ChangeStatus
from helios.placement.routing import Routes
from helios.ports.records import CHANGES, HEALTH, LOAD, HealthRecord, LoadRecord, read_record

pytestmark = pytest.mark.processes

SKEWED = {"shard-1": 2400, "shard-2": 500, "shard-3": 100}


async def skewed(shards: Shards) -> dict[bytes, bytes]:
    """Keys of which each shard owns as many as in SKEWED, of 100 bytes each."""
    routes = Routes(await shards.topology())
    wanted = dict(SKEWED)
    pairs: dict[bytes, bytes] = {}
    for number in count():
        key = b"key:%d" % number
        owner = routes.owner(key)
        if wanted[owner]:
            wanted[owner] -= 1
            pairs[key] = b"x" * 100
        if not any(wanted.values()):
            return pairs
    raise AssertionError


async def collected(shards: Shards, times: int) -> LoadRecord:
    """The stats after so many collections from now on."""
    seen: set[float] = set()
    last: list[LoadRecord] = []

    async def enough() -> bool:
        record = await read_record(shards.store, LoadRecord, LOAD)
        if record is not None:
            seen.add(record.value.collected_at)
            last[:] = [record.value]
        return len(seen) > times

    await until(enough, f"{times} collections")
    return last[0]


async def ended(shards: Shards, change_id: str) -> Change:
    """The change, when it has ended."""
    found: list[Change] = []

    async def over() -> bool:
        record = await read_record(shards.store, Change, CHANGES + change_id)
        assert record is not None
        found[:] = [record.value]
        return record.value.status.ended

    await until(over, "the change ends")
    return found[0]


async def copied_at_once(shards: Shards, change_id: str) -> set[frozenset[tuple[str, str]]]:
    """The sets of pairs that were seen being copied at the same time, until the change has ended."""
    seen: set[frozenset[tuple[str, str]]] = set()

    async def over() -> bool:
        moves = [one for one in await shards.admin.migrations() if one.change == change_id]
        begun = [one for one in moves if one.phase == "copying" and one.keys_moved]
        seen.add(frozenset((one.source_node, one.target_node) for one in begun))
        return bool(moves) and all(one.end_time for one in moves)

    await until(over, "all pairs have moved")
    return seen


def deviations(view: BalanceView) -> dict[str, float]:
    return {node.id: node.deviation for node in view.nodes if node.deviation is not None}


async def test_a_skewed_cluster_evens_itself_out_and_then_rests(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 3, fsync="always") as shards:
        for name, value in (
            ("coordinator.collect_interval", "1s"),
            ("sharding.auto_rebalance", "true"),
            ("sharding.rebalance_rest", "0s"),
            ("sharding.migration_rate", "0"),
        ):
            await shards.admin.change_setting(name, value)
        pairs = await skewed(shards)
        await shards.fill(pairs)
        before = await shards.admin.balance()
        assert before.proposal.startswith("shard-1 carries 140.0% more keys than its share, where 30% is allowed")
        assert before.least * 0.999 <= before.moved <= before.least * 1.05
        assert sum(move.keys for move in before.moves) == pytest.approx(before.moved, rel=0.1)
        # From here on it looks every second, and nothing keeps it from moving but that nothing is to be gained.
        await shards.admin.change_setting("sharding.rebalance_interval", "1s")

        async def automatic() -> bool:
            return any(one.origin == "automatic" and one.status == "done" for one in await shards.admin.history())

        await until(automatic, "a rebalance that nobody has asked for")
        await shards.settled()
        done = [one for one in await shards.admin.history() if one.kind == "rebalance"]
        await collected(shards, 4)
        assert [one for one in await shards.admin.history() if one.kind == "rebalance"] == done
        assert done[-1].reason.startswith("shard-")
        after = await shards.admin.balance()
        assert max(map(abs, deviations(after).values())) <= 0.3
        assert after.proposal == "balanced, nothing to move"
        view = await shards.admin.rebalance()
        assert (view.status, view.message) == ("done", "balanced, nothing to move")
        # Asked for more, it does more, and says so once.
        change = await ended(shards, (await shards.admin.rebalance(strategy="uniform", by="bytes")).change)
        assert (change.status, change.outcome) == (ChangeStatus.DONE, "")
        assert (await shards.admin.rebalance(strategy="uniform", by="bytes")).message == "balanced, nothing to move"
        sizes = [stats.bytes for stats in (await collected(shards, 2)).shards]
        assert max(sizes) / (sum(sizes) / 3) <= 1.03
        # What has come since counts, however soon the next one is asked for.
        await shards.admin.change_setting("sharding.auto_rebalance", "false")
        assert (await shards.admin.rebalance(strategy="uniform", by="bytes")).message == "balanced, nothing to move"
        routes = Routes(await shards.topology())
        more = {key: b"x" * 100 for n in range(3000) if routes.owner(key := b"more:%d" % n) == "shard-2"}
        await shards.fill(more)
        change = await ended(shards, (await shards.admin.rebalance(strategy="uniform", by="bytes")).change)
        assert change.reason.startswith("shard-2 carries ")
        pairs |= more
        await shards.settled()
        await shards.assert_whole(pairs)


async def test_weights_change_and_nodes_are_drained_and_come_back(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 3, fsync="always") as shards:
        pairs = {b"k:%d" % number: b"v" for number in range(900)}
        await shards.fill(pairs)
        foreseen = await shards.admin.preview_reweight("shard-2", 3.0)
        assert {move.target_node for move in foreseen} == {"shard-2"}
        await ended(shards, (await shards.admin.reweight("shard-2", 3.0)).change)
        topology = await shards.topology()
        assert dict(topology.placement.weights) == {"shard-1": 1.0, "shard-2": 3.0, "shard-3": 1.0}
        nodes = {node.id: node for node in await shards.admin.list_nodes()}
        assert nodes["shard-2"].weight == 3.0
        assert nodes["shard-2"].ring_share == pytest.approx(0.6, abs=0.1)
        # No more pairs are copied at a time than is set, and slowly enough that more would be seen.
        await shards.admin.change_setting("sharding.max_concurrent_migrations", "1")
        await shards.admin.change_setting("sharding.migration_rate", "300")
        draining = (await shards.admin.drain("shard-2")).change
        copied = await copied_at_once(shards, draining)
        assert {len(pairs) for pairs in copied} == {0, 1}
        await shards.admin.change_setting("sharding.migration_rate", "0")
        assert (await ended(shards, draining)).status is ChangeStatus.DONE
        nodes = {node.id: node for node in await shards.admin.list_nodes()}
        assert (nodes["shard-2"].state, nodes["shard-2"].keys) == ("drained", 0)
        assert {move.source_node for move in await shards.admin.preview_undrain("shard-2")} <= {"shard-1", "shard-3"}
        with pytest.raises(Refused, match="shard-2 is drained: bring it back"):
            await shards.admin.migrate("shard-1", "shard-2")
        assert (await shards.admin.rebalance()).message == "balanced, nothing to move"
        await shards.settled()
        await shards.assert_whole(pairs)
        change = await ended(shards, (await shards.admin.undrain("shard-2")).change)
        assert change.status is ChangeStatus.DONE
        assert (await shards.topology()).placement.weights == topology.placement.weights
        await shards.settled()
        await shards.assert_whole(pairs)
        # A weight brings a drained node back, too.
        await ended(shards, (await shards.admin.drain("shard-3")).change)
        await ended(shards, (await shards.admin.reweight("shard-3", 1.0)).change)
        assert (await shards.topology()).placement.weights == topology.placement.weights
        await shards.settled()
        await shards.assert_whole(pairs)
        told = [(one.what, one.origin, one.status) for one in await shards.admin.history()]
        assert told[1:] == [
            ("reweight shard-2 3", "user", "done"),
            ("drain shard-2", "user", "done"),
            ("rebalance --by keys --strategy minimize_movement", "user", "done"),
            ("undrain shard-2", "user", "done"),
            ("drain shard-3", "user", "done"),
            ("reweight shard-3 1", "user", "done"),
        ]
        await shards.admin.cleanup_migrations()
        assert len(await shards.admin.history()) == 7, "what was done is remembered longer than its migrations"
        assert [one.what for one in await shards.admin.history(1)] == ["reweight shard-3 1"]


async def test_a_silent_server_is_suspect_then_offline_and_the_others_are_still_looked_at(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 3) as shards:
        for name, value in (("coordinator.collect_interval", "1s"), ("coordinator.health_timeout", "6s")):
            await shards.admin.change_setting(name, value)
        await shards.fill({b"k:%d" % number: b"v" * 50 for number in range(300)})
        await collected(shards, 2)
        seen: list[str] = []

        async def status(wanted: str) -> bool:
            record = await read_record(shards.store, HealthRecord, HEALTH)
            health = {one.node: one for one in record.value.nodes} if record is not None else {}
            now = health["shard-2"].status.value if "shard-2" in health else "unknown"
            seen.extend([now] * (not seen or seen[-1] != now))
            return now == wanted

        await until(lambda: status("online"), "it is online")
        os.kill(shards.servers["shard-2"].pid, signal.SIGSTOP)
        try:
            await until(lambda: status("offline"), "it is offline")
            assert seen == ["online", "suspect", "offline"]
            before = {node.id: node.measured_at or 0 for node in (await shards.admin.balance()).nodes}
            await collected(shards, 2)
            view = await shards.admin.balance()
            after = {node.id: node for node in view.nodes}
            assert after["shard-2"].measured_at == before["shard-2"]
            assert "did not answer" in after["shard-2"].error
            assert all((after[node].measured_at or 0) > before[node] for node in ("shard-1", "shard-3"))
            assert view.proposal.startswith("balanced, nothing to move; left as it is: shard-2 does not answer (")
            nodes = {node.id: node for node in await shards.admin.list_nodes()}
            assert nodes["shard-2"].measured_at == before["shard-2"]
            assert nodes["shard-2"].status == "offline"
            assert nodes["shard-2"].status_reason.startswith("its data server does not answer: ")
            assert (nodes["shard-2"].status_since or 0) <= (nodes["shard-1"].last_seen or 0)
            assert nodes["shard-2"].bytes is not None, "the last stats stay"
            # The others are evened out among themselves, and nothing is taken from or given to the silent one.
            routes = Routes(await shards.topology())
            more = [key for number in range(6000) if routes.owner(key := b"k:%d" % number) == "shard-1"]
            await shards.fill(dict.fromkeys(more, b"v" * 50))
            change = await ended(shards, (await shards.admin.rebalance(strategy="uniform")).change)
            assert change.status is ChangeStatus.DONE
            assert change.reason.startswith("shard-1 carries ")
            assert "; left as it is: shard-2 does not answer (" in change.reason
            moved = {(one.source_node, one.target_node) for one in await shards.admin.migrations()}
            assert moved == {("shard-1", "shard-3")}
        finally:
            os.kill(shards.servers["shard-2"].pid, signal.SIGCONT)
        await until(lambda: status("online"), "it is online again")
        assert " does not answer" not in (await shards.admin.balance()).proposal
        await shards.settled()
        assert (await shards.admin.check()).clean
