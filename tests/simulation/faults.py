"""Trouble: at random times, and at the moments at which a move is most easily hurt. Every fault ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.actors import Actor
from tests.simulation.etcd import SimEtcd
from tests.simulation.scenario import Danger, Edge
from tests.simulation.servers import SimServer

from helios.model.topology import PairPhase, Topology

if TYPE_CHECKING:
    from tests.simulation.world import World

_LITTLE_ROOM = 1000
_REPLACED_WITHIN_S = 15.0
_SOON_S = (0.0, 0.002, 0.02, 0.2)
_LOSES_COPIES = 0.3  # how often, and in a life at most
_LOSSES_MAX = 6


class Trouble:
    """A fault that lasts until it is mended."""

    def __init__(self, what: str, mend: Callable[[], object]) -> None:
        self.what = what
        self.mend = mend
        self.over = False


class Faults:
    """Hurts a world until its time of trouble is over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(f"{world.seed}/faults")
        self._ends_s = 0.0
        self._active = 0
        self._copies = Random(f"{world.seed}/copies")
        self._losses = 0  # of copies
        self._zombie: Trouble | None = None  # a coordinator that sleeps until it has been replaced
        self.mended = asyncio.Event()  # set where nothing is broken
        self.mended.set()
        self.over = False  # whether nothing new will happen
        self.count = 0

    async def run(self) -> None:
        """Trouble now and then."""
        scenario = self._world.scenario
        loop = self._world.loop
        await asyncio.sleep(scenario.peace_s)
        self._ends_s = loop.time() + scenario.trouble_s
        while True:
            await asyncio.sleep(self._random.expovariate(1 / scenario.fault_every_s))
            if loop.time() > self._ends_s:
                self.over = True
                return
            if scenario.danger is not Danger.CALM:
                self.strike(None)

    def published(self, topology: Topology) -> None:
        """A new epoch is a good moment for trouble with those whom it concerns."""
        scenario = self._world.scenario
        loop = self._world.loop
        if self._zombie is not None and self._unfenced(PairPhase.SWITCHED):
            loop.send_later(self._random.uniform(0, 0.1), self._mend, self._zombie)
        if topology.transition is None or scenario.danger is Danger.CALM or loop.time() > self._ends_s:
            return
        if Edge.LOSING in scenario.edges and self._random.random() < 0.3:
            pair = self._random.choice(topology.transition.pairs)
            soon_s = self._random.choice(_SOON_S)
            loop.send_later(self._random.uniform(0, soon_s), self._lose_keys, self._world.servers[pair.target])
        if self._random.random() < scenario.fault_at_phase:
            pair = self._random.choice(topology.transition.pairs)
            near = self._random.choice((pair.source, pair.target))
            soon_s = self._random.choice(_SOON_S)
            loop.send_later(self._random.uniform(0, soon_s), self.strike, near)

    def strike(self, near: str | None) -> None:
        """Something happens; to the server of the shard `near`, if it is to a server."""
        world, random = self._world, self._random
        if self._zombie is not None:
            return  # it waits for others to get on
        if world.etcd is not None and world.etcd.led and random.random() < 0.12:
            self._lose_leader(world.etcd)
            return
        choice = random.random()
        if world.scenario.danger is Danger.ZOMBIES and choice < 0.6:
            self._make_zombie()
        elif world.scenario.danger is Danger.STALLS and choice < 0.6:
            owners = [shard.id for shard in world.invariants.topology.shards]
            self._stall(world.servers[random.choice(owners)] if owners else random.choice(list(world.servers.values())))
        elif choice < (0.7 if world.scenario.danger is Danger.POWER else 0.35):
            self._hurt_server(world.servers[near] if near else random.choice(list(world.servers.values())))
        elif choice < 0.85:
            self._hurt_process(self._reigning() or random.choice(world.coordinators))
        else:
            self._hurt_process(random.choice([*world.coordinators, *world.routers]))

    def _lose_leader(self, etcd: SimEtcd) -> None:
        """The store's members elect another leader, or are too few for one for a while."""
        random = self._random
        etcd.lose_leader()
        if random.random() < 0.3:
            etcd.compact(etcd.revision)
        self._until(etcd.elect, random.choice((0.3, 1.0, 4.0)) * random.uniform(0.5, 1.5), "etcd has no leader")

    def noted(self) -> None:
        """A coordinator has noted how far an import is: a good moment for trouble with it."""
        scenario = self._world.scenario
        if scenario.danger is Danger.CALM or self._world.loop.time() > self._ends_s:
            return
        if self._random.random() < 0.5:
            soon_s = self._random.choice(_SOON_S)
            self._world.loop.send_later(self._random.uniform(0, soon_s), self._hurt_reigning)

    def _hurt_reigning(self) -> None:
        actor = self._reigning()
        if actor is not None:
            self._hurt_process(actor)

    def _reigning(self) -> Actor | None:
        node = self._world.coordinator
        return next((actor for actor in self._world.coordinators if actor.node == node and actor.alive), None)

    def _hurt_server(self, server: SimServer) -> None:
        random = self._random
        if not server.up or server.frozen:
            return
        edges = self._world.scenario.edges
        if Edge.LOSING in edges and random.random() < 0.3:
            self._lose_keys(server)
            return
        if self._world.scenario.room_bytes < _LITTLE_ROOM and random.random() < 0.4:
            self._stall(server)
            return
        if Edge.SEVERAL in edges and random.random() < 0.15:
            self._hurt_two(server)
            return
        choice = random.random()
        power = self._world.scenario.danger is Danger.POWER
        if choice < (0.6 if power else 0.3):
            if power and random.random() < 0.7:
                self._world.losses.power_cut(server)
            else:
                server.crash()
            self._until(lambda: self._world.restart(server), random.uniform(0.01, 3), f"{server.name} crashes")
        elif choice < 0.75:
            self._stop(server, random.uniform(0.01, 3))
        elif choice < 0.9:
            self._world.late[server.name] = 0.5
            self._until(
                lambda: self._world.late.pop(server.name, None), random.uniform(0.1, 2), f"{server.name} is slow"
            )
        else:
            actor = random.choice([*self._world.coordinators, *self._world.routers])
            origin = actor.process.name
            server.cut(origin)
            self._until(lambda: server.heal(origin), random.uniform(0.01, 3), f"{server.name} loses {origin}")

    def _stall(self, server: SimServer) -> None:
        """It takes nothing for so long that what routers send stays with them; and one of these is stopped, too.

        When the server goes on, what that router has left is old, and leaves when it wakes.
        """
        random, world = self._random, self._world
        if not server.up or server.frozen:
            return
        router = random.choice(world.routers)
        stands_s = random.uniform(0.2, 1.5)
        self._stop(server, stands_s)
        if router.alive and not router.process.frozen:
            after_s = stands_s * random.uniform(0.3, 0.9)
            sleeps_s = stands_s + world.scenario.session_ttl_s * random.uniform(0.3, 1.2) + random.uniform(0.0, 3.0)
            world.loop.send_later(after_s, self._freeze_if_awake, router, sleeps_s)
            world.operator.wish(server.shard)

    def _freeze_if_awake(self, actor: Actor, duration_s: float) -> None:
        if actor.alive and not actor.process.frozen:
            self._freeze(actor, duration_s)

    def _stop(self, server: SimServer, duration_s: float) -> None:
        """The server stands still for a while."""
        server.freeze()
        starts = server.starts
        mend = lambda: server.thaw() if server.starts == starts and server.up else None  # noqa: E731
        self._until(mend, duration_s, f"{server.name} freezes")

    def _hurt_two(self, server: SimServer) -> None:
        """It is away, and another stands still; that crashes then, or loses the routers and does what they had sent."""
        random, world = self._random, self._world
        other = random.choice(list(world.servers.values()))
        if other is server or not other.up or other.frozen:
            return
        server.crash()
        self._until(lambda: world.restart(server), random.uniform(0.5, 3), f"{server.name} crashes")
        other.freeze()
        starts = other.starts

        def crash() -> None:
            if other.up and other.starts == starts:
                other.crash()
                world.restart(other)

        def go_on() -> None:
            if other.up and other.starts == starts:
                for router in world.routers:
                    other.cut(router.process.name)
                    other.heal(router.process.name)
                other.thaw()

        crashes = random.random() < 0.5
        end, what = (crash, "crashes") if crashes else (go_on, "loses the routers")
        self._until(end, random.uniform(0.1, 1.5), f"{other.name} freezes, and {what}")

    def _lose_keys(self, server: SimServer) -> None:
        """It evicts some keys, copies in the making perhaps, or is emptied past the routers."""
        if not server.up or server.frozen:
            return
        self.count += 1
        if self._random.random() < 0.3:
            self._world.note(f"fault: {server.name} is emptied")
            server.empty()
            return
        keys = [key for key in sorted(server.keys()) if self._random.random() < 0.3]
        self._world.note(f"fault: {server.name} evicts {b', '.join(keys).decode()}")
        self._world.losses.lose(server, keys)

    def copied(self, target: SimServer, keys: Sequence[bytes]) -> None:
        """A coordinator has written copies: a good moment for the target to lose them, before it owns them.

        Also when the trouble is over: nobody but the coordinator can notice, and then everybody must find the keys.
        """
        world = self._world
        if Edge.LOSING not in world.scenario.edges or self._losses >= _LOSSES_MAX:
            return
        if self._copies.random() < _LOSES_COPIES:
            soon_s = self._copies.uniform(0, self._copies.choice(_SOON_S))
            world.loop.send_later(soon_s, self._lose_copies, target, list(keys))

    def _lose_copies(self, target: SimServer, keys: Sequence[bytes]) -> None:
        """The target evicts copies, or is emptied, where none of these keys is its own yet."""
        if not target.up or target.frozen or any(self._world.invariants.owns(target.shard, key) for key in keys):
            return
        self.count += 1
        self._losses += 1
        if not self.over and self._copies.random() < 0.2:
            self._world.note(f"fault: {target.name} is emptied")
            target.empty()
        else:
            self._world.note(f"fault: {target.name} evicts the copies {b', '.join(keys).decode()}")
            self._world.losses.lose(target, keys)

    def _make_zombie(self) -> None:
        """Whoever leads wakes after another has taken over."""
        actor = self._reigning()
        if actor is None or actor.process.frozen:
            return
        ttl_s = self._world.scenario.settings.coordinator.lease_ttl
        ends_s = ttl_s if self._world.etcd is None else self._world.etcd.longest_lease_s(ttl_s)
        self._freeze(actor, ends_s * self._random.uniform(1.1, 2.5))

    def copying(self, source: SimServer) -> None:
        """A coordinator has read what it will write elsewhere: a good moment to sleep, where nobody can end it there.

        It wakes when its successor has moved the keys; by its own clock, which was suspended too, it still leads then.
        """
        actor = self._reigning()
        if self._zombie is not None or actor is None or actor.process.frozen or self.over:
            return
        if self._unfenced(PairPhase.COPYING, source.shard) and self._random.random() < 0.5:
            self._zombie = self._freeze(actor, _REPLACED_WITHIN_S, suspended=True)

    def _unfenced(self, phase: PairPhase, source: str | None = None) -> bool:
        """Whether keys are in this phase on their way to a server off which nobody can be forced."""
        transition = self._world.invariants.topology.transition
        pairs = transition.pairs if transition is not None else ()
        servers = self._world.servers
        return any(
            pair.phase is phase and not servers[pair.target].acl and source in (None, pair.source) for pair in pairs
        )

    def _freeze(self, actor: Actor, duration_s: float, *, suspended: bool = False) -> Trouble:
        actor.freeze()
        process, loop = actor.process, self._world.loop
        since_s = loop.time()

        def thaw() -> None:
            if not process.dead:
                loop.thaw(process)

        def resume() -> None:
            actor.clock.suspended_s += loop.time() - since_s
            if not process.dead:
                loop.resume(process, since_s)

        if suspended or (Edge.CLOCKS in self._world.scenario.edges and self._random.random() < 0.4):
            return self._until(resume, duration_s, f"the machine of {process.name} is suspended")
        return self._until(thaw, duration_s, f"{process.name} freezes")

    def _hurt_process(self, actor: Actor) -> None:
        random = self._random
        if not actor.alive or actor.process.frozen:
            return
        if Edge.CLOCKS in self._world.scenario.edges and random.random() < 0.15:
            actor.clock.jumped_s = random.choice((-1.0, 1.0)) * random.choice((1.0, 60.0, 1e6)) * random.random()
            self._world.note(f"fault: the clock of {actor.process.name} jumps to {actor.clock.jumped_s:+.3f} s")
        if Edge.STORE in self._world.scenario.edges and random.random() < 0.2:
            store = actor.store
            store.forgets = True
            self._until(
                lambda: setattr(store, "forgets", False), random.uniform(0.1, 1), f"{actor.process.name} loses watches"
            )
            return
        choice = random.random()
        if choice < 0.3:
            actor.kill()
            self._until(actor.start, random.uniform(0.01, 3), f"{actor.process.name} is killed")
        elif choice < 0.4:
            actor.stop()
            self._until(actor.start, random.uniform(1.6, 3), f"{actor.process.name} is stopped")
        elif choice < 0.7:
            self._freeze(actor, random.choice((0.2, 1.0, 4.0)) * random.uniform(0.2, 1.5))
        elif choice < 0.85:
            self._lose_store(actor, random.uniform(0.05, 4))
        else:
            store = actor.store
            store.loss = 0.3
            self._until(
                lambda: setattr(store, "loss", 0.0), random.uniform(0.5, 3), f"{actor.process.name} has a bad store"
            )

    def _lose_store(self, actor: Actor, for_s: float) -> None:
        store = actor.store
        store.cut = True
        self._until(lambda: setattr(store, "cut", False), for_s, f"{actor.process.name} loses the store")

    def _until(self, mend: Callable[[], object], after_s: float, what: str) -> Trouble:
        self._world.note(f"fault: {what} for {after_s:.3f} s")
        self._active += 1
        self.mended.clear()
        self.count += 1
        trouble = Trouble(what, mend)
        self._world.loop.send_later(after_s, self._mend, trouble)
        return trouble

    def _mend(self, trouble: Trouble) -> None:
        if trouble.over:
            return
        trouble.over = True
        if trouble is self._zombie:
            self._zombie = None
        self._world.note(f"mended: {trouble.what}")
        try:
            trouble.mend()
        except Exception as error:  # noqa: BLE001 - whatever it is: nobody else would hear of it
            self._world.fail(f"{trouble.what}, and what ends that has failed: {error!r}", error)
        self._active -= 1
        if not self._active:
            self.mended.set()
