"""The router: what takes clients' commands to the shards that own their keys."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from helios.access.authenticator import Authenticator
from helios.admin.service import AdminService
from helios.errors import StartError, Unavailable
from helios.model.topology import Member, Topology
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Connector, Engine, UserRole
from helios.ports.records import SessionRecord
from helios.ports.store import Store
from helios.resp.encoding import error_reply
from helios.resp.wire import encode_command
from helios.router import router_view
from helios.router._fast_path import Lease
from helios.router.commands.counting import OwnKeys
from helios.router.commands.dispatch import Dispatcher
from helios.router.fenced import why_held
from helios.router.frontend.answering import Answering
from helios.router.frontend.caller import Caller, OneCommand, Outbox, Slot, Waiter, WaitingCommand, WatchedKeys
from helios.router.frontend.client_table import ClientTable
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.hand_over import HandOver
from helios.router.frontend.holding import Holding
from helios.router.frontend.listener import Listener
from helios.router.options import RouterOptions
from helios.router.pubsub.hub import Hub
from helios.router.script_cache import ScriptCache
from helios.router.session.keeper import SessionKeeper
from helios.router.session.session import Pending, Session
from helios.router.stats.big_keys import BigKeys
from helios.router.stats.counters import RateMeter
from helios.router.stats.endpoint import StatsEndpoint
from helios.router.stats.hot_keys import HotKeys
from helios.router.stats.slowlog import HELD, SlowLog
from helios.router.stats.totals import Totals
from helios.router.stray_scripts import StrayScripts
from helios.router.tracking.tracker import Tracker
from helios.router.upstream.connection import Credentials
from helios.router.upstream.heavy import HeavyCommands
from helios.router.upstream.link import ServerConnection
from helios.router.upstream.opening import Opening
from helios.router.upstream.pool import Pool

_END_TIMEOUT_S = 1.5


class Router:
    """Routes commands by the topology that the store holds, as long as its lease there lasts.

    The event loop in which it is made owns it. start() first; then serve() for RESP clients, execute() for calls in
    this process.
    """

    def __init__(
        self,
        store: Store,
        connector: Connector,
        admin: AdminService,
        clock: Clock,
        options: RouterOptions,
        authenticator: Authenticator | None = None,
        socket_of: Callable[[Member], str | None] = lambda member: None,
    ) -> None:
        self.options = options
        self.admin = admin
        self.clock = clock
        self.authenticator = authenticator or Authenticator()
        self.topology = Topology(epoch=0)
        self.routes: Routes | None = None
        self.unclean: frozenset[str] = frozenset()  # shards whose servers may hold keys of others
        self.lease = Lease(clock.boottime)
        self.slowlog: SlowLog = SlowLog(options.slow_s, options.slow_entries)
        self.rate_meter = RateMeter()
        self.hot_keys = HotKeys(clock.monotonic())
        self.big_keys = BigKeys(clock.monotonic)
        self.heavy = HeavyCommands(clock.monotonic)
        self.opening = Opening()
        self._endpoint = StatsEndpoint(
            partial(router_view.view, self),
            partial(router_view.slow_commands, self),
            host=options.inspected_host,
            reached_at=options.inspected_at,
        )
        self.started_at = clock.monotonic()
        self.product: dict[bytes, bytes] = {}
        self.port = 0  # where it serves clients; 0 where it does not
        self.holding = Holding(
            options.hold_timeout_s, self._why_held, lambda took_s: self.slowlog.note(HELD, clock.wall(), took_s)
        )
        self.pool = Pool(self, options)
        self.blocked: set[WaitingCommand] = set()
        self.watches: set[WatchedKeys] = set()
        self.hub = Hub(self, options)
        self.clients = ClientTable(options, self.authenticator, self.hub.topics.size, self._gone)
        self.tracker = Tracker(self, options, self.clients.get)
        self.script_cache = ScriptCache(store)
        self.stray_scripts = StrayScripts(self, store)
        self._own_keys = OwnKeys(self)
        self._fault = "it has not started yet"
        self._dispatcher = Dispatcher(self)
        self._outbox = Outbox(asyncio.get_running_loop(), options.turn_s)
        self.totals = Totals(self._dispatcher.fast_path, self._outbox)
        self._connector = connector
        self.socket = socket_of
        self.keeper = SessionKeeper(lambda: Session(store, connector, clock, options, self), self)
        self._listener = Listener(self._connection)
        self._hand_over = HandOver(store, clock, self.clients)
        self._answering = Answering()
        self._calls: set[OneCommand] = set()
        self._opened = asyncio.Event()
        self._applied = asyncio.Event()  # set, and replaced, when the next topology has been applied
        self._running = False

    # --- life ---

    async def start(self) -> None:
        """Open the first session; raises StartError if the store does not let it in `start_timeout_s`."""
        self._running = True
        if self.options.inspected:
            await self._endpoint.open()
        self._answering.keep(asyncio.create_task(self._watch(), name="clients' limits"))
        self.keeper.start()
        self._answering.keep(asyncio.create_task(self.script_cache.follow(), name="scripts"))
        self._answering.keep(asyncio.create_task(self.stray_scripts.run(), name="stray scripts"))
        try:
            async with asyncio.timeout(self.options.start_timeout_s):
                await self._opened.wait()
                await self.script_cache.ready.wait()
        except TimeoutError:
            error = self._fault
            await self.stop()
            raise StartError(f"the router got no session within {self.options.start_timeout_s:g} s: {error}") from None

    async def _watch(self) -> None:
        """See again and again to the limits of clients, and to how many commands there are."""
        while True:
            self.rate_meter.sample(self.clock.monotonic(), self.totals.commands)
            self.hot_keys.fade(self.clock.monotonic())
            await self.clients.pause()
            self.clients.limits.look()

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts and limits: from the next command that is held, and from the next client's connection."""
        self.options = options
        self.holding.timeout_s = options.hold_timeout_s
        self.slowlog.configure(options.slow_s, options.slow_entries)
        for part in (self.clients.configure, self.pool.configure, self.hub.configure, self.tracker.configure):
            part(options)

    async def stop(self) -> None:
        """End connections and session, within a few seconds. Commands under way get an answer that says so."""
        self.clients.stopping = True
        self._listener.close()
        await self._hand_over.run(self.topology, self.options.node, self.options.hand_over_timeout_s)
        self._running = False
        self._endpoint.close()
        await self.keeper.stop()
        await self._answering.stop(_END_TIMEOUT_S)
        for client in list(self.clients.values()):
            client.close_after_replies()
        for waiting in list(self.blocked):
            waiting.cut(error_reply("CLUSTERDOWN the router is stopping; nothing was executed"))
        settled = await self._all_answered()
        self.session_over("the router is stopping")
        for call in list(self._calls):
            call.abandon()
        # A session with commands in flight is left to its lease: it must not look as if nothing could come of it.
        await self.keeper.end(_END_TIMEOUT_S, revoke=settled)
        for client in list(self.clients.values()):
            client.abort()

    async def _all_answered(self) -> bool:
        """Wait a moment for what is in flight."""
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self.pool.answered([shard.id for shard in self.topology.shards])
        except TimeoutError:
            return False
        return True

    async def serve(self, host: str, port: int, *, reuse_port: bool = False, tls: ssl.SSLContext | None = None) -> int:
        """Take RESP clients at an address; the port (that was chosen, for 0). Raises StartError where it is taken."""
        self.port = await self._listener.open(
            host, port, reuse_port=reuse_port, tls=tls, handshake_timeout_s=self.options.handshake_timeout_s
        )
        return self.port

    async def execute(self, argv: list[bytes], raw: bytes | None = None, like: Caller | None = None) -> bytes:
        """The raw reply to one command, errors too, as for `like` or in RESP2; held commands wait as a client's do."""
        if not self._running:
            raise Unavailable("this router does not run")
        call = OneCommand(self._dispatcher.dispatch, self._outbox, self.holding, (raw or encode_command(argv), argv))
        if like is not None:
            call.protocol, call.no_touch = like.protocol, like.no_touch
        self._calls.add(call)
        try:
            call.run()
            return await call.result
        finally:
            self._calls.discard(call)
            self.holding.forget(call)
            call.abandon()

    def reason(self) -> str | None:
        """Why commands for keys are not served now; None if they are."""
        if not self.alive():
            return f"this router has no lease ({self._fault})"
        if self.routes is None or self.routes.empty:
            return "the cluster has no nodes yet: add one with ADDNODE"
        return None

    # --- for the session ---

    def apply(self, topology: Topology) -> Pending:
        """Route by `topology` from now on; gives what must be answered before its epoch is acknowledged."""
        self.topology = topology
        self.routes = Routes(topology)
        self._dispatcher.serve(self.routes)
        marks = self.pool.marks_behind(topology.fences, self.routes.fenced)
        self.pool.apply(topology)
        for watch in self.watches:
            watch.follow(self.routes)
        for waiting in list(self.blocked):
            waiting.follow(self.routes)
        pairs = topology.transition.pairs if topology.transition else ()
        touched = {shard for pair in pairs for shard in (pair.source, pair.target)}
        self.unclean = frozenset(shard.id for shard in topology.shards if shard.id in topology.unclean | touched)
        subscriptions = self.hub.apply(topology, self.routes)
        self.tracker.apply(topology, self.routes)
        self.holding.release()
        self._applied.set()
        self._applied = asyncio.Event()
        return Pending(marks, subscriptions)

    async def unfenced(self) -> None:
        """Return when the topology has no fence. Raises Unavailable where it keeps one for as long as commands wait."""
        try:
            async with asyncio.timeout(self.options.hold_timeout_s):
                while self.routes is not None and self.routes.has_fence:
                    await self._applied.wait()
        except TimeoutError:
            raise Unavailable(
                f"it was held for {self.options.hold_timeout_s:g} s {self._why_held(())}; try again"
            ) from None

    def _why_held(self, argv: Sequence[bytes]) -> str:
        return "" if self.routes is None else why_held(self.routes, argv)

    def serve_until(self, deadline: float) -> None:
        """The lease lasts until then."""
        self.lease.deadline = deadline
        self._opened.set()

    def session_over(self, reason: str) -> None:
        """Send nothing more; what is in flight gets an answer that says that its outcome is unknown."""
        self.lease.deadline = 0.0
        self._fault = reason
        for close in (self.pool.close, self.hub.close, self.tracker.close):
            close(f"this router's session is over: {reason}")

    def record(self, session_id: str) -> SessionRecord:
        """What the store is to say of a session of this router."""
        options, endpoint = self.options, self._endpoint
        return SessionRecord(
            session_id,
            options.node,
            worker=options.worker,
            address=endpoint.address,
            secret=endpoint.secret,
            ttl_s=options.session_ttl_s,
        )

    # --- for the links ---

    def slow(self, frame: bytes, waiter: Waiter, took_s: float) -> None:
        """A command has taken long."""
        caller = waiter.caller if isinstance(waiter, Slot) else None
        address = caller.address if isinstance(caller, ClientConnection) else ""
        self.slowlog.add(self.clock.wall(), took_s, frame, address, caller.name if caller else b"")

    async def count_own(self, routes: Routes, shard: str) -> int:
        """The keys that a shard owns and its server has, of a shard that no move concerns. Raises HeliosError."""
        return await self._own_keys.count(routes, shard)

    def alive(self) -> bool:
        """Whether the lease lets commands be sent."""
        return self.lease.lasts()

    async def credentials(self, member: Member, role: UserRole) -> Credentials | None:
        """The session's user of that role at the member."""
        return await self.keeper.current().users.credentials(member, role)

    async def administer(self, member: Member) -> Engine:
        """The member as its administrator, for what no client's script may ask of it. Raises EngineError."""
        return await self._connector.open(member)

    async def confirm(self) -> None:
        """Return if the session has not ended, by the store's word: so this router has been forced off nothing.

        Then its topology is the present one, but for the switch of a pair that it shows as fenced. Raises HeliosError.
        """
        await self.keeper.current().confirm()

    def forget_credentials(self, member: Member) -> None:
        """The member does not know the session's users."""
        self.keeper.current().users.forget(member)

    def reroute(self, link: ServerConnection) -> None:
        """A big reply flows over a link: what is sent from now on goes over another, if there is one."""
        if self.pool.reroute(link):
            self._dispatcher.fast_path.reroutes += 1

    def learned(self, product: dict[bytes, bytes]) -> None:
        """What the members say of their version; the last one asked decides."""
        self.product = product

    @property
    def session_id(self) -> str:
        """The id of the present session; empty where there is none."""
        return self.keeper.session.id if self.keeper.session and self.alive() else ""

    # --- for the clients ---

    def _connection(self) -> ClientConnection:
        dispatcher = self._dispatcher
        return ClientConnection(self.clients, dispatcher.dispatch, self._outbox, self.holding, dispatcher.fast_path)

    def _gone(self, client: ClientConnection) -> None:
        self.hub.forget(client)
        self.tracker.forget(client)

    def spawn(self, caller: Caller, work: Coroutine[None, None, bytes]) -> None:
        """Answer the caller with what `work` returns; a HeliosError becomes an error reply."""
        self._answering.spawn(caller, work)

    def fill_later(self, waiter: Waiter, work: Coroutine[None, None, bytes]) -> None:
        """Give a waiter what `work` returns; a HeliosError becomes an error reply."""
        self._answering.fill_later(waiter, work)

    def reset_statistics(self) -> None:
        """Count commands, connections and errors from zero again, as CONFIG RESETSTAT asks for."""
        self.totals.reset()
        self.clients.reset_counts()
        self.holding.total = 0
