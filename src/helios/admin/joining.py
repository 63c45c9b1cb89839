"""What may be asked for a node, and who answers at its address: a node of this cluster, a plain server, another."""

from __future__ import annotations

from helios.access.request_context import demand
from helios.access.rights import Need
from helios.admin.own_servers import refuse_known
from helios.errors import EngineDenied, EngineError, InvalidInput, Refused, Unavailable
from helios.model.ids import Address, check_id, founder_id
from helios.model.topology import Member, Node, NodeKind
from helios.ports.engine import Connector, EngineInfo
from helios.ports.records import AGENTS, RUNNING, AgentRecord, list_records, read_record
from helios.ports.store import Store
from helios.ports.topologies import read_topology

_OLDEST_MAJOR = 7
_WEIGHT_MAX = 1000.0


def check_keys_wish(import_keys: bool, flush: bool, adopt: bool) -> None:
    """Raise InvalidInput where more than one thing is to become of the keys that a server brings."""
    if import_keys + flush + adopt > 1:
        raise InvalidInput(
            "import, flush and adopt exclude each other: keys move to their owners, are deleted, or stay where they are"
        )


def check_node(node_id: str, weight: float) -> None:
    """Raise InvalidInput for an id or a weight that no node can have."""
    check_id("node", node_id)
    if not 0 < weight <= _WEIGHT_MAX:
        raise InvalidInput(
            f"weight {weight} of {node_id} is out of bounds: use a number above 0, up to {_WEIGHT_MAX:g}"
        )


async def identify(store: Store, connector: Connector, node_id: str, address: Address) -> Node:
    """The node that is to be added under this id. Raises Refused or Unavailable with what stands in the way.

    A server that is no node of this cluster's own is for administrators: who adds it can read all that moves there.
    Raises NotPermitted before anything is sent to it.
    """
    record = await read_record(store, AgentRecord, AGENTS + node_id)
    if record is not None and record.value.kind is NodeKind.SUPERVISED:
        agent = record.value
        runs = await store.get(RUNNING + node_id) is not None
        if _same(agent.address, address):
            if not runs:
                raise Unavailable(
                    f"{node_id} ran once, and does not now: start it with "
                    f"`helios node --id {node_id} --listen {address}`, then add it"
                )
            return Node(node_id, agent.address, NodeKind.SUPERVISED)
        if runs:
            raise Refused(f"the node {node_id} listens at {agent.address}, not at {address}")
    demand(Need.ALL, f"add the server at {address}, on which no node of this cluster runs: ask an admin")
    for other in await list_records(store, AgentRecord, AGENTS):
        agent = other.value
        there = agent.kind is NodeKind.SUPERVISED and agent.node != node_id and _same(agent.address, address)
        if there and await store.get(RUNNING + agent.node) is not None:
            raise Refused(f"the node {agent.node} listens at {address}: add it by that id, not as {node_id}")
    info = await _check_server(connector, node_id, address)
    await refuse_known(await read_topology(store), connector.open, node_id, address, info)
    return Node(node_id, address, NodeKind.EXTERNAL)


async def _check_server(connector: Connector, node_id: str, address: Address) -> EngineInfo:
    try:
        engine = await connector.open(Member(founder_id(node_id), node_id, address))
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
            "use its own id, and start it with the data folder or --store of this cluster"
        )
    if int(info.version.partition(".")[0]) < _OLDEST_MAJOR:
        raise Refused(f"{address} runs {info.product} {info.version}: Helios needs version {_OLDEST_MAJOR} or newer")
    return info


def _same(one: Address, other: Address) -> bool:
    return one.port == other.port and _plain(one.host) == _plain(other.host)


def _plain(host: str) -> str:
    return "127.0.0.1" if host in ("localhost", "::1") else host
