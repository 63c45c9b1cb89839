"""What `helios up` finds out before it starts anything: which nodes, where, and that nothing is in the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from helios.access.certificates import Certificates
from helios.access.publishing import stored_users
from helios.errors import InvalidInput, StartError
from helios.model.ids import Address
from helios.model.settings import ClusterSettings, Settings
from helios.model.topology import NodeKind, Topology
from helios.model.users import User
from helios.node.agent import CHILD, last_listen
from helios.node.files import DataFolder
from helios.node.locks import Holder, LockHeld, RunLock, holder_of
from helios.node.ports import taken
from helios.node.topology_copy import newest_copy
from helios.ports.location import StoreLocation
from helios.ports.records import SETTINGS, read_record
from helios.ports.topologies import read_topology
from helios.runtime.adoption import check_store
from helios.runtime.agreement import check_agreement
from helios.runtime.backends import locate, opened_store
from helios.runtime.security import check_exposed, tls_files

DEFAULT_SHARDS = 3
DEFAULT_PORT = 6379
MAX_SHARDS = 128
_ENDING_S = 15.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the command line says beside settings; None where it says nothing.

    With `move_ports` the nodes of this folder, too, listen from `port` on.
    With `rebuild` a lost store is made good by what the nodes have kept; a new cluster is founded with the keys of the
    server at `adopt`.
    With `parent_pipe` the cluster ends when its standard input does; a `temporary` one then removes its data folder.
    """

    shards: int | None = None
    port: int | None = None
    move_ports: bool = False
    rebuild: bool = False
    adopt: Address | None = None
    parent_pipe: bool = False
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node to run: where, and whether its agent runs already, in somebody else's care."""

    id: str
    listen: Address
    zone: str = ""
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started. `absent`: supervised nodes of the cluster that have no folder here.

    `joining` are new nodes of a cluster that exists, `staying` those that it has beyond the number asked for.
    `outside` runs without being a node of the cluster: where all nodes are external, nobody else takes clients or
    coordinates.
    """

    nodes: tuple[NodePlan, ...]
    absent: tuple[str, ...] = ()
    joining: tuple[str, ...] = ()
    staying: tuple[str, ...] = ()
    outside: str = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """The nodes that the cluster shall have, and that shall serve, after this start."""
        return tuple(node.id for node in self.nodes if node.id != self.outside)


def lock_folder(data: DataFolder) -> RunLock:
    """The right to be the `helios up` of this folder. Raises StartError naming who has it."""
    try:
        return RunLock.acquire(data.up_lock)
    except LockHeld as error:
        who = f"process {error.holder.process.pid}" if error.holder else "another process"
        raise StartError(
            f"helios up already runs on {data.root} ({who}): stop it, or choose another --data-dir"
        ) from error


async def look(data: DataFolder, settings: Settings, options: UpOptions) -> Plan:
    """The plan, after all checks. Changes nothing. Raises StartError, InvalidInput or StoreError."""
    if options.shards is not None and not 1 <= options.shards <= MAX_SHARDS:
        raise InvalidInput(f"--shards is {options.shards} but must be from 1 to {MAX_SHARDS}")
    kept = newest_copy(data)
    topology, users = Topology(epoch=0), settings.security.users
    location = locate(settings, data)
    if location.exists():
        topology, stored = await _existing(data, location, settings)
        users = users if settings.is_set("security.users") else stored
    if options.rebuild and kept.epoch > topology.epoch:
        topology = kept
    if options.move_ports and options.port is None:
        raise InvalidInput("--move-ports goes with --port, which says where shard-1 is to listen")
    check_store(data, location, kept, topology)
    check_adoption(topology, options.adopt)
    plan = plan_nodes(topology, _listens(data), options, settings.network.bind)
    foreign = await _foreign(data, plan)
    if foreign and topology is kept:
        raise StartError(f"{', '.join(sorted(foreign))} runs already: end it before the cluster is made again")
    if foreign and options.move_ports:
        raise StartError(f"{', '.join(sorted(foreign))} runs already: end it before its port is changed")
    nodes = tuple(NodePlan(node.id, node.listen, node.zone, node.id in foreign) for node in plan.nodes)
    plan = replace(plan, nodes=nodes)
    listens = {node.id: node.listen.host for node in nodes if not node.foreign}
    check_exposed(users, {**listens, "the REST interface": settings.gateway.listen.host})
    _check_ports(data, plan, settings)
    files = tls_files(settings.security)
    if files is not None:
        Certificates(files)
    return plan


async def _existing(data: DataFolder, location: StoreLocation, settings: Settings) -> tuple[Topology, tuple[User, ...]]:
    async with opened_store(data, location) as store:
        stored = await read_record(store, ClusterSettings, SETTINGS)
        if stored is not None:
            check_agreement(stored.value, settings)
        users = await stored_users(store) or ()
        return await read_topology(store), users


def check_adoption(topology: Topology, adopt: Address | None) -> None:
    """Raise StartError where a server was to be adopted by a cluster that has nodes, and not this one among them."""
    if adopt is None or not topology.nodes or any(node.address == adopt for node in topology.nodes):
        return
    names = ", ".join(node.id for node in topology.nodes)
    raise StartError(
        f"the cluster in this folder has the nodes {names}: a running server is adopted by a new one. Choose another "
        f"--data-dir, or start without --adopt and take its keys in: helios-cli addnode ID {adopt} --import"
    )


def _listens(data: DataFolder) -> dict[str, tuple[Address, str]]:
    found = {node_id: last_listen(data, node_id) for node_id in data.node_ids()}
    return {node_id: listen for node_id, listen in found.items() if listen is not None}


def plan_nodes(topology: Topology, known: Mapping[str, tuple[Address, str]], options: UpOptions, bind: str) -> Plan:
    """Which nodes to run. `known`: where the nodes of this folder listened last, and their zones.

    Nodes of the topology keep their addresses. A cluster that exists is not grown unless a number of
    shards is asked for, so that a node which was removed does not come back by itself.
    """
    supervised = [node.id for node in topology.nodes if node.kind is NodeKind.SUPERVISED]
    here = [node_id for node_id in supervised if node_id in known]
    absent = tuple(node_id for node_id in supervised if node_id not in known)
    count = options.shards if options.shards is not None else 0 if topology.nodes else DEFAULT_SHARDS
    port = options.port
    if port is None:
        port = known["shard-1"][0].port if "shard-1" in here else DEFAULT_PORT
    nodes: dict[str, NodePlan] = {}
    for node_id in here:
        listen, zone = known[node_id]
        nth = _number(node_id)
        if options.move_ports and nth is not None:
            listen = Address(listen.host, _port_of(node_id, nth, port))
        nodes[node_id] = NodePlan(node_id, listen, zone)
    for number in range(1, count + 1):
        node_id = f"shard-{number}"
        if node_id in nodes or topology.node(node_id) is not None:
            continue
        nodes[node_id] = NodePlan(node_id, Address(bind, _port_of(node_id, number, port)))
    _check_moved(nodes, here, options)
    outside = ""
    if topology.nodes and not supervised and not nodes:
        only = _outsider(topology, known, options, bind)
        nodes[only.id], outside = only, only.id
    ordered = tuple(nodes[node_id] for node_id in sorted(nodes, key=_in_order))
    return Plan(
        ordered,
        absent,
        joining=tuple(node.id for node in ordered if topology.nodes and node.id not in (*here, outside)),
        staying=tuple(node.id for node in ordered if (_number(node.id) or 0) > count and options.shards is not None),
        outside=outside,
    )


def _outsider(topology: Topology, known: Mapping[str, tuple[Address, str]], options: UpOptions, bind: str) -> NodePlan:
    """What takes clients where all nodes are external: where the first node that has left did, if any has."""
    left = min((node_id for node_id in known if topology.node(node_id) is None), key=_in_order, default="")
    if left and options.port is None:
        return NodePlan(left, *known[left])
    free = (f"shard-{number}" for number in itertools.count(1))
    node_id = left or next(node_id for node_id in free if topology.node(node_id) is None)
    return NodePlan(node_id, Address(bind, DEFAULT_PORT if options.port is None else options.port))


def _number(node_id: str) -> int | None:
    """N of the nodes that `helios up` calls shard-N; None for others, which keep their ports."""
    number = node_id.removeprefix("shard-")
    return int(number) if number.isdecimal() and node_id == f"shard-{int(number)}" and int(number) else None


def _port_of(node_id: str, number: int, first: int) -> int:
    if first + number - 1 > 65535:
        raise StartError(f"{node_id} would listen on port {first + number - 1}: choose a lower --port")
    return first + number - 1


def _check_moved(nodes: Mapping[str, NodePlan], here: list[str], options: UpOptions) -> None:
    """Other nodes and clients know a node by its address, so a flag does not silently lose against it."""
    first = nodes.get("shard-1")
    if options.port is not None and first is not None and "shard-1" in here and first.listen.port != options.port:
        raise StartError(
            f"shard-1 of this cluster listens on {first.listen}, not on port {options.port}: "
            f"leave --port out, or write --move-ports behind it if its clients are to find it there"
        )


def _in_order(node_id: str) -> tuple[str, int, str]:
    """shard-2 comes before shard-10."""
    stem = node_id.rstrip("0123456789")
    number = node_id[len(stem) :]
    return (stem, int(number) if number else -1, node_id)


async def _foreign(data: DataFolder, plan: Plan) -> set[str]:
    """The nodes whose agents run already. Children of a `helios up` that is gone are waited for: they are ending."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ENDING_S
    while True:
        holders = {node.id: holder for node in plan.nodes if (holder := holder_of(data.node(node.id).lock))}
        gateway = holder_of(data.gateway_lock)
        ending = [holder for holder in (*holders.values(), gateway) if holder and _is_child(holder)]
        if not ending:
            return set(holders)
        if loop.time() > deadline:
            raise StartError(
                f"process {ending[0].process.pid} of an earlier helios up on {data.root} does not end: end it"
            )
        await asyncio.sleep(0.1)


