"""Background care for servers: heartbeats of external nodes, and users that nobody uses any more."""

from __future__ import annotations

import asyncio
import logging

from helios.coordinator.access import SESSION_PREFIX, Access
from helios.coordinator.publisher import Publisher
from helios.errors import EngineError
from helios.model.topology import Node, NodeKind, Shard
from helios.ports.clock import Clock
from helios.ports.engine import Engine
from helios.stores.records import AGENTS, SESSIONS, AgentRecord, put_record

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0


async def watch_nodes(publisher: Publisher, access: Access, clock: Clock) -> None:
    """Look at every member now and then, for ever. Raises StoreError."""
    while True:
        topology = publisher.topology
        looks = [
            _look(publisher, access, clock, node, shard)
            for shard in topology.shards
            for node in topology.nodes
            if node.id == shard.leading.node
        ]
        await asyncio.gather(*looks)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _look(publisher: Publisher, access: Access, clock: Clock, node: Node, shard: Shard) -> None:
    try:
        engine = await access.administer(shard.leading)
        try:
            if node.kind is NodeKind.EXTERNAL:
                await engine.count()
                seen = AgentRecord(node.id, node.address, node.kind, clock.wall())
                await publisher.write([put_record(AGENTS + node.id, seen)])
            else:
                await access.end_users(engine)
                await _end_sessions(publisher, engine)
        finally:
            await engine.close()
    except EngineError as error:
        log.debug("no answer: node=%s error=%s", node.id, error)


async def _end_sessions(publisher: Publisher, engine: Engine) -> None:
    """Users of sessions that have ended are of no use to anyone."""
    users = {user for user in await engine.users() if user.startswith(SESSION_PREFIX)}
    if not users:
        return
    # The sessions are listed after the users: one that was made in between is in both.
    snapshot = await publisher.store.list(SESSIONS)
    living = {SESSION_PREFIX + entry.key.removeprefix(SESSIONS) for entry in snapshot.entries}
    for user in users - living:
        await publisher.confirm()
        await engine.force_off(user)
