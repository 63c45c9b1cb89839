"""`helios node`: the agent of one node as a process."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from helios import __version__
from helios.coordinator.service import Coordinator
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.notation import is_loopback
from helios.model.settings import Settings
from helios.model.topology import Node
from helios.node.agent import Agent, AgentSpec, lock_node
from helios.node.claim import NodeClaim, this_process
from helios.node.files import DataFolder
from helios.node.stalled_writer import StalledWriterWatch
from helios.node.topology_copy import keep_copy, newest_copy
from helios.node.waiting import unless
from helios.node.workers import WorkerSpec
from helios.ports.following import once_answered
from helios.ports.location import StoreLocation
from helios.ports.records import ClusterRecord
from helios.ports.store import Store
from helios.ports.topologies import read_topology
from helios.runtime.adoption import check_store
from helios.runtime.agreement import agree, disagreements, follow
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.command_lines import child_command
from helios.runtime.departure_notice import tell_of_departure
from helios.runtime.failpoints import failpoints
from helios.runtime.founding import found_as_first
from helios.runtime.handover import fingerprint, hand_over
from helios.runtime.identity import INIT, check_folder, read_key, settle_identity
from helios.runtime.lifecycle import run, say, tell
from helios.runtime.logs import adjust_logging, start_logging
from helios.runtime.reach import Reach, advertised, once_resolved, reach
from helios.runtime.reload import Reloader
from helios.runtime.security import check_exposed, known_servers, server_tls, settle_users, with_absolute_files
from helios.runtime.settings import SettingsRead, SettingsSource, data_folder

_OTHER_USERS = (
    "security.users here are not those that the cluster has, and these hold: an edit of the settings file, while this "
    "node runs, changes them for all"
)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the command line says; `child`: started by `helios up`, and to end with it.

    `advertise` is where others reach what listens at `listen`, where that is not the same. With `leave_running` its
    end leaves its data server and routers to the next start.
    """

    node_id: str
    listen: Address
    advertise: Address | None = None
    zone: str = ""
    child: bool = False
    leave_running: bool = False


def run_node(options: NodeOptions, read: SettingsRead, source: SettingsSource | None) -> None:
    """Run a node until it is told to stop. Raises InvalidInput, StartError or StoreError.

    With a `source` of its own it follows its settings file.
    """
    settings = read.settings
    data = DataFolder(data_folder(settings))
    if options.listen.port + settings.security.plain_port_offset > 65535:
        raise StartError(f"{options.node_id} would listen above port 65535 without TLS: choose a lower port or offset")
    location = locate(settings, data)
    if not location.spans_hosts and not location.exists():
        check_exposed(settings.security.users, {options.node_id: options.listen.host})
    data.prepare()
    lock = lock_node(data, options.node_id, child=options.child)
    try:
        hand_over(settings, data.node(options.node_id).settings, read.origins)
        start_logging(settings.logging, data.log(options.node_id))
        reload = asyncio.Event()
        run(
            lambda stop: _serve(options, read, source, data, stop, reload),
            parent_pipe=options.child,
            reload=reload,
        )
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class _Joined:
    """What the process has found out of its cluster, and its claim to be the node: which one it is, settings, key."""

    store: Store
    location: StoreLocation
    cluster: ClusterRecord
    settings: Settings
    key: bytes
    claim: NodeClaim


async def _serve(
    options: NodeOptions,
    read: SettingsRead,
    source: SettingsSource | None,
    data: DataFolder,
    stop: asyncio.Event,
    reload: asyncio.Event,
) -> None:
    async with AsyncExitStack() as stack:
        found: list[_Joined] = []

        async def join() -> None:
            await once_resolved(options.listen.host, tell)
            location = locate(read.settings, data)
            store = await stack.enter_async_context(opened_store(data, location, tell=tell))
            found.append(await once_answered(lambda: _join(options, read, data, location, store), tell))
            stack.push_async_callback(found[0].claim.release)

        if not await unless(stop, join()):
            return
        (joined,) = found
        jobs = [joined.claim.lost()]
        if source is not None:
            for sentence in disagreements(joined.settings.cluster, read):
                tell(sentence)
            jobs.append(Reloader(source, read, joined.store, SystemClock(), who=_who(options), tell=tell).run(reload))
        await _run_agent(options, joined, data, stop, jobs)


def _who(options: NodeOptions) -> str:
    return f"helios node {options.node_id}"


