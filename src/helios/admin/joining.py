"""Who answers at an address: a node of this cluster's folder, a plain server, or somebody else."""

from __future__ import annotations

from helios.access.request_context import demand
from helios.access.rights import Need
from helios.errors import EngineDenied, EngineError, Refused, Unavailable
from helios.model.ids import Address, leader_id
from helios.model.topology import Member, Node, NodeKind
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.records import AGENTS, AgentRecord, read_record
from helios.ports.store import Store

HEARD_RECENTLY_S = 10.0
_OLDEST_MAJOR = 7


async def identify(store: Store, connector: Connector, clock: Clock, node_id: str, address: Address) -> Node:
    """The node that is to be added under this id. Raises Refused or Unavailable with what stands in the way.

    A server that is no node of this cluster's own is for administrators: who adds it can read all that moves there.
    Raises NotPermitted before anything is sent to it.
    """
    record = await read_record(store, AgentRecord, AGENTS + node_id)
    if record is not None and record.value.kind is NodeKind.SUPERVISED:
        agent = record.value
        if _same(agent.address, address):
            if clock.wall() - agent.seen_at > HEARD_RECENTLY_S:
                raise Unavailable(
                    f"{node_id} was last heard from {clock.wall() - agent.seen_at:.0f} s ago: start it with "
                    f"`helios node --id {node_id} --listen {address}`, then add it"
                )
            return Node(node_id, agent.address, NodeKind.SUPERVISED)
        if clock.wall() - agent.seen_at <= HEARD_RECENTLY_S:
            raise Refused(f"the node {node_id} listens at {agent.address}, not at {address}")
    demand(Need.ALL, f"add the server at {address}, on which no node of this cluster runs: ask an admin")
    await _check_server(connector, node_id, address)
    return Node(node_id, address, NodeKind.EXTERNAL)


async def _check_server(connector: Connector, node_id: str, address: Address) -> None:
    try:
        engine = await connector.open(Member(leader_id(node_id), node_id, address))
        try:
            info = await engine.info()
        finally:
            await engine.close()
    except EngineDenied as error:
        raise Refused(
            f"the server at {address} wants a password, which external nodes cannot have yet: {error}"
        ) from error
    except EngineError as error:
        raise Unavailable(
            f"nothing that Helios can use answers at {address} ({error}): start a node there with "
            f"`helios node --id {node_id} --listen {address}`, or a valkey-server"
        ) from error
    if info.helios_node is not None:
        raise Refused(
            f"{address} is answered by the Helios node {info.helios_node!r}, not by {node_id!r}: "
            "use its own id, and the data folder of this cluster"
        )
    if int(info.version.partition(".")[0]) < _OLDEST_MAJOR:
        raise Refused(f"{address} runs {info.product} {info.version}: Helios needs version {_OLDEST_MAJOR} or newer")


def _same(one: Address, other: Address) -> bool:
    return one.port == other.port and _plain(one.host) == _plain(other.host)


def _plain(host: str) -> str:
    return "127.0.0.1" if host in ("localhost", "::1") else host
