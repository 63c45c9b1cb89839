"""`helios up`: a whole cluster on one machine, in the foreground."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import time
from contextlib import AsyncExitStack

from helios.access.certificates import exposed_key
from helios.admin.client import Admin
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.member_state import members_of
from helios.node.ports import Reservation
from helios.node.process import Process
from helios.node.stalled_writer import StalledWriterWatch
from helios.node.topology_copy import newest_copy
from helios.node.waiting import together, unless
from helios.ports.store import Store
from helios.ports.topologies import read_topology
from helios.runtime.adoption import adopt, move_nodes
from helios.runtime.agreement import agree, follow
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.children import Child, ChildSpec
from helios.runtime.clock import SystemClock
from helios.runtime.command_lines import child_command
from helios.runtime.departure_notice import tell_news, tell_of_departure
from helios.runtime.founding import ADOPTED, bring_in
from helios.runtime.handover import hand_over
from helios.runtime.identity import make_key, read_key, settle_identity
from helios.runtime.lifecycle import complain, run, say, tell
from helios.runtime.logs import adjust_logging, start_logging
from helios.runtime.preflight import NodePlan, UpOptions, lock_folder, look
from helios.runtime.readiness import agent_ready, gateway_ready, routing
from helios.runtime.reload import Reloader
from helios.runtime.security import settle_users, tls_files
from helios.runtime.settings import SettingsRead, SettingsSource, data_folder
from helios.runtime.table import addresses

logger = logging.getLogger(__name__)

_WHO = "helios up"
_OUTSIDE = "it takes clients all the same, since all nodes of the cluster are external"

# An agent ends its routers and then its data server, each with a limit of its own.
_AGENT_STOP_S = 20.0
_GATEWAY_STOP_S = 6.0
_LEFT_STOP_S = 8.0
_LOOK_S = 0.05
_STARTING = 8  # nodes at once


def run_up(source: SettingsSource, options: UpOptions) -> bool:
    """Run the cluster until Ctrl-C or SIGTERM; whether it ended in order, not killed by a second signal.

    Raises HeliosError if it cannot start; nothing is left running then.
    """
    read = source.read()
    settings = read.settings
    data = DataFolder(data_folder(settings))
    data.prepare()
    lock = lock_folder(data)
    try:
        start_logging(settings.logging, data.log("up"))
        cluster = Up(source, read, options, data)
        run(cluster.run, parent_pipe=options.parent_pipe, reload=cluster.reload)
        return cluster.in_order
    finally:
        lock.release()
        if options.temporary:
            _remove(data)


def _remove(data: DataFolder) -> None:
    """Delete the folder, once the nodes that others had started on it have ended, too."""
    deadline = time.monotonic() + _AGENT_STOP_S
    while any(holder_of(data.node(node_id).lock) for node_id in data.node_ids()) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    shutil.rmtree(data.root, ignore_errors=True)


def _complete(settings: Settings) -> Settings:
    """Whoever starts a cluster by one command expects a new node to take its share."""
    return settings.with_default("sharding.auto_rebalance", True)


class Up:
    """One run of `helios up`."""

    def __init__(self, source: SettingsSource, read: SettingsRead, options: UpOptions, data: DataFolder) -> None:
        self._source = source
        self._read = read
        self._settings = _complete(read.settings)
        self._options = options
        self._data = data
        self._location = locate(read.settings, data)
        self._store: Store | None = None
        self._children: list[Child] = []
        self._nodes: tuple[str, ...] = ()  # those of the cluster before anybody hears that it is ready
        self._starting = asyncio.Semaphore(max(_STARTING, 2 * (os.cpu_count() or 1)))
        self.in_order = True
        self.reload = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Check, start, serve until `stop`, end. A second Ctrl-C kills what is left."""
        async with AsyncExitStack() as stack:
            try:
                if await unless(stop, self._start(stack)):
                    await unless(stop, together([self._follow(), *(child.keep() for child in self._children)]))
            finally:
                await self._stop()

    async def _start(self, stack: AsyncExitStack) -> None:
        plan = await look(self._data, self._settings, self._options)
        for node in plan.nodes:
            if not node.foreign:
                stack.callback(Reservation(node.listen).release)
        files = tls_files(self._settings.security)
        exposed = "" if files is None else exposed_key(files)
        if exposed:
            complain(exposed)
        names = [node.id for node in plan.nodes if not node.foreign]
        say(f"starting {', '.join(names) or 'the gateway'} in {self._data.root}")
        if plan.staying:
            say(
                f"staying, whatever --shards says: {', '.join(plan.staying)}; `helios-cli removenode` moves a node's "
                "keys away and lets it go"
            )
        hand_over(self._settings, self._data.settings, self._read.origins)
        # Nobody could end this process if it stood still in a commit: it makes none that others can make.
        self._store = store = await stack.enter_async_context(opened_store(self._data, self._location, expires=False))
        security = self._read.settings.security
        make_key(security)
        await settle_identity(store, self._data, self._location, SystemClock(), read_key(security), founder=_WHO)
        file = "" if self._source.path is None else str(self._source.path.absolute())
        shared = await agree(store, SystemClock(), self._read, founding=self._settings, lead=_WHO, file=file)
        await settle_users(store, self._read.settings, lead=True)
        self._settings = self._settings.with_shared(shared)
        adjust_logging(self._settings.logging)
        if self._options.rebuild:
            await self._rebuild(store)
        if self._options.move_ports:
            await move_nodes(store, {node.id: node.listen for node in plan.nodes})
        await together(self._bring_up(self._node_child(node, store)) for node in plan.nodes if not node.foreign)
        gateway = self._spawn(self._gateway_child())
        await bring_in(
            store,
            Admin(store, connector(store, self._settings), SystemClock()),
            plan.wanted,
            self._options.adopt,
        )
        self._nodes = tuple(node.id for node in (await read_topology(store)).nodes)
        await together([gateway.ready(), routing(store, [node.id for node in plan.nodes])])
        for absent in plan.absent:
            say(f"{absent} is a node of this cluster, but its folder is not in {self._data.root}: it is not started")
        for joining in plan.joining:
            share = self._settings.sharding.auto_rebalance
            how = "gets its share of the keys now" if share else "owns nothing until `helios-cli rebalance`"
            say(f"{joining} has joined the cluster and {how}")
        if plan.outside:
            say(f"{plan.outside} is no node of this cluster and holds no keys; {_OUTSIDE}")
        say(addresses(self._data, plan, self._settings))
        if self._options.adopt is not None:
            say(f"{ADOPTED} is the server at {self._options.adopt}; `helios-cli listnodes` shows what each node owns")
        say("ready")
        logger.info("ready: nodes=%d", len(plan.nodes))

    async def _rebuild(self, store: Store) -> None:
        topology = await adopt(store, SystemClock(), newest_copy(self._data))
        if topology is None:
            say(f"nothing to adopt: {self._location} knows all that the nodes know")
        else:
            names = ", ".join(node.id for node in topology.nodes)
            say(
                f"the cluster of {names} is as its nodes last knew it: "
                "`helios-cli check` tells whether its keys are, too"
            )

    async def _follow(self) -> None:
        """For ever: take up what others change of the settings, and bring in what changes in the file."""
        assert self._store is not None, "the cluster has started"
        reloader = Reloader(
            self._source, self._read, self._store, SystemClock(), who=_WHO, tell=tell, complete=_complete
        )
        followed = follow(self._store, self._settings, lambda now: adjust_logging(now.logging))
        left = tell_of_departure(self._store, self._farewell, self._welcome, self._nodes)
        news = tell_news(self._store, tell)
        await together(
            [followed, left, news, reloader.run(self.reload), StalledWriterWatch(self._data, self._location).watch()]
        )

    def _farewell(self, left: str, alone: bool) -> None:
        for child in self._children:
            if child.spec.name == left and child.process is not None:
                if alone:
                    tell(f"{left} has left the cluster and holds no keys any more; {_OUTSIDE}")
                    continue
                child.released = True
                tell(
                    f"{left} has left the cluster and holds no keys any more: it ends with this process, or now by "
                    f"`kill {child.process.pid}`"
                )

    def _welcome(self, back: str) -> None:
        for child in self._children:
            if child.spec.name == back and child.released:
                child.released = False
                tell(f"{back} is a node of the cluster again, and is started again if it dies")

    async def _bring_up(self, spec: ChildSpec) -> None:
        """Start a node, and wait for it; not too many at once, or none is ready in the time that each has."""
        async with self._starting:
            await self._spawn(spec).ready()

    def _spawn(self, spec: ChildSpec) -> Child:
        child = Child(spec)
        child.spawn()
        self._children.append(child)
        return child

    def _node_child(self, node: NodePlan, store: Store) -> ChildSpec:
        words = ["--id", node.id, "--listen", str(node.listen), *(["--zone", node.zone] if node.zone else [])]
        return ChildSpec(
            node.id,
            child_command("node", self._data.settings, *words),
            self._data.log(node.id),
            lambda pid: agent_ready(store, node.id, pid),
            _AGENT_STOP_S,
        )

    def _gateway_child(self) -> ChildSpec:
        return ChildSpec(
            "the gateway",
            child_command("gateway", self._data.settings),
            self._data.log("gateway"),
            lambda pid: gateway_ready(self._data, pid),
            _GATEWAY_STOP_S,
        )

    async def _stop(self) -> None:
        """End everything; when a signal comes again meanwhile, at once."""
        if not self._children:
            return
        loop = asyncio.get_running_loop()
        forced = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, forced.set)
        logger.info("stopping")
        if not await unless(forced, self._end_all()):
            self.in_order = False
            complain("killing what is left")
            for process in [*(child.process for child in self._children if child.process), *self._left()]:
                process.id.send(signal.SIGKILL)

    async def _end_all(self) -> None:
        await together(child.stop() for child in self._children)
        # Routers and data servers whose agent was killed and had not been started again.
        await together(process.stop(_LEFT_STOP_S) for process in self._left())

    def _left(self) -> list[Process]:
        """What runs of ours without its agent."""
        found = []
        for child in self._children:
            if child.spec.name in self._data.node_ids():
                folder = self._data.node(child.spec.name)
                found += [Process(holder.process) for _, path in folder.router_locks() if (holder := holder_of(path))]
                found += members_of(folder)
        return found
