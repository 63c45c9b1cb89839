"""Care for the members of shards: where they are to be, who follows, who counts, who leads when a leader is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial

from helios.control.admission import promoted
from helios.control.replicas import (
    Decision,
    Detach,
    Enlist,
    FailOver,
    Follow,
    HandOver,
    Lead,
    Look,
    Seal,
    Sight,
    decide,
    located,
    mutated,
)
from helios.control.silence import Beaten
from helios.control.wishes import external_members, is_external, wishes_of
from helios.coordinator.attaching import Attaching
from helios.coordinator.failover import Failover
from helios.coordinator.following import Following
from helios.coordinator.history import FailoverHistory
from helios.coordinator.leadership import Leadership
from helios.coordinator.term_context import TermContext
from helios.errors import EngineError, NotFound, Refused, Unavailable
from helios.model.ids import founder_id, replica_id
from helios.model.migration import Change, ChangeStatus
from helios.model.topology import Member, Shard, Topology
from helios.ports.engine import Replication
from helios.ports.pulse import rest_s
from helios.ports.records import AGENTS, CHANGES, REPLICAS, MemberRecord, ReplicasRecord, list_records, put_record
from helios.ports.store import Delete, Operation

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_REST_S = 5.0
_PROMOTION_S = 30.0
_LOOK_AGAIN_S = 0.1  # while something is on its way


class Replicas:
    """Looks at every shard that has several servers, or is to have them, and does what is to be done."""

    def __init__(self, context: TermContext) -> None:
        self._context = context
        self._publisher = context.publisher
        self._following = Following(context.access, context.clock, context.lapse)
        self._attaching = Attaching(context, self._following)
        self._records: dict[str, MemberRecord] = {}  # by member id
        self._told = False  # whether these are known: until then every server seems to be nobody's
        self._wishes: dict[str, ReplicasRecord] = {}  # by shard id, as the store has them
        self._read = False  # whether these are known
        self._since: dict[str, tuple[object, int]] = {}  # by shard id: its servers, and the epoch that they are from
        self._led: dict[str, str] = {}  # by member id: the run in which it was seen to lead
        self._rest: dict[str, float] = {}  # by shard id: until when no leader hands over again
        self._failovers: dict[str, Failover] = {}
        self._leadership = Leadership(context)
        self._history = FailoverHistory(context.publisher, context.clock, context.new_id)
        self._losses: dict[str, list[Change]] = {}  # by shard id: promotions whose loss is accepted
        self._glances: dict[str, asyncio.Task[Replication | None]] = {}  # by member id
        self._unsettled: set[str] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """For ever. Raises StoreError."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tend(tasks))
        finally:
            await self._following.close()

    def take(self, records: Iterable[MemberRecord]) -> None:
        """These are the servers that there are now, as their agents say."""
        self._records = {record.id: record for record in records}
        self._told = True
        self._leadership.leaving({record.node for record in self._records.values() if record.leaving})
        self._wake.set()

    def all_home(self) -> None:
        """Let leaders go back to the nodes that they began on, as soon as these are in sync."""
        self._leadership.all_home()
        self._wake.set()

    def wake(self) -> None:
        """Other settings hold now."""
        self._wake.set()

    async def promote(self, shard: Shard, member: Member) -> None:
        """Return when the member leads, to which the present leader hands over. Raises Unavailable."""
        self._leadership.ask(shard.id, member.id)
        self._rest.pop(shard.id, None)
        self._wake.set()
        try:
            async with asyncio.timeout(_PROMOTION_S):
                await self._publisher.led_by(shard.id, member.id)
        except TimeoutError:
            raise Unavailable(
                f"{member.node} has not come to lead {shard.id} within {_PROMOTION_S:g} s: see by `listshards` whether "
                "it is in sync, and try again"
            ) from None
        finally:
            self._leadership.asked_no_more(shard.id)

    def accept_loss(self, change: Change) -> None:
        """Let the member of that promotion lead, whatever it lacks, unless the shard can do without that."""
        self._losses.setdefault(change.shard, []).append(change)
        if change.shard in self._failovers:
            self._accept(self._failovers[change.shard], change)
        self._wake.set()

    def _accept(self, failover: Failover, change: Change) -> None:
        try:
            failover.accept_loss(promoted(self._publisher.topology, change)[1].id)
        except (NotFound, Refused) as error:
            logger.info("not promoted: shard=%s node=%s reason=%s", change.shard, change.node, error)

    async def _tend(self, tasks: asyncio.TaskGroup) -> None:
        looks: dict[str, asyncio.Task[None]] = {}
        while True:
            self._wake.clear()
            if not (self._told and self._is_concerned):
                await self._wake.wait()
                continue
            await self._wish()
            await self._locate()
            topology = self._publisher.topology
            for shard_id in [shard_id for shard_id in self._losses if topology.shard(shard_id) is None]:
                await self._answer(shard_id)
            for shard in topology.shards:
                if shard.id in looks and not looks[shard.id].done():
                    continue
                # As of now: of a node that leaves meanwhile nobody knows any more that nothing is told to its server.
                external = external_members(topology, shard)
                if shard.id in topology.fenced_shards:
                    reason = "another coordinator had begun it, perhaps to hand over"
                    looks[shard.id] = tasks.create_task(self._fail_over(shard, external, reason))
                elif shard.id in self._losses:
                    looks[shard.id] = tasks.create_task(self._fail_over(shard, external, "a loss was accepted"))
                elif self._is_tended(topology, shard):
                    looks[shard.id] = tasks.create_task(self._look(shard, external, tasks))
            try:
                now_s = asyncio.get_running_loop().time()
                async with asyncio.timeout(_LOOK_AGAIN_S if self._unsettled else rest_s(now_s, _LOOK_EVERY_S)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    @property
    def _is_concerned(self) -> bool:
        """Whether there are copies, or are to be any, or somebody waits for one to lead."""
        return (
            bool(self._losses)
            or self._context.settings.sharding.replication_factor > 1
            or any(len(shard.servers) > 1 for shard in self._publisher.topology.shards)
            or any(member_id != founder_id(record.node) for member_id, record in self._records.items())
            or any(self._is_doubtful(shard.leader) for shard in self._publisher.topology.shards)
        )

    def _is_doubtful(self, leader: str) -> bool:
        """Whether this run of a server has not been seen to lead: one that had fellows starts as nobody's leader."""
        return leader in self._records and self._led.get(leader) != self._records[leader].run

    async def _locate(self) -> None:
        """Publish where servers listen now, if one was enlisted where it had been before."""
        addresses = {member_id: record.address for member_id, record in self._records.items()}

        def current(topology: Topology) -> Topology:
            return replace(topology, shards=tuple(located(shard, addresses) for shard in topology.shards))

        if current(self._publisher.topology) != self._publisher.topology:
            await self._publisher.publish(current)

    def _is_tended(self, topology: Topology, shard: Shard) -> bool:
        """Whether the shard has servers that Helios starts, or is to have some."""
        return len(shard.servers) > 1 or shard.id in self._wishes or not is_external(topology, shard.leading.node)

    # Wishes

    async def _wish(self) -> None:
        """Write down on which nodes each shard is to have a member, wherever that has changed."""
        if not self._read:
            for record in await list_records(self._publisher.store, ReplicasRecord, REPLICAS):
                self._wishes[record.value.shard] = record.value
            self._read = True
        wished = wishes_of(self._publisher.topology, self._context.settings.sharding.replication_factor)
        refused = self._attaching.refused
        wishes = {shard: ReplicasRecord(shard, nodes, refused.get(shard, "")) for shard, nodes in wished.items()}
        operations: list[Operation] = [
            put_record(REPLICAS + shard, wish) for shard, wish in wishes.items() if self._wishes.get(shard) != wish
        ]
        operations += [Delete(REPLICAS + shard) for shard in self._wishes.keys() - wishes.keys()]
        if operations:
            await self._publisher.write_apart(operations)
        self._wishes = wishes

    def _wanted(self, shard: Shard) -> tuple[Member, ...]:
        """The servers that are to have the shard's keys, as far as they run."""
        wish = self._wishes.get(shard.id)
        nodes = () if wish is None else wish.nodes
        found = (self._founder(shard), *(self._replica(shard, node) for node in nodes))
        return tuple(member for member in found if member is not None)

    def _founder(self, shard: Shard) -> Member | None:
        founder = next((member for member in shard.servers if member.id == founder_id(shard.id)), None)
        if founder is None or founder.id == shard.leader or not is_external(self._publisher.topology, founder.node):
            return founder
        return None

    def _replica(self, shard: Shard, node: str) -> Member | None:
        record = self._records.get(replica_id(shard.id, node))
        if record is None or self._publisher.topology.node(node) is None:
            return None
        return Member(record.id, record.node, record.address)

    # Looks

    async def _look(self, shard: Shard, external: Collection[str], tasks: asyncio.TaskGroup) -> None:
        known = await self._is_known(shard)
        leader = await self._following.look(shard.leading)
        # Nobody waits for what has been silent for long: the others are to go on without it at once.
        silent = [member for member in self._silent(shard) if member.id != shard.leader]
        self._glance(silent, tasks)
        others = [member for member in shard.servers if member.id != shard.leader and member not in silent]
        said = await asyncio.gather(*(self._following.look(member) for member in others))
        seen = {member.id: what for member, what in zip([shard.leading, *others], [leader, *said], strict=True)}
        sights = {member_id: _sight(what) for member_id, what in seen.items() if what is not None}
        self._attaching.seen(sights)
        look = Look(
            shard,
            self._wanted(shard),
            sights,
            known,
            gone=await self._gone(shard),
            dead={member.id for member in shard.servers if self._is_dead(member)},
            absent=self._absent(shard),
            least=self._least,
            successors=self._leadership.successors(shard),
            external=external,
            sealed=self._attaching.sealed,
            let_in=self._attaching.let_in(shard, sights.get(shard.leader)),
            leaving={record.id for record in self._records.values() if record.leaving},
        )
        self._leadership.seen(look)
        if leader is not None and leader.leads and shard.leader in self._records:
            self._led[shard.leader] = self._records[shard.leader].run
        decisions = decide(look)
        self._unsettled.discard(shard.id)
        if (decisions or shard.learners or shard.outgoing) and shard.id not in self._attaching.refused:
            self._unsettled.add(shard.id)
        if leader is None and len(shard.members) > 1:
            # Not a whole look later is it to be known that its silence has lasted long enough.
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._wake.set)
        for decision in decisions:
            try:
                await self._perform(look, decision)
            except (EngineError, Refused) as error:
                logger.info("members not cared for yet: shard=%s reason=%s", shard.id, error)
                return

    def _glance(self, members: Iterable[Member], tasks: asyncio.TaskGroup) -> None:
        """See whether they answer again: then they are no longer silent, and the next look asks them."""
        for member in members:
            if member.id not in self._glances or self._glances[member.id].done():
                self._glances[member.id] = tasks.create_task(self._following.look(member))

    @property
    def _least(self) -> int:
        settings = self._context.settings
        return settings.replication.least_members(settings.sharding.replication_factor)

    async def _gone(self, shard: Shard) -> set[str]:
        """The servers that have been silent for too long."""
        gone, lapse = self._silent(shard), self._following.silence.lapse
        if lapse is not None and any(member.node == lapse.node for member in gone):
            heartbeat = await self._publisher.store.get(AGENTS + lapse.node)
            if heartbeat is not None and heartbeat.version != lapse.heartbeat:
                self._following.note(Beaten(lapse.node))
                gone = self._silent(shard)
        return {member.id for member in gone}

    def _silent(self, shard: Shard) -> list[Member]:
        timeout_s = self._context.settings.replication.failover_timeout
        return [member for member in shard.servers if self._following.silence.silent_s(member.id) >= timeout_s]

    def _absent(self, shard: Shard) -> set[str]:
        return {member.id for member in shard.servers if member.id not in self._records}

    def _is_dead(self, member: Member) -> bool:
        record = self._records.get(member.id)
        return record is not None and record.dead

    async def _is_known(self, shard: Shard) -> bool:
        """Whether every router goes by the shard as it stands, and none by members of before, its session over."""
        servers = (shard.leader, shard.memberships, frozenset(member.id for member in shard.learners))
        if self._since.get(shard.id, (None, 0))[0] != servers:
            self._since[shard.id] = servers, self._publisher.topology.epoch
        if not (shard.learners or shard.outgoing):
            return True
        epoch, leader = self._since[shard.id][1], shard.leading
        # A leader that is silent settles nothing anyway, and is not to be waited for twice.
        if shard.outgoing and self._following.silence.silent_s(leader.id):
            return False
        try:
            present = await self._present(leader) if shard.outgoing else set()
            await self._context.sessions.look()
            if any(record.value.acked_epoch < epoch for record in self._context.sessions.present.values()):
                return False
            administer = partial(self._following.administer, leader)
            return not shard.outgoing or await self._context.fencing.end_those_over(leader, present, administer)
        except (EngineError, TimeoutError):
            return False

    async def _present(self, leader: Member) -> set[str] | None:
        """The sessions that have a user at a leader; None where that is not to be known."""
        async with self._following.looking(leader) as engine:
            return await self._context.fencing.session_users(engine, leader)

    async def _perform(self, look: Look, decision: Decision) -> None:
        shard = look.shard
        match decision:
            case FailOver(reason):
                logger.warning("leader lost: shard=%s leader=%s reason=%s", shard.id, shard.leader, reason)
                self._leadership.lost(shard.leader)
                await self._fail_over(shard, look.external, reason)
            case HandOver(member):
                now_s = self._context.clock.monotonic()
                if now_s < self._rest.get(shard.id, now_s):
                    return
                self._rest[shard.id] = now_s + _REST_S
                self._leadership.going_home(shard, member.id)
                logger.info("leader hands over: shard=%s leader=%s successor=%s", shard.id, shard.leader, member.id)
                await self._fail_over(shard, look.external, "it was lost while it handed over", member)
            case Lead(member):
                logger.warning("made to lead: shard=%s member=%s", shard.id, member.id)
                await self._following.lead(member)
            case Follow(member):
                leader = look.sights[shard.leader]
                await self._attaching.follow(shard, member, leader, external=look.led_from_outside)
            case Seal(member):
                await self._attaching.seal(member)
            case Detach(member):
                await self._following.detach(member)
            case _:
                await self._publisher.publish(lambda topology: mutated(topology, shard.id, shard, decision))
                if isinstance(decision, Enlist):
                    self._attaching.forget(decision.member.id)
                logger.info("membership: shard=%s change=%s", shard.id, decision)
                self._wake.set()

    async def _fail_over(
        self, shard: Shard, external: Collection[str], reason: str, successor: Member | None = None
    ) -> None:
        failover = self._failovers[shard.id] = Failover(
            self._publisher,
            self._following,
            shard,
            quorum=self._context.settings.replication.promises,
            external=external,
            successor=successor,
            wanted=(*self._leadership.successors(shard), *(member.id for member in self._wanted(shard))),
            fencing=self._context.fencing,
            ended=self._history.begun(shard, reason),
        )
        for change in self._losses.get(shard.id, ()):
            self._accept(failover, change)
        try:
            await failover.run()
        finally:
            del self._failovers[shard.id]
            self._unsettled.add(shard.id)
            self._wake.set()
        await self._answer(shard.id, lossy=failover.state.lossy)
        await self._history.trim()

    async def _answer(self, shard_id: str, *, lossy: bool = False) -> None:
        """Tell those who accepted a loss what it has come to."""
        shard = self._publisher.topology.shard(shard_id)
        lost = "what had not reached it is lost" if lossy else "nothing was lost"
        for change in self._losses.pop(shard_id, ()):
            if shard is None:
                done = replace(change, status=ChangeStatus.FAILED, error=f"{shard_id} has left the cluster meanwhile")
            else:
                said = f"{shard.leading.node} leads {shard_id}; {lost}"
                done = replace(change, status=ChangeStatus.DONE, outcome=said)
            await self._publisher.write([put_record(CHANGES + change.id, done)])


def _sight(said: Replication) -> Sight:
    return Sight(said.leads, said.history, said.offset, said.leader, said.in_sync)