def _is_child(holder: Holder) -> bool:
    return holder.note.get(CHILD) == "yes"


def _check_ports(data: DataFolder, plan: Plan, settings: Settings) -> None:
    ports = [(node.listen, node.id) for node in plan.nodes if not node.foreign and not _served(data, node.id)]
    offset = settings.security.plain_port_offset if settings.security.tls_cert_file else 0
    for listen, node_id in list(ports) if offset else ():
        if listen.port + offset > 65535:
            raise StartError(
                f"{node_id} would listen on port {listen.port + offset} without TLS: choose a lower offset"
            )
        ports.append((Address(listen.host, listen.port + offset), f"{node_id} without TLS"))
    ports.append((settings.gateway.listen, "the REST interface"))
    seen: dict[int, str] = {}
    problems = []
    for listen, who in ports:
        if listen.port in seen:
            problems.append(f"{who} and {seen[listen.port]} would both listen on port {listen.port}")
        elif reason := taken(listen.host, listen.port):
            problems.append(f"{reason} ({who})")
        seen[listen.port] = who
    if problems:
        raise StartError(
            f"{'; '.join(problems)}: end what listens there, or choose other ports by --port and --api-port"
        )


def _served(data: DataFolder, node_id: str) -> bool:
    """Whether routers of this very node, left by an agent that was killed, hold its port."""
    return any(holder_of(path) for _, path in data.node(node_id).router_locks())
