"""Background care for servers: whether nodes are there, and users that nobody uses any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from helios.control.health import Signs, judge
from helios.coordinator.access import Access
from helios.coordinator.long_scripts import LongScripts
from helios.coordinator.publisher import Publisher
from helios.errors import EngineBusy, EngineDenied, EngineError
from helios.model.health import NodeHealth
from helios.model.migration import Change
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, NodeKind, Shard
from helios.ports.clock import Clock
from helios.ports.engine import Engine, session_of
from helios.ports.records import (
    AGENTS,
    HEALTH,
    SESSIONS,
    AgentRecord,
    HealthRecord,
    list_records,
    put_record,
    read_record,
)

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_FIRST_LOOK_S = 1.0


class Watch:
    """Looks at every server every two seconds, and writes down how the nodes are whenever that changes.

    A look that takes long keeps none of the others waiting. Between two looks at a server that answers, its
    users that belong to nobody any more are ended. A script that keeps a server too long is ended, too.
    """

    def __init__(
        self,
        publisher: Publisher,
        access: Access,
        clock: Clock,
        settings: Callable[[], ClusterSettings],
        note: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._publisher = publisher
        self._access = access
        self._clock = clock
        self._settings = settings
        self._scripts = LongScripts(clock, settings, note)
        self._known: dict[str, NodeHealth] = {}
        self._answered: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        self._refuses: dict[str, str] = {}

    async def run(self) -> None:
        """Watch for ever. Raises StoreError."""
        record = await read_record(self._publisher.store, HealthRecord, HEALTH)
        if record is not None:
            self._known = {health.node: health for health in record.value.nodes}
        began = self._clock.wall()
        for health in self._known.values():
            # Nobody looked between two coordinators: a silence of that time proves nothing.
            self._answered[health.node] = began if health.status.heard else (health.answered_at or began)
        looks: dict[str, asyncio.Task[None]] = {}
        first = True
        async with asyncio.TaskGroup() as tasks:
            while True:
                topology = self._publisher.topology
                for shard in topology.shards:
                    node = topology.node(shard.leading.node)
                    if node is not None and (shard.id not in looks or looks[shard.id].done()):
                        looks[shard.id] = tasks.create_task(self._look(node, shard))
                if first and looks:
                    # Else servers that were silent under the coordinator before would be so until the second look.
                    await asyncio.wait(looks.values(), timeout=_FIRST_LOOK_S)
                    first = False
                await self._judge(began)
                await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self, node: Node, shard: Shard) -> None:
        try:
            engine = await self._access.administer(shard.leading)
            try:
                try:
                    await engine.count()
                    self._refuses[node.id] = await engine.refuses_writes()
                except EngineBusy:
                    trouble = await self._scripts.end(node.id, engine)
                    if trouble:
                        self._trouble[node.id] = trouble
                        return
                self._scripts.over(node.id)
                self._answered[node.id] = self._clock.wall()
                self._trouble.pop(node.id, None)
                if node.kind is NodeKind.EXTERNAL:
                    seen = AgentRecord(node.id, node.address, node.kind, self._clock.wall())
                    await self._publisher.write([put_record(AGENTS + node.id, seen)])
                await self._end_users(node, engine)
            finally:
                await engine.close()
        except EngineError as error:
            self._trouble[node.id] = str(error)
            logger.debug("no answer: node=%s error=%s", node.id, error)

    async def _end_users(self, node: Node, engine: Engine) -> None:
        try:
            await self._access.end_users(engine)
            await _end_sessions(self._publisher, engine)
        except EngineDenied:
            if node.kind is not NodeKind.EXTERNAL:
                raise

    async def _judge(self, began: float) -> None:
        records = await list_records(self._publisher.store, AgentRecord, AGENTS)
        heartbeats = {record.value.node: record.value.seen_at for record in records}
        now, timeout_s = self._clock.wall(), self._settings().coordinator.health_timeout
        judged: dict[str, NodeHealth] = {}
        for node in self._publisher.topology.nodes:
            answered_at = self._answered.setdefault(node.id, max(began, now - _LOOK_EVERY_S))
            heartbeat_at = answered_at if node.kind is NodeKind.EXTERNAL else heartbeats.get(node.id)
            signs = Signs(heartbeat_at, answered_at, self._trouble.get(node.id, ""), self._refuses.get(node.id, ""))
            health = judged[node.id] = judge(node.id, signs, self._known.get(node.id), now, timeout_s)
            before = self._known.get(node.id)
            if before is not None and before.status is not health.status:
                logger.warning(
                    "node %s: node=%s before=%s reason=%s", health.status, node.id, before.status, health.reason
                )
        changed = {n: h.status for n, h in judged.items()} != {n: h.status for n, h in self._known.items()}
        self._known = judged
        if changed:
            record = HealthRecord(tuple(judged[node] for node in sorted(judged)))
            await self._publisher.write([put_record(HEALTH, record)])


async def _end_sessions(publisher: Publisher, engine: Engine) -> None:
    """Users of sessions that have ended are of no use to anyone."""
    users = {user: session for user in await engine.users() if (session := session_of(user)) is not None}
    if not users:
        return
    # The sessions are listed after the users: one that was made in between is in both.
    snapshot = await publisher.store.list(SESSIONS)
    living = {entry.key.removeprefix(SESSIONS) for entry in snapshot.entries}
    for user, session in users.items():
        if session not in living:
            await publisher.confirm()
            await engine.force_off(user)
