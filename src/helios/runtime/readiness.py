"""Whether the parts of a cluster serve already."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import hiredis

from helios.errors import EngineUnreachable, StartError, StoreError
from helios.model.ids import Address
from helios.model.topology import Topology
from helios.node.ports import is_wildcard
from helios.node.probe import ask
from helios.placement.routing import Routes
from helios.ports.store import Store
from helios.stores.records import AGENTS, TOPOLOGY, AgentRecord, read_record

_SERVING_S = 60.0
_POLL_S = 0.05
_KEYS_TRIED = 5000


async def agent_ready(store: Store, node_id: str, pid: int) -> bool:
    """Whether the agent of that pid says that its node serves."""
    try:
        record = await read_record(store, AgentRecord, AGENTS + node_id)
    except StoreError:
        return False  # a store that is busy for a moment says nothing about the agent
    return record is not None and record.value.pid == pid and record.value.ready


async def answers_http(address: Address) -> bool:
    """Whether a REST interface answers there that it can serve."""
    near = _near(address)
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(near.host, near.port)
            try:
                writer.write(f"GET /healthz HTTP/1.1\r\nHost: {near}\r\nConnection: close\r\n\r\n".encode())
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


async def keys_of(store: Store, shards: Collection[str]) -> list[str]:
    """A key for each of these shards that owns any, to ask routers for."""
    record = await read_record(store, Topology, TOPOLOGY)
    routes = Routes(Topology(epoch=0) if record is None else record.value)
    found: dict[str, str] = {}
    for number in range(0 if routes.empty else _KEYS_TRIED):
        key = f"helios:ready:{number}"
        found.setdefault(routes.owner(key.encode()), key)
    return [key for shard, key in found.items() if shard in shards]


async def serving(address: Address, keys: Sequence[str]) -> None:
    """Return when the router there answers for these keys; raises StartError after a minute."""
    near = _near(address)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SERVING_S
    while True:
        try:
            replies = await ask(near, [["PING"], *(["EXISTS", key] for key in keys)])
            errors = [reply for reply in replies if isinstance(reply, hiredis.ReplyError)]
            if not errors:
                return
            reason = f"{near} answers: {errors[0]}"
        except EngineUnreachable as error:
            reason = str(error)
        if loop.time() > deadline:
            raise StartError(f"the cluster does not come to serve: {reason}")
        await asyncio.sleep(_POLL_S)


def _near(address: Address) -> Address:
    """How this machine itself reaches what listens at `address`."""
    if not is_wildcard(address.host):
        return address
    return Address("::1" if ":" in address.host else "127.0.0.1", address.port)
