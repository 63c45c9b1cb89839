"""Every process killed or frozen at every point of a move: no write is lost, no key is served twice, the move ends."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from _pytest.mark.structures import ParameterSet
from tests.cluster import Cluster
from tests.cluster_store import ON_ETCD
from tests.crashes import FILL, Load, Scene, Victim, crash_cluster
from tests.reckoning import answer, assert_checked, assert_no_users_left, verb
from tests.waiting import until

from helios.model.migration import MigrationStatus
from helios.ports.failpoints import Point
from helios.runtime.failpoints import FileFailpoints

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

HOW = (signal.SIGKILL, signal.SIGSTOP)
POINTS = [point for point in Point if point not in (Point.IMPORT_COPIED, Point.IMPORTING, Point.COMMITTING)]


def cells() -> list[ParameterSet]:
    """The whole matrix. A third of it, with every point and every victim in it, belongs to every test run."""
    found = []
    for (row, point), (column, victim) in itertools.product(enumerate(POINTS), enumerate(Victim)):
        for turn, how in enumerate(HOW):
            often = (row + column + turn) % 3 == 0
            name = f"{point}-{victim}-{how.name.lower()}"
            found.append(pytest.param(point, victim, how, id=name, marks=[] if often else [pytest.mark.crashes]))
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, FileFailpoints]]:
    with crash_cluster(tmp_path_factory.mktemp("crashes")) as running:
        yield running


@pytest.mark.parametrize(("point", "victim", "how"), cells())
async def test_a_crash_does_no_harm(
    lab: tuple[Cluster, FileFailpoints], point: Point, victim: Victim, how: signal.Signals
) -> None:
    cluster, points = lab
    async with Scene.at(cluster, points) as scene:
        async with Load(cluster, seed=1).running() as load:
            migration = await scene.stopped_at(point)
            deleting = asyncio.create_task(scene.delete_doomed())
            await scene.hit(victim, how)
            await scene.at_rest()
            await deleting
            await load.served()
        await scene.check(load)
        ended = await scene.migration(migration)
        assert ended.status is MigrationStatus.COMPLETED or (ended.status is MigrationStatus.FAILED and ended.error)


# What a coordinator that wakes up too late could do wrong differs most at these points.
OFTEN = (Point.ACKNOWLEDGED, Point.BEFORE_SWITCH, Point.SWEEPING)


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[] if point in OFTEN else [pytest.mark.crashes]) for point in POINTS]
)
async def test_a_coordinator_that_wakes_up_late_can_do_nothing(
    lab: tuple[Cluster, FileFailpoints], point: Point
) -> None:
    cluster, points = lab
    async with Scene.at(cluster, points) as scene:
        load = Load(cluster, seed=2)
        async with load.running():
            await scene.stopped_at(point)
            zombie = await scene.coordinator()
            assert zombie is not None
            ended_before = scene.terms_ended(zombie.node)
            process = await scene.process(Victim.COORDINATOR)
            await scene.freeze(process)
            try:
                scene.go_on()
                await scene.succeeded(zombie.term)
                await scene.at_rest()
                # The keys go back and change: what the zombie copied is old, what it would delete is alive.
                await scene.migrate(back=True)
                await scene.at_rest()
                await scene.delete_doomed()
            finally:
                process.send(signal.SIGCONT)

            async def noticed() -> bool:
                return scene.terms_ended(zombie.node) > ended_before

            await until(noticed, "the zombie notices that it has been replaced")
            await load.served()
        await scene.at_rest()
        await scene.check(load)


@pytest.mark.parametrize(
    ("point", "victim"), [(Point.COPYING, Victim.TARGET), (Point.SWEEPING, Victim.SOURCE)], ids=["copying", "sweeping"]
)
async def test_what_a_dead_coordinator_left_in_a_frozen_server_does_no_harm(
    lab: tuple[Cluster, FileFailpoints], point: Point, victim: Victim
) -> None:
    cluster, points = lab
    async with Scene.at(cluster, points) as scene:
        load = Load(cluster, seed=3)
        async with load.running():
            await scene.stopped_at(point)
            leader, server = await scene.coordinator(), await scene.process(victim)
            assert leader is not None
            deleting = asyncio.create_task(scene.delete_doomed())
            server.send(signal.SIGSTOP)
            try:
                # What it sends from now on lies in the server's buffers and runs when nobody expects it any more.
                scene.go_on()
                await asyncio.sleep(0.2)  # Time for it to send some; if it sends none, there is less to survive.
                (await scene.process(Victim.COORDINATOR)).send(signal.SIGKILL)
                await scene.succeeded(leader.term)
            finally:
                server.send(signal.SIGCONT)
            await scene.at_rest()
            await deleting
            await load.served()
        await scene.check(load)


@pytest.mark.parametrize(
    ("point", "victim"), [(Point.FENCED, Victim.SOURCE), (Point.ACKNOWLEDGED, Victim.TARGET)], ids=["source", "target"]
)
async def test_a_fence_does_not_wait_for_a_frozen_server(
    lab: tuple[Cluster, FileFailpoints], point: Point, victim: Victim
) -> None:
    cluster, points = lab
    async with Scene.at(cluster, points) as scene:
        load = Load(cluster, seed=4)
        async with load.running():
            migration = await scene.stopped_at(point)
            server = await scene.process(victim)
            server.send(signal.SIGSTOP)
            try:
                scene.go_on()
                await until(scene.unfenced, "the fence is lifted")
                if victim is Victim.TARGET:
                    # The keys are still the source's, which serves them.
                    assert await answer(cluster, "GET", scene.moving) == FILL[scene.moving].encode()
            finally:
                server.send(signal.SIGCONT)
            await scene.delete_doomed()
            await scene.at_rest()
            await load.served()
        await scene.check(load)
        assert (await scene.migration(migration)).status is MigrationStatus.COMPLETED


@pytest.mark.skipif(ON_ETCD, reason="nobody holds a lock of etcd")
async def test_a_store_that_nobody_can_write_stops_the_service_and_nothing_else(
    lab: tuple[Cluster, FileFailpoints],
) -> None:
    """As when a process is frozen in the middle of a commit: SQLite's lock stays with it."""
    cluster, points = lab
    async with Scene.at(cluster, points) as scene:
        load = Load(cluster, seed=5)
        async with load.running():
            await scene.stopped_at(Point.FENCED)
            with closing(sqlite3.connect(cluster.data.store, isolation_level=None)) as frozen:
                frozen.execute("BEGIN IMMEDIATE")
                scene.go_on()

                async def refused() -> bool:
                    reply = await verb(cluster, "GET", "order:1")
                    return isinstance(reply, Exception) and str(reply).startswith("CLUSTERDOWN")

                await until(refused, "routers whose leases run out serve nothing")
            await scene.delete_doomed()
            await scene.at_rest()
            await load.served()
        await scene.check(load)


async def test_nobody_is_left_behind(lab: tuple[Cluster, FileFailpoints]) -> None:
    await assert_no_users_left(lab[0])
    await assert_checked(lab[0])
