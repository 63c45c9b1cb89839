"""Performing one failover: the pure steps of `control.failover` decide, this carries out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from helios.control import failover as control
from helios.control.failover import Effect, Event, FailoverState, Follow, Stage, step
from helios.control.replicas import failed_over
from helios.coordinator.fencing import Fencing
from helios.coordinator.following import Following, position_of
from helios.coordinator.publisher import Publisher
from helios.errors import EngineError, NotFound, StoreError
from helios.model.topology import Member, Shard, Topology
from helios.ports.store import Operation

_HAND_OVER_S = 3.0  # less than clients are held
_LOOK_AGAIN_S = 0.005
_FOLLOW_SOON_S = 0.1
_FOLLOW_S = 1.0
_ASK_AGAIN_S = 0.5

logger = logging.getLogger(__name__)


class MovesBeginAnew(StoreError):
    """A shard changes its leader while keys move: the term ends, and the next one copies from the leaders of then."""


class Failover:
    """One failover of one shard, from where the topology says it stands to its end."""

    def __init__(
        self,
        publisher: Publisher,
        following: Following,
        shard: Shard,
        *,
        quorum: bool,
        fencing: Fencing,
        external: Collection[str] = (),
        successor: Member | None = None,
        wanted: tuple[str, ...] = (),
        ended: Callable[[str, bool], Sequence[Operation]] = lambda *_: (),
    ) -> None:
        """With a `successor` the leader hands over to it, in order. `wanted` are to lead rather than others.

        `external` are the members on servers that Helios does not start.

        `ended` tells what is to be written with a new leader to which nobody has handed over in order, by whose node,
        and whether that is lossy.
        """
        self._publisher = publisher
        self._following = following
        self._shard = shard
        self._members = {member.id: member for member in (*shard.outgoing, *shard.members)}
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._accepted: asyncio.Queue[str] = asyncio.Queue()
        self._successor = successor
        self._fencing = fencing
        self._ended = ended
        preferred = "" if successor is None else successor.id
        self.state = FailoverState(
            shard.id,
            shard.leader,
            shard.memberships,
            shard.lineage,
            quorum=quorum,
            preferred=preferred,
            wanted=wanted,
            external=frozenset(external),
        )

    def accept_loss(self, member_id: str) -> None:
        """A person wants this member to lead, whatever it lacks, if nothing better can be had now."""
        self._accepted.put_nowait(member_id)

    async def run(self) -> None:
        """Perform the failover to its end; at once where the shard has left the cluster. Raises StoreError."""
        # Clients wait from the fence on, so that whatever can be done before it is.
        ready = () if self._successor is None else tuple(self._members.values())
        try:
            async with self._following.ready(ready), asyncio.TaskGroup() as tasks:
                await self._carry_out(tasks)
        except* NotFound:
            logger.info("no leader chosen, since the shard has left: shard=%s", self._shard.id)

    async def _carry_out(self, tasks: asyncio.TaskGroup) -> None:
        self._events.put_nowait(control.Begun(self._shard.id in self._publisher.topology.fenced_shards))
        work: list[asyncio.Task[None]] = [tasks.create_task(self._accept())]
        followers: dict[str, asyncio.Task[None]] = {}
        while self.state.stage is not Stage.DONE:
            event = await self._events.get()
            self.state, effects = step(self.state, event)
            logger.debug("failover: shard=%s event=%s effects=%s", self._shard.id, event, effects)
            for effect in effects:
                task = tasks.create_task(self._perform(effect))
                if isinstance(effect, Follow):
                    followers[effect.member] = task
                else:
                    work.append(task)
        for task in work:
            task.cancel()
        await self._have_followed(followers)

    async def _have_followed(self, followers: Mapping[str, asyncio.Task[None]]) -> None:
        """Return when members follow, as far as they answer: others are told later, by whoever cares for them.

        Those that have not been heard in this failover may hang, and keep the shard from a majority until they are
        members no more: they are waited for a moment only.
        """
        for timeout_s, waited in ((_FOLLOW_SOON_S, followers.keys()), (_FOLLOW_S, self.state.detached.keys())):
            if tasks := [followers[member] for member in followers.keys() & waited]:
                await asyncio.wait(tasks, timeout=timeout_s)
        for task in followers.values():
            task.cancel()

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case control.PublishFence():
                await self._fence()
            case control.Detach(member, delay_s):
                await asyncio.sleep(delay_s)
                await self._detach(self._now(member))
            case control.Promote(member, position):
                await self._promote(self._now(member), position)
            case control.PublishLeader():
                await self._publish(effect)
            case control.Ask(leader):
                await self._ask(self._now(leader))
            case control.LiftFence():
                await self._lift_fence()
            case Follow(member, leader):
                await self._follow(self._now(member), self._now(leader))

    def _now(self, member_id: str) -> Member:
        """The member where it listens now: it may have been restarted elsewhere meanwhile."""
        shard = self._publisher.topology.shard(self._shard.id)
        listed = () if shard is None else (*shard.outgoing, *shard.members)
        return next((member for member in listed if member.id == member_id), self._members[member_id])

    async def _accept(self) -> None:
        """Take up what a person accepts, once no router can go on with the leader and members that are given up."""
        while True:
            member_id = await self._accepted.get()
            await self._publisher.fenced(self._shard.id)
            await self._fencing.known()
            self._events.put_nowait(control.LossAccepted(member_id))

    async def _fence(self) -> None:
        def fenced(topology: Topology) -> Topology:
            if topology.shard(self._shard.id) is None:
                raise NotFound(f"shard {self._shard.id} is not in the topology")
            return replace(topology, fenced_shards=topology.fenced_shards | {self._shard.id})

        topology = await self._publisher.publish(fenced)
        if topology.transition is not None:
            raise MovesBeginAnew(f"{self._shard.id} changes its leader while keys move")
        if self._successor is not None:
            try:
                async with asyncio.timeout(_HAND_OVER_S):
                    await self._settled(self._shard.leading)
                    await self._caught_up(self._successor)
            except (EngineError, TimeoutError) as error:
                # Whoever has everything is found out as if the leader were gone.
                logger.warning("not handed over in order: shard=%s reason=%s", self._shard.id, error or "it takes long")
                self.state = replace(self.state, preferred="")
        self._events.put_nowait(control.Published())

    async def _settled(self, leader: Member) -> None:
        """Return when no router has anything under way at the leader."""
        administrator = asyncio.ensure_future(self._following.administer(leader))
        try:
            await self._fencing.settle(leader, administrator)
        finally:
            administrator.cancel()
            for engine in await asyncio.gather(administrator, return_exceptions=True):
                if not isinstance(engine, BaseException):
                    await engine.close()

    async def _caught_up(self, successor: Member) -> None:
        """Return when the successor has all that the leader has, which gets nothing any more."""
        reached: int | None = None
        while True:
            if reached is None and (leader := await self._following.look(self._shard.leading)) is not None:
                reached = leader.offset
            said = await self._following.look(successor)
            if reached is not None and said is not None and said.in_sync and said.offset >= reached:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _detach(self, member: Member) -> None:
        try:
            said = await self._following.detach(member, self._shard)
        except EngineError as error:
            self._events.put_nowait(control.Failed(member.id, str(error)))
        else:
            self._events.put_nowait(control.Detached(member.id, position_of(said, self._shard)))

    async def _follow(self, member: Member, leader: Member) -> None:
        shard = self._publisher.topology.shard(self._shard.id)
        if shard is None or not any(member.id in membership for membership in shard.memberships):
            return  # It counts no more, and is first taken for a learner by every router.
        try:
            await self._following.follow(member, leader)
        except EngineError as error:
            logger.info("does not follow yet: shard=%s member=%s reason=%s", self._shard.id, member.id, error)

    async def _promote(self, member: Member, position: control.Position) -> None:
        try:
            history = await self._following.promote(member, position, self._shard)
        except EngineError as error:
            self._events.put_nowait(control.Failed(member.id, str(error)))
            return
        if history is None:
            self._events.put_nowait(control.Failed(member.id, "it is not where it was"))
        else:
            self._events.put_nowait(control.Promoted(member.id, history))

    async def _ask(self, leader: Member) -> None:
        while True:
            said = await self._following.look(leader)
            if said is not None:
                stands = said.leads and said.history == self._shard.lineage[0].history
                try:
                    empty = not stands and await self._following.is_empty(leader)
                except EngineError as error:
                    logger.debug("no answer: member=%s error=%s", leader.id, error)
                else:
                    break
            await asyncio.sleep(_ASK_AGAIN_S)
        if empty and self.state.was_alone:
            # A router that takes it for alone still would go on with it, though its only copy leads.
            await self._fencing.known()
        self._events.put_nowait(control.Answered(stands, empty))

    async def _lift_fence(self) -> None:
        def lifted(topology: Topology) -> Topology:
            return replace(topology, fenced_shards=topology.fenced_shards - {self._shard.id})

        await self._publisher.publish(lifted)
        logger.warning("leader goes on: shard=%s leader=%s", self._shard.id, self._shard.leader)
        self._events.put_nowait(control.Published())

    async def _publish(self, chosen: control.PublishLeader) -> None:
        in_order = chosen.member == self.state.preferred
        noted = [] if in_order else self._ended(self._now(chosen.member).node, chosen.lossy)
        await self._publisher.publish(lambda topology: failed_over(topology, self._shard.id, chosen), noted)
        level = logging.WARNING if chosen.lossy else logging.INFO
        logger.log(
            level,
            "leader chosen: shard=%s leader=%s before=%s lossy=%s",
            self._shard.id,
            chosen.member,
            self._shard.leader,
            chosen.lossy,
        )
        self._events.put_nowait(control.Published())
