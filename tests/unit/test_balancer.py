"""When the coordinator evens the cluster out unasked: a look each interval, none in quiet hours, complaints once."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

import pytest

from helios.coordinator.balancer import Balancer
from helios.coordinator.collector import Collector
from helios.coordinator.history import History
from helios.coordinator.publisher import Publisher
from helios.errors import Unavailable
from helios.model.ids import Address
from helios.model.migration import Change, Origin
from helios.model.sections import ShardingSettings
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, Placement, Topology
from helios.placement.change import with_weights
from helios.placement.load import Load, ShardLoad

THREE = ("shard-1", "shard-2", "shard-3")
TOPOLOGY = Topology(
    3,
    nodes=tuple(Node(shard, Address("localhost", 1)) for shard in THREE),
    placement=with_weights(Placement(), dict.fromkeys(THREE, 1.0)),
)


class Looks:
    """A coordinator's surroundings: each look is one hour later, and the loads are what `answers` says."""

    def __init__(self, answers: list[Load | Unavailable], **sharding: object) -> None:
        self.answers = answers
        self.looked = 0
        self.now_s = 0.0
        self.submitted: list[Change] = []
        self.done = asyncio.Event()
        self.settings = ClusterSettings(sharding=ShardingSettings.of({"auto_rebalance": True, **sharding}))

    def wall(self) -> float:
        return time.mktime((2026, 3, 2, 12, 0, 0, 0, 0, -1))

    def monotonic(self) -> float:
        self.now_s += 3600.0
        return self.now_s

    boottime = monotonic

    async def snapshot(self, _change: str) -> Load:
        await asyncio.sleep(0)
        if self.looked == len(self.answers):
            self.done.set()
            await asyncio.Event().wait()
        self.looked += 1
        answer = self.answers[self.looked - 1]
        if isinstance(answer, Unavailable):
            raise answer
        # As fresh as the coming look at the clock will find it.
        return Load(answer.shards, measured_at_s=self.now_s + 3600.0, silent=answer.silent)

    async def rested_s(self) -> dict[str, float]:
        return {}

    async def submit(self, change: Change) -> None:
        self.submitted.append(change)

    async def run(self) -> None:
        """Until all answers have been given."""
        publisher = cast(Publisher, SimpleNamespace(topology=TOPOLOGY))
        balancer = Balancer(publisher, cast(Collector, self), cast(History, self), self, lambda: self.settings)
        running = asyncio.create_task(balancer.run(self.submit))
        await asyncio.wait_for(self.done.wait(), 10)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def load_of(*keys: float) -> Load:
    return Load({shard: ShardLoad(count) for shard, count in zip(THREE, keys, strict=True)})


SKEWED, EVEN = load_of(9000, 1000, 1000), load_of(3000, 3000, 3000)


async def test_what_is_uneven_is_evened_out_and_what_is_even_is_left_alone() -> None:
    looks = Looks([EVEN, SKEWED, EVEN, EVEN])
    await looks.run()
    assert [change.origin for change in looks.submitted] == [Origin.AUTOMATIC]


async def test_nothing_is_begun_in_quiet_hours() -> None:
    quiet = Looks([SKEWED] * 5, quiet_hours="11:30-13:00")
    await quiet.run()
    assert quiet.submitted == []
    after = Looks([SKEWED] * 2, quiet_hours="13:00-11:30")
    await after.run()
    assert len(after.submitted) == 2


class TurnedOffMeanwhile(Looks):
    """Automatic rebalancing is turned off in the middle of the first look, and on again after it."""

    def monotonic(self) -> float:
        self.settings = ClusterSettings(sharding=ShardingSettings(auto_rebalance=True))
        return super().monotonic()

    boottime = monotonic

    async def rested_s(self) -> dict[str, float]:
        if self.looked == 1:
            self.settings = ClusterSettings(sharding=ShardingSettings(auto_rebalance=False))
        return {}


async def test_nothing_is_begun_that_was_turned_off_while_loads_were_measured() -> None:
    looks = TurnedOffMeanwhile([SKEWED, SKEWED])
    await looks.run()
    assert looks.looked == 2
    assert len(looks.submitted) == 1


async def test_what_stands_in_the_way_is_said_once_until_it_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    away = Unavailable("shard-4 joins, which needs every node, and shard-2 does not answer")
    looks = Looks([away, away, away, EVEN, away, SKEWED])
    await looks.run()
    assert [record.message for record in caplog.records if "not decided" in record.message] == [
        f"automatic rebalance not decided, and tried again each interval: {away}"
    ] * 2
    assert len(looks.submitted) == 1
