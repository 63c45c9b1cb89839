"""A world at rest: every change has ended, nothing lies where it does not belong, and routers list and count right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.simulation.asking import Asker

from helios.model.migration import Change, Migration
from helios.ports.records import CHANGES, MIGRATIONS, PAUSES, SESSIONS, list_records
from helios.ports.store import Delete

if TYPE_CHECKING:
    from tests.simulation.world import World

_REST_WITHIN_S = 120.0
# A router's link to a server asks once a second or two, and in some lives more than half of that comes too late.
_SERVES_WITHIN_S = 120.0
_PATIENCE_S = 60.0  # a listing takes as many round trips as there are pages, and in some lives each may be late


async def come_to_rest(world: World) -> None:
    """Wait until the cluster has nothing more to do; the life fails if nothing of it ends for too long.

    Many changes may have been asked for, and where every message is late each takes its time.
    """
    began, ended = world.loop.time(), -1
    while True:
        changes = [record.value for record in await list_records(world.inner, Change, CHANGES)]
        if not (unrest := await _unrest(world, changes)):
            break
        if (now_ended := sum(change.status.ended for change in changes)) != ended:
            began, ended = world.loop.time(), now_ended
        if world.loop.time() > began + _REST_WITHIN_S:
            world.fail(f"nothing has ended for {_REST_WITHIN_S:.0f} s after the trouble: {'; '.join(unrest)}")
            return
        await _resume_all(world)
        await asyncio.sleep(0.5)
    world.note("at rest")


async def _resume_all(world: World) -> None:
    """Nothing waits for the operator any more."""
    for entry in (await world.inner.list(PAUSES)).entries:
        await world.inner.commit([Delete(entry.key)])


async def _unrest(world: World, changes: Sequence[Change]) -> list[str]:
    sessions = {entry.key.removeprefix(SESSIONS) for entry in (await world.inner.list(SESSIONS)).entries}
    servers = [server for server in world.everyone() if not world.is_replaced(server)]
    unrest = [*world.unrest(), *world.invariants.unrest(servers, sessions)]
    unrest += [
        f"the change {change.id} ({change.kind}) is {change.status}" for change in changes if not change.status.ended
    ]
    migrations = [record.value for record in await list_records(world.inner, Migration, MIGRATIONS)]
    return unrest + [f"the migration {one.id} is {one.status}" for one in migrations if not one.status.ended]


async def ask_routers(world: World) -> None:
    """Each router lists and counts the keys that lie at their owners, and no others that scripts have left."""
    asker = Asker(world, len(world.clients))
    for router in world.routers:
        began_s = world.loop.time()
        while True:
            epoch, before = world.invariants.topology.epoch, _at_owners(world)
            asked_epoch = router.epoch
            counted = (await asker.ask_by(router, [b"DBSIZE"], timeout_s=_PATIENCE_S)).last
            listed = (await asker.ask_by(router, [b"KEYS", b"*"], timeout_s=_PATIENCE_S)).last
            after = _at_owners(world)  # without what has ended meanwhile
            # What a client has given up may have come late, and a router that lost its watch of the store may count for
            # an earlier topology: both ask for another try.
            still = epoch == world.invariants.topology.epoch == asked_epoch == router.epoch and after <= before
            if still and isinstance(counted, int) and isinstance(listed, list):
                break
            if world.loop.time() > began_s + _SERVES_WITHIN_S:
                world.fail(f"{router.name} does not serve at rest: DBSIZE was answered {counted!r}, KEYS {listed!r}")
                return
            await asyncio.sleep(0.5)
        if not len(after) <= counted <= len(before):
            world.fail(f"{router.name} counts {counted} keys, where owners hold {sorted(after)}")
        if not after <= set(listed) <= before or len(set(listed)) < len(listed):
            world.fail(f"{router.name} lists {sorted(listed)}, where owners hold {sorted(after)}")


def _at_owners(world: World) -> set[bytes]:
    owns = world.invariants.owns
    servers = [world.leading(shard) for shard in world.servers]
    return {key for server in servers for key in server.scan(0, 1 << 30)[1] if owns(server.shard, key)}
