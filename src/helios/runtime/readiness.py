"""Whether the parts of a cluster serve already."""

from __future__ import annotations

import asyncio

import hiredis

from helios.errors import EngineUnreachable, StartError
from helios.model.ids import Address
from helios.node.ports import is_wildcard
from helios.node.probe import ask
from helios.ports.store import Store
from helios.stores.records import AGENTS, AgentRecord, read_record

_SERVING_S = 60.0
_POLL_S = 0.05


async def agent_ready(store: Store, node_id: str, pid: int) -> bool:
    """Whether the agent of that pid says that its node serves."""
    record = await read_record(store, AgentRecord, AGENTS + node_id)
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


async def serving(address: Address) -> None:
    """Return when the router there answers and reaches every shard; raises StartError after a minute."""
    near = _near(address)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _SERVING_S
    while True:
        try:
            pong, size = await ask(near, [["PING"], ["DBSIZE"]])
            if isinstance(size, int) and not isinstance(pong, hiredis.ReplyError):
                return
            reason = f"{near} answers: {size}"
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
