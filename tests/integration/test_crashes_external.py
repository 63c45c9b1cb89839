"""The same crashes where a server takes part that Helios does not supervise, and where one joins with its own keys."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Iterator

import pytest
from _pytest.mark.structures import ParameterSet
from tests.cluster import Cluster, ask
from tests.crashes import EXTERNAL, FILL, Load, Scene, Victim, crash_cluster
from tests.reckoning import answer, assert_checked, assert_each_key_once, assert_no_users_left
from tests.servers import Server, start_valkey
from tests.shards import topology_in
from tests.waiting import until

from helios.model.migration import MigrationStatus
from helios.ports.failpoints import Point
from helios.runtime.failpoints import FileFailpoints

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

Lab = tuple[Cluster, FileFailpoints, Server]
HOW = (signal.SIGKILL, signal.SIGSTOP)
IMPORTS = (Point.IMPORT_COPIED, Point.IMPORTING)
POINTS = [point for point in Point if point not in (*IMPORTS, Point.COMMITTING)]
VICTIMS = (Victim.COORDINATOR, Victim.ROUTER)
OWN = {f"old:{number}": str(number) for number in range(1000)}


def cells() -> list[ParameterSet]:
    """Moves to the external server and from it; one in seven belongs to every test run."""
    found = []
    for number, (point, victim, how, back) in enumerate(itertools.product(POINTS, VICTIMS, HOW, (False, True))):
        name = f"{point}-{victim}-{how.name.lower()}-{'from' if back else 'to'}"
        marks = [] if number % 7 == 0 else [pytest.mark.crashes]
        found.append(pytest.param(point, victim, how, back, id=name, marks=marks))
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("external")
    (folder / "cluster").mkdir()
    with (
        start_valkey(folder / EXTERNAL, config={"appendfsync": "always"}) as external,
        crash_cluster(folder / "cluster", 2) as (cluster, points),
    ):
        cluster.externals[EXTERNAL] = external.port
        assert (
            cluster.member_command(EXTERNAL, "ACL", "SETUSER", "owner", "on", ">secret", "~*", "&*", "+@all") == b"OK"
        )
        added = cluster.command("ADDNODE", EXTERNAL, f"localhost:{external.port}")
        assert isinstance(added, list)
        assert b"done" in added
        yield cluster, points, external


@pytest.mark.parametrize(("point", "victim", "how", "back"), cells())
async def test_a_crash_does_no_harm(lab: Lab, point: Point, victim: Victim, how: signal.Signals, back: bool) -> None:
    cluster, points, external = lab
    async with Scene.at(cluster, points, external) as scene:
        async with Load(cluster, seed=1).running() as load:
            if back:
                await scene.migrate()
                await scene.at_rest()
            points.arm(point)
            migration = await scene.migrate(back=back)
            await scene.reached(point)
            deleting = asyncio.create_task(scene.delete_doomed())
            await scene.hit(victim, how)
            await scene.at_rest()
            await deleting
            await load.served()
        await scene.check(load)
        ended = await scene.migration(migration)
        assert ended.status is MigrationStatus.COMPLETED or (ended.status is MigrationStatus.FAILED and ended.error)
        if not back:  # so that every move has keys
            await scene.migrate(back=True)
            await scene.at_rest()


@pytest.mark.parametrize("how", HOW, ids=["sigkill", "sigstop"])
@pytest.mark.parametrize("point", IMPORTS)
async def test_what_clients_take_from_an_import_stays_taken(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory, point: Point, how: signal.Signals
) -> None:
    cluster, points, external = lab
    with start_valkey(tmp_path_factory.mktemp("legacy"), config={"appendfsync": "always"}) as legacy:
        async with Scene.at(cluster, points, external) as scene:
            cluster.externals["legacy"] = legacy.port
            pairs = itertools.chain.from_iterable(OWN.items())
            assert await asyncio.to_thread(cluster.member_command, "legacy", "MSET", *pairs) == b"OK"
            points.arm(point)
            adding = asyncio.create_task(answer(cluster, "ADDNODE", "legacy", f"localhost:{legacy.port}", "IMPORT"))
            await scene.reached(point)
            taken = sorted(OWN)[:100]
            for key in taken:
                assert await answer(cluster, "GETDEL", key) == OWN[key].encode()
            await scene.hit(Victim.COORDINATOR, how)
            await asyncio.wait([adding])

            async def joined() -> bool:
                return (await topology_in(scene.store)).node("legacy") is not None

            await until(joined, "the successor takes the server in")
            await scene.at_rest()
            left = {key: value for key, value in OWN.items() if key not in taken}
            assert await answer(cluster, "EXISTS", *taken) == 0
            assert await answer(cluster, "MGET", *left) == [value.encode() for value in left.values()]
            await assert_each_key_once(cluster)
            await answer(cluster, "REMOVENODE", "legacy")
            await scene.at_rest()


async def test_a_mover_that_wakes_up_late_changes_nothing_though_its_source_knows_no_users(lab: Lab) -> None:
    cluster, points, external = lab
    async with Scene.at(cluster, points, external) as scene:
        await scene.migrate()
        await scene.at_rest()
        await as_owner(cluster, "ACL", "SETUSER", "default", "-acl")
        try:
            points.arm(Point.COPYING)
            migration = await scene.migrate(back=True)
            await scene.reached(Point.COPYING)
            first = await scene.coordinator()
            assert first is not None
            ended = scene.terms_ended(first.node)
            process = await scene.process(Victim.COORDINATOR)
            await scene.freeze(process)
            try:
                scene.go_on()
                await scene.succeeded(first.term)
                await scene.at_rest()
                assert (await scene.migration(migration)).status is MigrationStatus.COMPLETED
                written, deleted = sorted(FILL)[:50], sorted(FILL)[50:100]
                await answer(cluster, "MSET", *itertools.chain.from_iterable((key, "new") for key in written))
                await answer(cluster, "DEL", *deleted)
            finally:
                process.send(signal.SIGCONT)

            async def woken() -> bool:
                return scene.terms_ended(first.node) > ended

            await until(woken, "the first coordinator learns that its term is over")
            assert await answer(cluster, "MGET", *written) == [b"new"] * len(written)
            assert await answer(cluster, "EXISTS", *deleted) == 0
            await assert_each_key_once(cluster)
        finally:
            await as_owner(cluster, "ACL", "SETUSER", "default", "+@all")


async def as_owner(cluster: Cluster, *words: str) -> None:
    """A command to the external server, as whoever runs it."""
    port = cluster.externals[EXTERNAL]
    assert await asyncio.to_thread(ask, port, *words, login=("owner", "secret")) == b"OK"


async def test_nobody_is_left_behind(lab: Lab) -> None:
    await assert_no_users_left(lab[0])
    await assert_checked(lab[0])
