"""`helios node`: the agent of one node as a process."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from importlib.metadata import version

from helios.coordinator.service import Coordinator
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.settings import Settings
from helios.node.agent import Agent, AgentSpec, lock_node
from helios.node.files import DataFolder
from helios.node.ports import is_wildcard, outward_host
from helios.node.stalled_writer import StalledWriterWatch
from helios.node.topology_copy import keep_copy, newest_copy
from helios.node.workers import WorkerSpec
from helios.ports.topologies import read_topology
from helios.runtime.adoption import check_store
from helios.runtime.agreement import agree, disagreements, follow
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.children import helios_command
from helios.runtime.clock import SystemClock
from helios.runtime.departure_notice import tell_of_departure
from helios.runtime.failpoints import failpoints
from helios.runtime.handover import fingerprint, hand_over
from helios.runtime.lifecycle import run, say, tell
from helios.runtime.logs import adjust_logging, start_logging
from helios.runtime.reload import Reloader
from helios.runtime.security import check_exposed, settle_users, with_absolute_files
from helios.runtime.settings import SettingsRead, SettingsSource, data_folder


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the command line says; `child`: started by `helios up`, and to end with it.

    With `leave_running` its end leaves its data server and routers to the next start.
    """

    node_id: str
    listen: Address
    zone: str = ""
    child: bool = False
    leave_running: bool = False


def run_node(options: NodeOptions, read: SettingsRead, source: SettingsSource | None) -> None:
    """Run a node until it is told to stop. Raises InvalidInput, StartError or StoreError.

    With a `source` of its own, and not as a child of `helios up`, it follows its settings file.
    """
    settings = read.settings
    data = DataFolder(data_folder(settings))
    if options.listen.port + settings.security.plain_port_offset > 65535:
        raise StartError(f"{options.node_id} would listen above port 65535 without TLS: choose a lower port or offset")
    if not locate(settings, data).exists():
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


async def _serve(
    options: NodeOptions,
    read: SettingsRead,
    source: SettingsSource | None,
    data: DataFolder,
    stop: asyncio.Event,
    reload: asyncio.Event,
) -> None:
    location = locate(read.settings, data)
    async with opened_store(data, location) as store:
        clock = SystemClock()
        kept = newest_copy(data)
        check_store(data, location, kept, await read_topology(store))
        cluster = await agree(store, clock, read, founding=read.settings)
        users = await settle_users(store, read.settings, lead=False)
        check_exposed(users, {options.node_id: options.listen.host})
        settings = read.settings.with_shared(cluster)
        adjust_logging(settings.logging)
        coordinator = Coordinator(
            store,
            connector(store),
            clock,
            node_id=options.node_id,
            settings=cluster,
            failpoints=failpoints(os.environ),
        )
        agent = Agent(
            _spec(options, settings),
            data,
            store,
            clock,
            worker=lambda number: _worker(options, settings, data, number),
            coordinate=coordinator.run,
        )
        jobs = [
            follow(
                store,
                settings,
                lambda now: adjust_logging(now.logging),
                lambda now: agent.retune(now.atlas.aof_fsync, now.atlas.maxmemory),
            ),
            StalledWriterWatch(data, location).watch(),
            keep_copy(store, data.node(options.node_id), options.node_id),
            tell_of_departure(store, lambda left: _farewell(left, options, data)),
        ]
        if source is not None and not options.child:
            for sentence in disagreements(cluster, read):
                tell(sentence)
            who = f"helios node {options.node_id}"
            jobs.append(Reloader(source, read, store, clock, who=who, tell=tell).run(reload))

        async def ready() -> None:
            topology = await read_topology(store)
            address = agent.spec.address
            say(f"node {options.node_id} serves at {address}; its data server is {agent.server}")
            if not options.child and topology.node(options.node_id) is None:
                say(f"it is not in the cluster yet; take it in by: helios-cli addnode {options.node_id} {address}")
            say("ready")

        await agent.run(stop, ready, jobs)


def _farewell(left: str, options: NodeOptions, data: DataFolder) -> None:
    if left == options.node_id:
        folder = data.node(left).root
        tell(
            f"node {left} has left the cluster and holds none of its keys any more: end it by Ctrl-C; "
            f"then {folder} may be deleted. To take it in again: helios-cli addnode {left} {options.listen}"
        )


def _spec(options: NodeOptions, settings: Settings) -> AgentSpec:
    host = options.listen.host
    return AgentSpec(
        node_id=options.node_id,
        listen=options.listen,
        address=Address(outward_host(host), options.listen.port) if is_wildcard(host) else options.listen,
        zone=options.zone,
        workers=settings.router.workers,
        fsync=settings.atlas.aof_fsync,
        maxmemory_bytes=settings.atlas.maxmemory,
        server=settings.atlas.server,
        version=version("helios"),
        reserved=options.child,
        leave_running=options.leave_running,
    )


def _worker(options: NodeOptions, settings: Settings, data: DataFolder, number: int) -> WorkerSpec:
    folder = data.node(options.node_id)
    words = ["router", "--id", options.node_id, "--listen", str(options.listen), "--worker", str(number)]
    # What a router was started with, and does not follow by itself, decides whether the next agent keeps it.
    shared = settings.router.shared()
    own = {name: value for name, value in settings.router.model_dump(mode="json").items() if name not in shared}
    secured = with_absolute_files(settings).security.model_dump_json()
    like = fingerprint(version("helios"), *words, json.dumps(own), secured)
    argv = helios_command(
        *words, "--data-dir", str(data.root), "--settings", str(folder.settings), "--fingerprint", like
    )
    return WorkerSpec(argv, folder.router_lock(number), data.log(f"{options.node_id}-router-{number}"), like)
