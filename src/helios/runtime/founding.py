"""Making a cluster of the nodes that have been started, or bringing in those that it lacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from helios.admin.requests import Requests
from helios.errors import Refused, StartError, StoreError, StoreUnreachable, Unavailable
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind
from helios.model.topology import Node, NodeKind, Topology
from helios.ports.clock import Clock
from helios.ports.following import once_answered
from helios.ports.ids import new_id
from helios.ports.records import AGENTS, AgentRecord, read_record
from helios.ports.store import Store
from helios.ports.topologies import read_topology

if TYPE_CHECKING:  # a node makes one request, and does without all the others
    from helios.admin.client import Admin

logger = logging.getLogger(__name__)

# A coordinator that died with the last run holds its place until its lease has ended.
_TRIES = 3


ADOPTED = "adopted"
"""The id of the node that a running server becomes which a new cluster is founded with."""


async def bring_in(store: Store, admin: Admin, wanted: Sequence[str], adopted: Address | None = None) -> None:
    """See to it that the cluster has the `wanted` nodes, all of which run. Raises HeliosError.

    A new cluster has its keys on the `adopted` server, if one is given.
    """
    for last in range(_TRIES):
        try:
            await _bring_in(store, admin, wanted, adopted)
        except Unavailable:
            if last == _TRIES - 1:
                raise
        else:
            return


async def _bring_in(store: Store, admin: Admin, wanted: Sequence[str], adopted: Address | None) -> None:
    existing = (await read_topology(store)).nodes
    missing = [node_id for node_id in wanted if node_id not in {node.id for node in existing}]
    nodes = [await _node(store, node_id) for node_id in missing]
    if not existing and nodes:
        await (admin.found(nodes) if adopted is None else admin.adopt(ADOPTED, adopted, nodes))
        return
    for node in nodes:
        await admin.add_node(node.id, str(node.address))


async def found_as_first(
    store: Store, clock: Clock, node: Node, tell: Callable[[str], None], adopted: Address | None = None
) -> None:
    """Make the node the first one of its cluster if that has none yet. Never ends by itself.

    Of several that start at once one founds the cluster; the others are told how they come in. Keys that an `adopted`
    server has stay there.
    """
    nodes = (node,) if adopted is None else (node, Node(ADOPTED, adopted, NodeKind.EXTERNAL))
    owns = f"{node.id} is the first node of the cluster and owns all keys"
    if adopted is not None:
        owns = (
            f"the cluster is founded with the server at {adopted}: its node {ADOPTED} owns all keys, {node.id} none yet"
        )

    async def known() -> Topology:
        return await once_answered(lambda: read_topology(store), tell)

    requests = Requests(store, clock)
    while not (await known()).nodes:
        try:
            await requests.submit(Change(new_id(clock), ChangeKind.FOUND, nodes=nodes, adopt=adopted is not None))
        except (Unavailable, StoreUnreachable) as error:
            logger.info("not founded yet: node=%s error=%s", node.id, error)
        except (Refused, StoreError) as error:
            if not (await known()).nodes:
                tell(f"the cluster cannot be founded with {node.id}: {error}")
            break
        else:
            tell(owns)
    if (await known()).node(node.id) is None:
        tell(f"to take {node.id} into the cluster: helios-cli addnode {node.id} {node.address}")
    await asyncio.Event().wait()


async def _node(store: Store, node_id: str) -> Node:
    record = await read_record(store, AgentRecord, AGENTS + node_id)
    if record is None:
        raise StartError(f"the agent of {node_id} has not announced itself")
    return Node(node_id, record.value.address)
