"""Background care for servers: whether nodes are there, and users that nobody uses any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf

from helios.control.health import Signs, judge
from helios.coordinator.long_scripts import LongScripts
from helios.coordinator.term_context import TermContext
from helios.errors import EngineBusy, EngineDenied, EngineError
from helios.model.health import NodeHealth
from helios.model.ids import founder_id
from helios.model.migration import Change
from helios.model.topology import Member, Node, NodeKind, Topology
from helios.ports.engine import Engine
from helios.ports.pulse import rest
from helios.ports.records import (
    AGENTS,
    HEALTH,
    AgentRecord,
    HealthRecord,
    Record,
    list_records,
    put_record,
    read_record,
)

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_FIRST_LOOK_S = 1.0
_END_USERS_EVERY_S = 10.0


class Watch:
    """Looks at every server every two seconds, and writes down how the nodes are whenever that changes.

    A look that takes long keeps none of the others waiting. Now and then the users of a server that belong to nobody
    any more are ended. A script that keeps a server too long is ended, too.
    """

    def __init__(
        self,
        context: TermContext,
        note: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._context = context
        self._publisher = context.publisher
        self._access = context.access
        self._clock = context.clock
        self._scripts = LongScripts(context.clock, lambda: context.settings, note)
        self._known: dict[str, NodeHealth] = {}
        self._answered: dict[str, float] = {}  # by member id
        self._before: dict[str, float] = {}  # by node id: when its servers answered the coordinator before
        self._heard: dict[str, tuple[int, float]] = {}  # each agent's record: its version, and when that came
        self._trouble: dict[str, str] = {}  # by member id
        self._refuses: dict[str, str] = {}  # by member id, of those that lead
        self._users_ended: dict[str, float] = {}  # by member id: when its server was last rid of users

    async def run(self) -> None:
        """Watch forever. Raises StoreError."""
        record = await read_record(self._publisher.store, HealthRecord, HEALTH)
        if record is not None:
            self._known = {health.node: health for health in record.value.nodes}
        began = self._clock.wall()
        for health in self._known.values():
            # Nobody looked between two coordinators: a silence of that time proves nothing.
            self._before[health.node] = began if health.status.heard else (health.answered_at or began)
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._watch(tasks, began)
        finally:
            await self._access.kept.let_go()

    async def _watch(self, tasks: asyncio.TaskGroup, began: float) -> None:
        looks: dict[str, asyncio.Task[None]] = {}
        first = True
        while True:
            topology = self._publisher.topology
            servers = _servers(topology)
            for member, leads in servers:
                node = topology.node(member.node)
                if node is not None and (member.id not in looks or looks[member.id].done()):
                    looks[member.id] = tasks.create_task(self._look(node, member, leads))
            if first and looks:
                # Else servers that were silent under the coordinator before would be so until the second look.
                await asyncio.wait(looks.values(), timeout=_FIRST_LOOK_S)
                first = False
            await self._access.kept.let_go(but=[member for member, _ in servers])
            await self._judge(began)
            await rest(_LOOK_EVERY_S)

    async def _look(self, node: Node, member: Member, leads: bool) -> None:
        try:
            async with self._access.kept.engine(member) as engine:
                if leads and not await self._serves(node, member, engine):
                    return
                if not leads:
                    self._refuses.pop(member.id, None)
                    self._note_refusal(member, await engine.refuses_writes())
                self._answered[member.id] = self._clock.wall()
                self._trouble.pop(member.id, None)
                if node.kind is NodeKind.EXTERNAL:
                    seen = AgentRecord(node.id, node.address, node.kind, self._clock.wall())
                    await self._publisher.write([put_record(AGENTS + node.id, seen)])
                if self._clock.monotonic() >= self._users_ended.get(member.id, -inf) + _END_USERS_EVERY_S:
                    await self._end_users(node, member, engine)
                    self._users_ended[member.id] = self._clock.monotonic()
        except EngineError as error:
            self._trouble[member.id] = str(error)
            self._context.counts.forget(member.id)
            logger.debug("no answer: node=%s error=%s", node.id, error)

    async def _serves(self, node: Node, member: Member, engine: Engine) -> bool:
        """Whether a leader answers clients; what keeps it from that is ended, if that can be. Raises EngineError."""
        try:
            vitals = await engine.vitals()
            self._context.counts.saw(member.id, vitals.keys)
            self._refuses[member.id] = vitals.refuses
            self._note_refusal(member, vitals.refuses)
        except EngineBusy:
            trouble = await self._scripts.end(node.id, engine)
            if trouble:
                self._trouble[member.id] = trouble
                return False
        self._scripts.over(node.id)
        return True

    def _note_refusal(self, member: Member, refuses: str) -> None:
        """Let all know whether a server takes no writes, or would take none."""
        refusing = self._context.refusing
        (refusing.add if refuses else refusing.discard)(member.id)

    async def _end_users(self, node: Node, member: Member, engine: Engine) -> None:
        try:
            await self._access.end_users(engine)
            await self._end_sessions(member, engine)
        except EngineDenied:
            if node.kind is not NodeKind.EXTERNAL:
                raise

    async def _end_sessions(self, member: Member, engine: Engine) -> None:
        """Users of sessions that have ended are of no use to anyone."""
        sessions, fencing = self._context.sessions, self._context.fencing
        present = await fencing.session_users(engine, member)
        if present is not None and present - sessions.present.keys():
            await sessions.look()
            await fencing.end_those_over(member, present, partial(self._access.administer, member))

    async def _judge(self, began: float) -> None:
        records = await list_records(self._publisher.store, AgentRecord, AGENTS)
        now, timeout_s = self._clock.wall(), self._context.settings.coordinator.health_timeout
        heartbeats = {record.value.node: self._heard_at(record, now) for record in records}
        told = {record.value.node: record.value.trouble for record in records}
        judged: dict[str, NodeHealth] = {}
        servers: dict[str, list[str]] = {}
        for member, _ in _servers(self._publisher.topology):
            servers.setdefault(member.node, []).append(member.id)
        for node in self._publisher.topology.nodes:
            new = self._before.get(node.id, max(began, now - _LOOK_EVERY_S))
            mine = servers.get(node.id, [node.id])
            answered_at = min(self._answered.setdefault(member_id, new) for member_id in mine)
            heartbeat_at = answered_at if node.kind is NodeKind.EXTERNAL else heartbeats.get(node.id)
            trouble = told.get(node.id) or self._first_of(self._trouble, mine)
            signs = Signs(heartbeat_at, answered_at, trouble, self._first_of(self._refuses, mine))
            health = judged[node.id] = judge(node.id, signs, self._known.get(node.id), now, timeout_s)
            before = self._known.get(node.id)
            if before is not None and before.status is not health.status:
                logger.warning(
                    "node %s: node=%s before=%s reason=%s", health.status, node.id, before.status, health.reason
                )
        self._before.clear()  # a server that comes later is new
        changed = {n: h.status for n, h in judged.items()} != {n: h.status for n, h in self._known.items()}
        self._known = judged
        if changed:
            record = HealthRecord(tuple(judged[node] for node in sorted(judged)))
            await self._publisher.write([put_record(HEALTH, record)])

    @staticmethod
    def _first_of(said: Mapping[str, str], member_ids: list[str]) -> str:
        return next((said[member_id] for member_id in member_ids if said.get(member_id)), "")

    def _heard_at(self, record: Record[AgentRecord], now: float) -> float:
        """When the agent was last heard from, by this process's clock: others' clocks may be far off.

        Of an agent that was silent before this process began to look, its own word is all there is until the next.
        """
        node = record.value.node
        known = self._known.get(node)
        version, at = self._heard.get(node, (record.version, now))
        if node not in self._heard and known is not None and not known.status.heard:
            at = min(record.value.seen_at, now)
        if version != record.version:
            at = now
        self._heard[node] = record.version, at
        return at


def _servers(topology: Topology) -> list[tuple[Member, bool]]:
    """Every server of every shard, and whether it leads; and external ones that others have replaced."""
    listed = [(member, member.id == shard.leader) for shard in topology.shards for member in shard.servers]
    there = {member.node for member, _ in listed}
    replaced = [node for node in topology.nodes if node.kind is NodeKind.EXTERNAL and node.id not in there]
    return [*listed, *((Member(founder_id(node.id), node.id, node.address), False) for node in replaced)]
