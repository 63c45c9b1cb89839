"""`helios node`: the agent of one node as a process."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from importlib.metadata import version

from helios.coordinator.service import Coordinator
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.settings import Settings, is_loopback
from helios.model.topology import Topology
from helios.node.agent import Agent, AgentSpec, lock_node
from helios.node.files import DataFolder
from helios.node.ports import is_wildcard, outward_host
from helios.node.workers import WorkerSpec
from helios.runtime.agreement import agree
from helios.runtime.backends import connector, opened_store
from helios.runtime.children import helios_command
from helios.runtime.clock import SystemClock
from helios.runtime.failpoints import failpoints
from helios.runtime.handover import hand_over, likeness
from helios.runtime.life import run, say
from helios.runtime.logs import start_logging
from helios.runtime.settings import data_folder
from helios.stores.records import TOPOLOGY, read_record


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the command line says; `child`: started by `helios up`, and to end with it."""

    node_id: str
    listen: Address
    zone: str = ""
    child: bool = False


def run_node(options: NodeOptions, settings: Settings) -> None:
    """Run a node until it is told to stop. Raises InvalidInput, StartError or StoreError."""
    if not is_loopback(options.listen.host) and not settings.network.allow_remote:
        raise StartError(
            f"{options.listen} can be reached from other machines, and there is no authentication yet: "
            "listen on localhost, or allow it by --allow-remote"
        )
    data = DataFolder(data_folder(settings))
    data.prepare()
    lock = lock_node(data, options.node_id, child=options.child)
    try:
        hand_over(settings, data.node(options.node_id).settings)
        start_logging(settings.logging, data.log(options.node_id))
        run(lambda stop: _serve(options, settings, data, stop), parent_pipe=options.child)
    finally:
        lock.release()


async def _serve(options: NodeOptions, settings: Settings, data: DataFolder, stop: asyncio.Event) -> None:
    async with opened_store(data) as store:
        cluster = await agree(store, settings, founding=settings, lead=False)
        engines, clock = connector(store), SystemClock()
        host = options.listen.host
        address = Address(outward_host(host), options.listen.port) if is_wildcard(host) else options.listen
        agent = Agent(
            AgentSpec(
                node_id=options.node_id,
                listen=options.listen,
                address=address,
                zone=options.zone,
                workers=settings.router.workers,
                fsync=settings.atlas.aof_fsync,
                maxmemory_bytes=settings.atlas.maxmemory,
                server=settings.atlas.server,
                version=version("helios"),
                reserved=options.child,
            ),
            data,
            store,
            clock,
            worker=lambda number: _worker(options, settings, data, number),
            coordinate=Coordinator(
                store,
                engines,
                clock,
                node_id=options.node_id,
                settings=cluster,
                failpoints=failpoints(os.environ),
            ).run,
        )

        async def ready() -> None:
            topology = await read_record(store, Topology, TOPOLOGY)
            say(f"node {options.node_id} serves at {address}; its data server is {agent.server}")
            if not options.child and (topology is None or topology.value.node(options.node_id) is None):
                say(f"it is not in the cluster yet; take it in by: helios-cli addnode {options.node_id} {address}")
            say("ready")

        await agent.run(stop, ready)


def _worker(options: NodeOptions, settings: Settings, data: DataFolder, number: int) -> WorkerSpec:
    folder = data.node(options.node_id)
    words = ["router", "--id", options.node_id, "--listen", str(options.listen), "--worker", str(number)]
    # What a router was started with decides whether the next agent keeps it.
    like = likeness(version("helios"), *words, settings.router.model_dump_json(), settings.logging.model_dump_json())
    argv = helios_command(*words, "--data-dir", str(data.root), "--settings", str(folder.settings), "--likeness", like)
    return WorkerSpec(argv, folder.router_lock(number), data.log(f"{options.node_id}-router-{number}"), like)