async def _join(
    options: NodeOptions, read: SettingsRead, data: DataFolder, location: StoreLocation, store: Store
) -> _Joined:
    """See that store, folder, key and settings go together, and claim the node. Raises StartError."""
    clock, kept, key = SystemClock(), newest_copy(data), read_key(read.settings.security)
    known_servers(server_tls(read.settings.atlas))
    await check_folder(store, data, location)
    check_store(data, location, kept, await read_topology(store))
    founder = "" if location.spans_hosts else _who(options)
    cluster = await settle_identity(store, data, location, clock, key, founder=founder)
    settings = read.settings.with_shared(await agree(store, clock, read, founding=read.settings))
    users = await settle_users(store, read.settings, lead=False)
    if not options.child and read.settings.is_set("security.users") and set(users) != set(read.settings.security.users):
        tell(_OTHER_USERS)
    check_exposed(users, {options.node_id: options.listen.host})
    adjust_logging(settings.logging)
    address = advertised(options.listen, options.advertise)
    claim = NodeClaim(store, this_process(options.node_id, address, data.node(options.node_id)))
    await claim.take(tell)
    return _Joined(store, location, cluster, settings, key, claim)


async def _run_agent(
    options: NodeOptions,
    joined: _Joined,
    data: DataFolder,
    stop: asyncio.Event,
    beside: Sequence[Coroutine[Any, Any, None]],
) -> None:
    store, settings, clock = joined.store, joined.settings, SystemClock()
    engines = connector(store, settings)
    coordinator = Coordinator(
        store,
        engines,
        clock,
        node_id=options.node_id,
        settings=settings.cluster,
        failpoints=failpoints(os.environ),
    )
    agent = Agent(
        _spec(options, settings, reach(joined.location, options.listen, options.advertise), joined.key),
        data,
        store,
        clock,
        worker=lambda number: _worker(options, settings, data, number),
        coordinate=coordinator.run,
    )
    address = agent.spec.address
    jobs = [
        *beside,
        follow(
            store,
            settings,
            lambda now: adjust_logging(now.logging),
            lambda now: agent.retune(now.atlas.aof_fsync, now.atlas.maxmemory),
        ),
        StalledWriterWatch(data, joined.location).watch(),
        keep_copy(store, data.node(options.node_id), options.node_id),
        tell_of_departure(store, lambda left, alone: _farewell(left, alone, options, data)),
    ]
    founds = joined.cluster.founded_by == INIT and not options.child
    if founds:
        jobs.append(found_as_first(store, clock, Node(options.node_id, address), tell, joined.cluster.adopts))

    async def ready() -> None:
        say(f"node {options.node_id} serves at {address}; its data server is {agent.servers}")
        if joined.location.spans_hosts and is_loopback(address.host) and not options.child:
            tell(
                f"no other host finds {options.node_id} at {address}: where the cluster has several, name an address "
                "that all of them reach by --listen or --advertise"
            )
        if agent.plain:
            tell(
                f"what Helios and {agent.plain} say to each other is not encrypted: this build of the server has no TLS"
            )
        if not options.child and not founds and (await read_topology(store)).node(options.node_id) is None:
            say(f"it is not in the cluster yet; take it in by: helios-cli addnode {options.node_id} {address}")
        say("ready")

    await agent.run(stop, ready, jobs)


def _farewell(left: str, alone: bool, options: NodeOptions, data: DataFolder) -> None:
    if left == options.node_id:
        folder = data.node(left).root
        end = "end it by Ctrl-C" if not alone else "when no client comes to external nodes through it, end it by Ctrl-C"
        tell(
            f"node {left} has left the cluster and holds none of its keys any more: {end}; "
            f"then {folder} may be deleted. To take it in again: helios-cli addnode {left} {options.listen}"
        )


def _spec(options: NodeOptions, settings: Settings, data: Reach, key: bytes) -> AgentSpec:
    return AgentSpec(
        node_id=options.node_id,
        listen=options.listen,
        address=advertised(options.listen, options.advertise),
        zone=options.zone,
        workers=settings.router.workers,
        fsync=settings.atlas.aof_fsync,
        maxmemory_bytes=settings.atlas.maxmemory,
        server=settings.atlas.server,
        version=__version__,
        reserved=options.child,
        leave_running=options.leave_running,
        data_host=data.host,
        data_reached_by=data.by,
        key=key,
        tls=server_tls(settings.atlas),
        known_servers=known_servers(server_tls(settings.atlas)),
    )


def _worker(options: NodeOptions, settings: Settings, data: DataFolder, number: int) -> WorkerSpec:
    folder = data.node(options.node_id)
    words = ["--id", options.node_id, "--listen", str(options.listen), "--worker", str(number)]
    if options.advertise is not None:
        words += ["--advertise", str(options.advertise)]
    # What a router was started with, and does not follow by itself, decides whether the next agent keeps it.
    shared = settings.router.shared()
    own = {name: value for name, value in settings.router.written().items() if name not in shared}
    files = with_absolute_files(settings)
    tls = str(server_tls(files.atlas))
    like = fingerprint(__version__, *words, json.dumps(own), json.dumps(files.security.written()), tls)
    argv = child_command("router", folder.settings, *words, "--fingerprint", like)
    return WorkerSpec(argv, folder.router_lock(number), data.log(f"{options.node_id}-router-{number}"), like)
