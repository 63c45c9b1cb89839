"""Requests on their way: admitted in order of arrival, carried out one after the other."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from helios.admin.own_servers import refuse_known
from helios.control.admission import (
    Admission,
    Policy,
    admit,
    holds_keys,
    placement_after,
    refusal,
    refuse_joining,
    stays,
)
from helios.control.rebalance import Rebalancing
from helios.coordinator.access import Access
from helios.coordinator.clocks import refuse_skewed
from helios.coordinator.compatibility import check_readable
from helios.coordinator.import_doubts import Doubts
from helios.coordinator.import_note import delete_note
from helios.coordinator.migration_records import ended_with
from helios.coordinator.publisher import Publisher
from helios.coordinator.sweep import make_durable
from helios.errors import Conflict, EngineError, InvalidInput, NotFound, Refused, Unavailable
from helios.model.ids import founder_id
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationStatus
from helios.model.notation import is_loopback
from helios.model.topology import ANY, Member, Node, NodeKind, Shard, Topology
from helios.placement.plan import pairs_between
from helios.ports.clock import Clock
from helios.ports.engine import EngineInfo
from helios.ports.records import (
    CHANGES,
    IMPORTS,
    MEMBERS,
    MIGRATIONS,
    MemberRecord,
    Record,
    list_records,
    put_record,
    read_record,
)
from helios.ports.store import Compare, Delete, Operation, Put

logger = logging.getLogger(__name__)


def founding_member(node: Node, address_record: MemberRecord | None) -> Member | None:
    """The server that a node brings: an external node is its own, a supervised one has made it known."""
    member_id = founder_id(node.id)
    if node.kind is NodeKind.EXTERNAL:
        return Member(member_id, node.id, node.address)
    return None if address_record is None else Member(member_id, node.id, address_record.address)


_OWNS_ALL = "added; as the first node it owns every key"


class Queue:
    """Admits new requests and remembers those whose turn is still to come."""

    def __init__(
        self,
        publisher: Publisher,
        access: Access,
        clock: Clock,
        policy: Callable[[], Policy],
        new_id: Callable[[], str],
        plan: Callable[[Change], Awaitable[tuple[Rebalancing | None, str]]],
    ) -> None:
        self._publisher = publisher
        self._access = access
        self._clock = clock
        self._policy = policy
        self._new_id = new_id
        self._plan = plan
        self._known: set[str] = set()
        self._waiting: list[Change] = []
        self._urgent: list[Change] = []
        self._running: Change | None = None

    def next(self) -> Change | None:
        """The request whose turn it is, when the one before has ended."""
        self._running = self._waiting.pop(0) if self._waiting else None
        return self._running

    def urgent(self) -> list[Change]:
        """The requests that wait for nothing: what stands before the others may wait for them."""
        urgent, self._urgent = self._urgent, []
        return urgent

    async def take(self, request: Record[Change]) -> bool:
        """Look at a request as the store has it; whether something is to be done now."""
        change = request.value
        if change.id in self._known or change.status.ended:
            return False
        self._known.add(change.id)
        if change.status is ChangeStatus.SUBMITTED:
            try:
                return await self._admit(request)
            except Conflict:
                logger.info("request withdrawn: change=%s", change.id)
                foreseen_ = await self.migrations_of(change.id)
                await self._publisher.write_apart([Delete(MIGRATIONS + migration.id) for migration in foreseen_])
                return False
        if change.status is ChangeStatus.QUEUED:
            self._wait(change)
        return change.status is ChangeStatus.QUEUED

    async def cancel(self, change_id: str) -> bool:
        """End a request whose turn has not come; False where it does not wait.

        An import that another coordinator has begun is ended in its turn: it may have left keys on both sides.
        """
        begun = await self._publisher.store.get(IMPORTS + change_id) is not None
        change = next((waiting for waiting in self._waiting if waiting.id == change_id), None)
        if change is None or begun:
            return False
        self._waiting.remove(change)
        await self.end(change, ChangeStatus.CANCELLED, "cancelled before it began")
        return True

    async def end(self, change: Change, status: ChangeStatus, error: str) -> None:
        """The request ends without having moved a key; its pending migrations end with it."""
        ended = replace(change, status=status, error=error)
        operations = [put_record(CHANGES + change.id, ended)]
        behind: list[Operation] = [*await delete_note(self._publisher.store, change.id)] if change.import_keys else []
        behind += [
            put_record(MIGRATIONS + migration.id, ended_with(ended, migration, self._clock))
            for migration in await self.migrations_of(change.id)
            if not migration.status.ended
        ]
        if change.kind is ChangeKind.REMOVE_NODE:
            await self._publisher.publish(lambda topology: stays(topology, change.node), operations, behind=behind)
        else:
            await self._publisher.write(operations, behind=behind)

    async def done(self, change: Change, outcome: str = "") -> None:
        """The request has ended as it was meant."""
        done = replace(change, status=ChangeStatus.DONE, outcome=outcome or change.outcome)
        await self._publisher.write([put_record(CHANGES + change.id, done)])

    async def migrations_of(self, change_id: str) -> list[Migration]:
        """The migrations that a request has led to so far."""
        records = await list_records(self._publisher.store, Migration, MIGRATIONS)
        return [record.value for record in records if record.value.change == change_id]

    async def _admit(self, request: Record[Change]) -> bool:
        """Admit or refuse; raises Conflict, with nothing changed, if the request has been withdrawn meanwhile."""
        change, asked = request.value, Compare(request.key, request.version)
        try:
            members = await self._members(change)
            if await self._inspect(change, members):
                # It can be withdrawn no longer: what comes next cannot be undone.
                asked = Compare(request.key, await self._publisher.write([put_record(request.key, change)], [asked]))
                await self._flush(members[change.nodes[0].id])
            await self._grant(change, members, asked)
        except (InvalidInput, NotFound, Refused, Unavailable, EngineError) as error:
            refused = replace(change, status=ChangeStatus.REFUSED, error=refusal(error))
            await self._publisher.write([put_record(CHANGES + change.id, refused)], [asked])
            return False
        return True

    async def _grant(self, change: Change, members: dict[str, Member], asked: Compare) -> None:
        """Publish what comes of the request at once, and let it wait for its turn where there is more to come.

        Raises what it is to be refused for: it is looked at once more in the moment in which the topology changes,
        since a transition may have begun in between.
        """
        importing = change.kind is ChangeKind.ADD_NODE and change.import_keys
        planned: Rebalancing | None = None

        def admitted_by(topology: Topology) -> Admission:
            return Admission(None, queued=True) if importing else admit(topology, change, members, self._policy())

        admission = admitted_by(self._publisher.topology)
        queued = admission.queued
        answered = change
        if self._plans_now(change):
            planned, said = await self._plan(change)
            queued = planned is not None
            answered = replace(change, reason=said) if queued else replace(change, outcome=said)
        elif change.kind is ChangeKind.ADD_NODE and not self._publisher.topology.nodes:
            answered = replace(change, outcome=_OWNS_ALL)
        answered = replace(answered, status=ChangeStatus.QUEUED if queued else ChangeStatus.DONE)
        operations = [put_record(CHANGES + change.id, answered)]
        expected: list[Put] = []
        if queued and not importing:
            known = await self.migrations_of(change.id)  # by a coordinator that died before it answered
            expected = self._expected(admission.topology or self._publisher.topology, answered, planned, known)
        if admission.topology is not None:
            await self._publisher.publish(
                lambda topology: admitted_by(topology).topology or topology, operations, [asked], ahead=expected
            )
        else:
            await self._publisher.write(operations, [asked], ahead=expected)
        if queued:
            self._wait(answered)

    def _wait(self, change: Change) -> None:
        (self._urgent if change.accept_loss else self._waiting).append(change)

    def _plans_now(self, change: Change) -> bool:
        """Whether a rebalance can be planned as it comes: nothing is on its way that it would have to wait for."""
        topology = self._publisher.topology
        idle = topology.transition is None and not self._waiting
        return change.kind is ChangeKind.REBALANCE and topology.sharding_enabled and idle

    def _expected(
        self, topology: Topology, change: Change, planned: Rebalancing | None, known: list[Migration]
    ) -> list[Put]:
        """Pending migrations, as far as they can be foreseen: what runs before may still change them."""
        ahead = topology if topology.transition is None else replace(topology, placement=topology.transition.next)
        now = self._clock.wall()
        asked = (change.source, change.target)
        if change.kind is ChangeKind.MIGRATE and ANY not in asked:
            pairs: tuple[tuple[str, str], ...] = (asked,)
        elif planned is not None:
            pairs = pairs_between(topology.placement, planned.placement)
        elif change.kind is ChangeKind.REBALANCE and topology.sharding_enabled:
            pairs = ()  # By the time that its turn comes loads will have changed.
        else:
            pairs = pairs_between(ahead.placement, placement_after(ahead, change))
        if change.kind is ChangeKind.MIGRATE:
            pairs = pairs or (asked,)  # whoever has asked can follow that nothing is to be done
        return [
            put_record(
                MIGRATIONS + migration_id,
                Migration(migration_id, change.id, source, target, change.pattern, requested_at=now),
            )
            for number, (source, target) in enumerate(pairs)
            for first in [change.migration if number == 0 else ""]
            for migration_id in [first or foreseen(known, source, target) or self._new_id()]
        ]

    async def admit_imported(self, change: Change) -> Admission:
        """Take in the node of an import that has been emptied."""
        members = await self._members(change)
        admission = admit(self._publisher.topology, change, members, self._policy())
        await self._publisher.publish(
            lambda topology: admit(topology, change, members, self._policy()).topology or topology
        )
        return admission

    async def _members(self, change: Change) -> dict[str, Member]:
        members: dict[str, Member] = {}
        for node in change.nodes:
            record = await read_record(self._publisher.store, MemberRecord, MEMBERS + founder_id(node.id))
            member = founding_member(node, None if record is None else record.value)
            if member is not None:
                members[node.id] = member
        return members

    async def _inspect(self, change: Change, members: dict[str, Member]) -> bool:
        """Whether the node's server is to be emptied first.

        One that comes with keys of its own joins only when it was said what becomes of them.
        """
        if change.kind is ChangeKind.FOUND and not self._publisher.topology.nodes:
            adopted = {node.id for node in change.nodes if change.adopt and node.kind is NodeKind.EXTERNAL}
            await self._check_empty({name: member for name, member in members.items() if name not in adopted})
        if change.kind is not ChangeKind.ADD_NODE:
            return False
        node = change.nodes[0]
        if self._publisher.topology.node(node.id) is not None or node.id not in members:
            return False
        refuse_joining(node, [*self._waiting, *([] if self._running is None else [self._running])])
        self._refuse_unreachable(node, members[node.id])
        engine = await self._access.administer(members[node.id])
        try:
            keys = await engine.count()
            info = await engine.info()
        finally:
            await engine.close()
        if node.kind is NodeKind.EXTERNAL:
            await self._refuse_known(node, info)
            # The first node of a cluster is no target: it owns all keys, and may lose them to others.
            if self._publisher.topology.shards and (reason := await self._access.unfenceable(members[node.id])):
                raise Refused(reason)
            await self._check_versions(members[node.id], importing=bool(keys and change.import_keys))
        others = [shard.leading for shard in self._publisher.topology.shards]
        await refuse_skewed(self._access, self._clock, [(other, members[node.id]) for other in others])
        if keys and not change.flush and not change.import_keys and not change.adopt:
            raise Refused(holds_keys(node, keys, first=not self._publisher.topology.nodes))
        if not keys:
            await Doubts(self._publisher, members[node.id]).note(())
            if change.flush or node.kind is NodeKind.EXTERNAL:
                await self._keep_empty(members[node.id])
        return bool(keys and change.flush)

    async def _keep_empty(self, member: Member) -> None:
        """Let a power cut bring nothing back: its owner, or an earlier attempt, may have emptied it a moment ago."""
        engine = await self._access.administer(member)
        try:
            await make_durable(engine)
        finally:
            await engine.close()

    async def _check_empty(self, members: dict[str, Member]) -> None:
        """Refuse to found a cluster over keys of an earlier one: they would lie where nobody looks for them."""
        for name, member in sorted(members.items()):
            try:
                engine = await self._access.administer(member)
                try:
                    keys = await engine.count()
                finally:
                    await engine.close()
            except EngineError as error:
                raise Unavailable(f"{name} does not say whether it holds keys: {error}") from error
            if keys:
                raise Refused(
                    f"{name} holds {keys} keys, and the store knows of no cluster: a new one would not find them. "
                    "Put the store (helios.db) back from a backup, or choose another --data-dir for a new cluster"
                )

    def _refuse_unreachable(self, node: Node, member: Member) -> None:
        """Raise Refused where some server is at a loopback address, which each host would look for on itself."""
        topology = self._publisher.topology
        supervised = {other.id for other in topology.nodes if other.kind is NodeKind.SUPERVISED}
        local = is_loopback(member.address.host)
        for other in (shard.leading for shard in topology.shards):
            there, started = is_loopback(other.address.host), other.node in supervised
            # Two at one address are on different hosts: each has its own server there.
            missed = local and started and (not there or member.address == other.address)
            if missed or (there and not local and node.kind is NodeKind.SUPERVISED):
                raise Refused(
                    f"the server of {node.id} is at {member.address} and that of {other.node} at {other.address}, and "
                    "a loopback address means another server on each host: start every node with an address that all "
                    "hosts reach, by --listen or --advertise, and take servers in by such ones"
                )

    async def _refuse_known(self, node: Node, info: EngineInfo) -> None:
        """Raise Refused where the server is one of the cluster already, or is being imported, by whatever address."""
        servers = self._publisher.topology
        for change in [*self._waiting, *([] if self._running is None else [self._running])]:
            for other in change.nodes if change.import_keys else ():
                member = Member(founder_id(other.id), other.id, other.address)
                servers = replace(servers, shards=(*servers.shards, Shard(other.id, member.id, (member,))))
        await refuse_known(servers, self._access.administer, node.id, node.address, info)

    async def _check_versions(self, member: Member, *, importing: bool) -> None:
        """A server that Helios did not choose joins only if keys can move to it, and if it brings keys, from it."""
        others = [shard.leading for shard in self._publisher.topology.shards]
        moves = [(other, member) for other in others]
        await check_readable(self._access, moves + [(member, other) for other in others if importing])

    async def _flush(self, member: Member) -> None:
        """Empty a server as a user of this term: what a replaced coordinator asked for must not come later."""
        with self._access.identity() as identity:
            engine = await self._access.open(member, identity)
            try:
                if any(shard.leading.address == member.address for shard in self._publisher.topology.shards):
                    raise Refused(f"{member.node} at {member.address} has joined meanwhile: its keys are the cluster's")
                await engine.flush()
                await make_durable(engine)
            finally:
                await engine.close()
        await Doubts(self._publisher, member).note(())


def foreseen(migrations: list[Migration], source: str, target: str) -> str | None:
    """The pending migration that was made for this pair when the request came in."""
    for migration in migrations:
        if (migration.source, migration.target) == (source, target) and migration.status is MigrationStatus.PENDING:
            return migration.id
    return None
