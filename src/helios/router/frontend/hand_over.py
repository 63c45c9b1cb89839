"""Handing clients over to another node before their router stops: redis-py calls this maintenance notifications."""

from __future__ import annotations

import asyncio
import logging
import zlib

from helios.errors import StoreError
from helios.model.ids import Address
from helios.model.topology import Node, NodeKind, NodeState, Topology
from helios.ports.clock import Clock
from helios.ports.records import SESSIONS, SessionRecord, list_records
from helios.ports.store import Store
from helios.resp.encoding import bulk, integer
from helios.router.frontend.client_table import ClientTable
from helios.router.frontend.connection import ClientConnection

logger = logging.getLogger(__name__)

NO_ENDPOINT = b"none"
ENDPOINT_TYPES = frozenset((b"internal-ip", b"external-ip", b"internal-fqdn", b"external-fqdn", NO_ENDPOINT))
_AWAY_S = 30  # so long a client keeps to the node that it is given
_RECONNECT_S = 2  # a client that wants no address connects again after half of this


class HandOver:
    """Tells clients that asked for it where to go, and waits until they have gone."""

    def __init__(self, store: Store, clock: Clock, clients: ClientTable) -> None:
        self._store = store
        self._clock = clock
        self._clients = clients

    async def run(self, topology: Topology, node_id: str, timeout_s: float) -> None:
        """Return when no client is left that has somewhere to go, or the time is over."""
        asked = [client for client in self._clients.values() if client.moving_endpoint and client.protocol == 3]
        if not asked:
            return
        nodes = await self._other_nodes(topology, node_id)
        number = int(self._clock.wall())  # clients know by it that several pushes are about one hand-over
        told = []
        for client in asked:
            push = _moving(client, nodes, number)
            if push is not None:
                client.push(push)
                told.append(client)
        try:
            async with asyncio.timeout(timeout_s):
                await self._clients.without(told)
        except TimeoutError:
            logger.info(
                "clients not handed over: node=%s clients=%d", node_id, sum(c.id in self._clients for c in told)
            )

    async def _other_nodes(self, topology: Topology, node_id: str) -> list[Node]:
        """Those whose routers serve now."""
        try:
            sessions = await list_records(self._store, SessionRecord, SESSIONS)
        except StoreError as error:
            logger.warning("no node known to hand clients over to: node=%s error=%s", node_id, error)
            return []
        serving = {record.value.router for record in sessions} - {node_id}
        return [
            node
            for node in topology.nodes
            if node.id in serving and node.kind is NodeKind.SUPERVISED and node.state is NodeState.ACTIVE
        ]


def _moving(client: ClientConnection, nodes: list[Node], number: int) -> bytes | None:
    """The push that sends a client away; None if it has nowhere to go."""
    if client.moving_endpoint == NO_ENDPOINT:
        return _push(number, _RECONNECT_S, b"_\r\n")
    here = Address.parse(client.local_address)
    # Clients take the host from the push and keep their port.
    hosts = sorted(node.address.host for node in nodes if node.address.port == here.port)
    hosts = [host for host in hosts if host != here.host]
    if not hosts:
        return None
    # All connections of a program go to one node, those of several programs to several.
    host = hosts[zlib.crc32(Address.parse(client.address).host.encode()) % len(hosts)]
    return _push(number, _AWAY_S, bulk(f"{host}:{here.port}".encode()))


def _push(number: int, time_s: int, endpoint: bytes) -> bytes:
    return b">4\r\n%b%b%b%b" % (bulk(b"MOVING"), integer(number), integer(time_s), endpoint)
