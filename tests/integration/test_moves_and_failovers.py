"""The leader of a move's source or target dies or freezes at every point of the move: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator

import pytest
from _pytest.mark.structures import ParameterSet
from tests.cluster import Cluster
from tests.crashes import Load, Scene, Victim, crash_cluster
from tests.replicated_cluster import in_sync
from tests.shards import topology_in
from tests.waiting import until

from helios.model.migration import MigrationStatus
from helios.ports.failpoints import Point
from helios.runtime.failpoints import FileFailpoints

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

POINTS = [point for point in Point if point not in (Point.IMPORT_COPIED, Point.IMPORTING, Point.COMMITTING)]
ENVIRONMENT = {"HELIOS_REPLICATION__READS": "linearizable", "HELIOS_REPLICATION__FAILOVER_TIMEOUT": "2"}
LONG_S = 120.0


def cells() -> list[ParameterSet]:
    """Every point with every victim. A quarter, with each victim in it, belongs to every test run."""
    found = []
    for (row, point), (column, victim) in itertools.product(
        enumerate(POINTS), enumerate((Victim.SOURCE, Victim.TARGET))
    ):
        for turn, how in enumerate((signal.SIGKILL, signal.SIGSTOP)):
            often = (row + column + turn) % 4 == 0
            name = f"{point}-{victim}-{how.name.lower()}"
            found.append(pytest.param(point, victim, how, id=name, marks=[] if often else [pytest.mark.crashes]))
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, FileFailpoints]]:
    flags = ["--replication-factor", "3"]
    with crash_cluster(tmp_path_factory.mktemp("moves"), env=ENVIRONMENT, flags=flags) as running:
        yield running


async def complete(scene: Scene) -> None:
    """Return when every shard has three members in sync and no other servers."""

    async def so() -> bool:
        shards = (await topology_in(scene.store)).shards
        whole = all(len(shard.members) == len(shard.servers) == 3 for shard in shards)
        return whole and await asyncio.to_thread(in_sync, scene.cluster)

    await until(so, "every shard has its members", limit_s=LONG_S)


@pytest.mark.parametrize(("point", "victim", "how"), cells())
async def test_a_failover_in_a_move_does_no_harm(
    lab: tuple[Cluster, FileFailpoints], point: Point, victim: Victim, how: signal.Signals
) -> None:
    cluster, points = lab
    async with Scene.at(cluster, points) as scene:
        await complete(scene)
        async with Load(cluster, seed=1).running() as load:
            migration = await scene.stopped_at(point)
            shard = scene.source if victim is Victim.SOURCE else scene.target
            before = (await topology_in(scene.store)).shard(shard)
            assert before is not None
            deleting = asyncio.create_task(scene.delete_doomed())
            process = await scene.process(victim)
            process.send(how)
            scene.go_on()

            async def led_by_another() -> bool:
                now = (await topology_in(scene.store)).shard(shard)
                return now is not None and now.lineage[:1] != before.lineage[:1]

            try:
                await until(led_by_another, "the shard has another leader", limit_s=LONG_S)
            finally:
                process.send(signal.SIGCONT)
            await scene.at_rest()
            await deleting
            await load.served()
        await complete(scene)
        await scene.check(load)
        assert (await scene.migration(migration)).status is MigrationStatus.COMPLETED
