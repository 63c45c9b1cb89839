"""One life of a cluster, from its founding to its rest."""

from __future__ import annotations

import asyncio
import gc
import sys
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from random import Random
from unittest.mock import patch

from tests.simulation.history import Impossible
from tests.simulation.loop import Stuck
from tests.simulation.replicated import ReplicatedWorld, choose_replicated
from tests.simulation.report import Outcome
from tests.simulation.rest import ask_routers, come_to_rest
from tests.simulation.scenario import choose
from tests.simulation.world import World

from helios.admin.client import Admin
from helios.coordinator.copying import CopyLimits
from helios.engines.memory import MemoryConnector
from helios.errors import Unavailable
from helios.model.topology import Node, NodeKind
from helios.ports.records import SETTINGS, put_record

_SETTLE_S = 2.0
_FENCE_MAX_S = 40.0


def live(seed: int, *, replicated: bool = False) -> Outcome:
    """The life of a seed; `replicated`: its shards have several members."""
    with collecting_nothing():
        life = Life(ReplicatedWorld(seed, choose_replicated(seed)) if replicated else World(seed, choose(seed)))
        outcome = life.run()
        life.world.loop.close()
        del life
        return outcome


@contextmanager
def collecting_nothing() -> Iterator[None]:
    """Collecting garbage waits until a life is over, as finalizers would run at odd times."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None  # tasks of killed processes end here, and may complain
    try:
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of coroutines that never began
            # Coroutines that end here would give what they still want to do to a loop of asyncio's own, which keeps it.
            asyncio.set_event_loop(None)
            # They live once more by that. The next life freezes what is left, and it would stay for good.
            while gc.collect():
                pass
    finally:
        sys.unraisablehook = hook
        if was_enabled:
            gc.enable()


class Life:
    """Founding, trouble, rest: what a world goes through."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run(self) -> Outcome:
        """Live."""
        world = self.world
        ids = Random(f"{world.seed}/ids")
        world.loop.set_exception_handler(lambda *_: None)
        limits = partial(CopyLimits, big_bytes=world.scenario.big_bytes, step_bytes=4)
        with (
            patch("helios.coordinator.transition_work.CopyLimits", limits),
            patch("helios.coordinator.performer.IMPORT_ATTEMPTS_MAX", 1 + 7 * (world.seed % 2)),  # some are to fail
            # Lives have few nodes; in every other one pairs share fences all the same.
            patch("helios.control.transition.FENCES_ENOUGH", (12, 1)[world.seed // 2 % 2]),
            patch.object(uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
            patch("secrets.token_hex", lambda size=32: ids.randbytes(size or 32).hex()),
            patch("secrets.token_urlsafe", lambda size=32: ids.randbytes(size or 32).hex()),
        ):
            life = world.loop.create_task(self._live())
            life.add_done_callback(self._on_end)
            try:
                world.loop.run_until_complete(world.over)
            except Stuck as error:
                world.fail(str(error), error)
        return self._outcome()

    def _on_end(self, life: asyncio.Task[None]) -> None:
        world = self.world
        if not life.cancelled() and (error := life.exception()) is not None:
            world.fail(f"the world broke: {error!r}", error)
        elif not world.over.done():
            world.over.set_result(None)

    def _outcome(self) -> Outcome:
        world = self.world
        digest = blake2b("\n".join(world.trace).encode(), digest_size=8).hexdigest()
        seen = world.invariants
        return Outcome(
            world.seed,
            world.failure,
            digest,
            world.loop.time(),
            world.loop.steps,
            world.acknowledged,
            world.faults.count,
            seen.switches,
            seen.fences,
            seen.longest_fence_s,
            world.trace,
        )

    async def _live(self) -> None:
        world = self.world
        await self._found()
        world.operator.start()
        clients = [world.loop.create_task(client.run()) for client in world.clients]
        watching = [world.loop.create_task(self._sync_disks()), world.loop.create_task(self._watch_fences())]
        await world.faults.run()
        await world.faults.mended.wait()
        world.note("the trouble is over")
        world.calm()
        await asyncio.sleep(_SETTLE_S / 4 if world.scenario.brief else _SETTLE_S)
        world.serving = False
        await asyncio.gather(*clients)
        world.note("the clients are done")
        await world.operator.idle.wait()
        await come_to_rest(world)
        await ask_routers(world)
        try:
            world.judges.check(world.held, world.loop.time(), world.now_ms())
        except Impossible as error:
            world.fail(str(error), error)
        for task in watching:
            task.cancel()

    async def _found(self) -> None:
        """Found the cluster, or adopt a server, with the first of the world's servers."""
        world = self.world
        nodes = [Node(shard, world.address(shard), server.kind) for shard, server in world.servers.items()]
        await world.inner.commit([put_record(SETTINGS, world.scenario.settings)])
        await world.announce([node for node in nodes if node.kind is NodeKind.SUPERVISED])
        for actor in world.actors():
            if not actor.alive:
                actor.start()
        admin = Admin(world.inner, MemoryConnector(world.addresses), world.clock)
        while True:
            try:
                founders = nodes[: world.scenario.nodes]
                if world.adopted:
                    beside = [node for node in founders if node.kind is NodeKind.SUPERVISED]
                    await admin.adopt(world.adopted, world.address(world.adopted), beside)
                else:
                    await admin.found(founders)
            except Unavailable as error:
                world.note(f"founding: {error}")  # nothing was changed: the coordinators' store is slow in some worlds
            else:
                return

    async def _sync_disks(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for server in self.world.everyone():
                if server.up and not server.frozen:
                    server.sync()

    async def _watch_fences(self) -> None:
        invariants = self.world.invariants
        while True:
            await asyncio.sleep(1.0)
            self.world.look()
            if invariants.fence_age_s() > _FENCE_MAX_S:
                self.world.fail(f"a fence has been standing for {invariants.fence_age_s():.0f} s")
