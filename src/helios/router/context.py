"""What a command handler may use of the router that runs it: `core.Router` satisfies it, and nothing else sees that."""

from __future__ import annotations

from collections.abc import Coroutine, MutableSet
from typing import Protocol

from helios.access.authenticator import Authenticator
from helios.admin.service import AdminService
from helios.model.topology import Member, Topology
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Engine
from helios.router._fast_path import Lease
from helios.router.frontend.caller import Caller, Waiter, WaitingCommand, WatchedKeys
from helios.router.frontend.client_table import ClientTable
from helios.router.frontend.holding import Holding
from helios.router.options import RouterOptions
from helios.router.pubsub.hub import Hub
from helios.router.script_cache import ScriptCache
from helios.router.session.keeper import SessionKeeper
from helios.router.stats.big_keys import BigKeys
from helios.router.stats.counters import RateMeter
from helios.router.stats.hot_keys import HotKeys
from helios.router.stats.slowlog import SlowLog
from helios.router.stats.totals import Totals
from helios.router.stray_scripts import StrayScripts
from helios.router.tracking.tracker import Tracker
from helios.router.upstream.connection import Identities
from helios.router.upstream.heavy import HeavyCommands
from helios.router.upstream.pool import Pool


class RouterContext(Identities, Protocol):
    """The router as its commands see it."""

    options: RouterOptions
    admin: AdminService
    clock: Clock
    authenticator: Authenticator
    topology: Topology
    routes: Routes | None
    unclean: frozenset[str]
    lease: Lease
    product: dict[bytes, bytes]
    pool: Pool
    keeper: SessionKeeper
    hub: Hub
    tracker: Tracker
    script_cache: ScriptCache
    stray_scripts: StrayScripts
    holding: Holding
    clients: ClientTable
    totals: Totals
    slowlog: SlowLog
    hot_keys: HotKeys
    big_keys: BigKeys
    heavy: HeavyCommands
    rate_meter: RateMeter
    started_at: float
    port: int

    @property
    def blocked(self) -> MutableSet[WaitingCommand]:
        """The commands that wait at servers."""

    @property
    def watches(self) -> MutableSet[WatchedKeys]:
        """What clients watch."""

    @property
    def session_id(self) -> str:
        """The id of the present session; empty where there is none."""

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts and limits: from the next command that is held, and from the next client's connection."""

    def reason(self) -> str | None:
        """Why commands for keys are not served now; None if they are."""

    def slow(self, frame: bytes, waiter: Waiter, took_s: float) -> None:
        """A command has taken long."""

    def spawn(self, caller: Caller, work: Coroutine[None, None, bytes]) -> None:
        """Answer the caller with what `work` returns; a HeliosError becomes an error reply."""

    async def execute(self, argv: list[bytes], raw: bytes | None = None, like: Caller | None = None) -> bytes:
        """The raw reply to one command, errors included, as if that caller had given it. Raises Unavailable."""

    def fill_later(self, waiter: Waiter, work: Coroutine[None, None, bytes]) -> None:
        """Give a waiter what `work` returns; a HeliosError becomes an error reply."""

    def reset_statistics(self) -> None:
        """Count commands, connections and errors from zero again."""

    async def administer(self, member: Member) -> Engine:
        """A connection to a member with the rights of an administrator; the caller closes it. Raises HeliosError."""

    async def count_own(self, routes: Routes, shard: str) -> int:
        """The keys that a shard owns and its server has, of a shard that no move concerns. Raises HeliosError."""

    async def unfenced(self) -> None:
        """Return when the topology has no fence. Raises Unavailable where it keeps one for as long as commands wait."""

    async def confirm(self) -> None:
        """Return if the session has not ended, by the store's word. Raises HeliosError."""
