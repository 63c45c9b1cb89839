"""Whether the parts of a cluster serve already."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from helios.errors import StartError, StoreError
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.workers import READY
from helios.ports.records import (
    AGENTS,
    SESSIONS,
    AgentRecord,
    SessionRecord,
    list_records,
    read_record,
)
from helios.ports.store import Store
from helios.ports.topologies import read_topology

_ROUTING_S = 60.0
_POLL_S = 0.05


async def agent_ready(store: Store, node_id: str, pid: int) -> bool:
    """Whether the agent of that pid says that its node serves."""
    try:
        record = await read_record(store, AgentRecord, AGENTS + node_id)
    except StoreError:
        return False  # a store that is busy for a moment says nothing about the agent
    return record is not None and record.value.pid == pid and record.value.ready


async def gateway_ready(data: DataFolder, pid: int) -> bool:
    """Whether the gateway of that pid says that it serves."""
    holder = holder_of(data.gateway_lock)
    return holder is not None and holder.process.pid == pid and holder.note.get(READY) == "yes"


async def routing(store: Store, node_ids: Collection[str]) -> None:
    """Return when routers of all these nodes use the current topology; raises StartError after a minute.

    That they listen, and that the data servers serve, the agents have said before.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ROUTING_S
    while True:
        try:
            missing = await _not_routing(store, node_ids)
            if not missing:
                return
            reason = f"no router of {missing[0]} goes by the present topology"
        except StoreError as error:
            reason = str(error)
        if loop.time() > deadline:
            raise StartError(f"the cluster does not come to serve: {reason}")
        await asyncio.sleep(_POLL_S)


async def _not_routing(store: Store, node_ids: Collection[str]) -> list[str]:
    epoch = (await read_topology(store)).epoch
    sessions = [record.value for record in await list_records(store, SessionRecord, SESSIONS)]
    routing = {session.router for session in sessions if session.acked_epoch >= epoch}
    return [node_id for node_id in node_ids if node_id not in routing]
