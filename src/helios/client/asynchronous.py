"""The admin client for code in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar

from helios.admin.router_views import RouterView, SlowCommandsView
from helios.admin.views import (
    AlteredView,
    BalanceView,
    ChangeView,
    CheckView,
    HistoryView,
    KeyView,
    MigrationView,
    NodeView,
    PreviewView,
    RuleView,
    SettingChangeView,
    SettingView,
    ShardView,
    StatsView,
)
from helios.client import verbs
from helios.client.async_connection import AsyncRespClient
from helios.client.blocking import addresses_of
from helios.client.connection import REPLY_TIMEOUT_S, CommandRefused
from helios.client.entry import Entry
from helios.client.progress import Followed, Progress, RequestTimeout, change_id, outcome, seen
from helios.client.replies import error_of, knows_no_wait
from helios.client.verbs import Request
from helios.errors import HeliosError, InvalidInput, OutcomeUnknown, Unavailable
from helios.values import Placement

T = TypeVar("T")
_AS_ANYBODY = Entry()


class AsyncAdminClient:
    """What AdminClient is, for asyncio: the same verbs, arguments, results and errors, each to be awaited.

    Tasks of one event loop may share it: their calls go one after the other. A call that is cancelled may have been
    carried out. In another event loop it connects anew.
    """

    def __init__(self, *addresses: str, timeout_s: float = REPLY_TIMEOUT_S, entry: Entry = _AS_ANYBODY) -> None:
        self._addresses = addresses_of(addresses)
        if not timeout_s > 0:
            raise InvalidInput(f"timeout_s is {timeout_s} but must be above 0")
        self._timeout_s = timeout_s
        self._entry = entry
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._connection: AsyncRespClient | None = None

    async def close(self) -> None:
        """End the connection; the next call opens another one."""
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Nodes

    async def list_nodes(self) -> list[NodeView]:
        """All nodes, by id, with their keys counted now."""
        return await self._ask(verbs.list_nodes())

    async def list_shards(self) -> list[ShardView]:
        """All shards, by id, with their copies: who leads, and how closely the others follow."""
        return await self._ask(verbs.list_shards())

    async def add_node(
        self,
        node_id: str,
        address: str,
        *,
        weight: float = 1.0,
        zone: str = "",
        import_keys: bool = False,
        flush: bool = False,
        adopt: bool = False,
    ) -> ChangeView:
        """Take a node in that runs at `address`; see AdminClient.add_node."""
        return await self._ask(verbs.add_node(node_id, address, weight, zone, import_keys, flush, adopt))

    async def remove_node(self, node_id: str) -> ChangeView:
        """Drain a node and let it go when it is empty; returns when draining has been accepted."""
        return await self._ask(verbs.remove_node(node_id))

    async def rebalance(self, *, strategy: str = "", by: str = "") -> ChangeView:
        """Even out what the nodes carry; the settings decide how unless it is said."""
        return await self._ask(verbs.rebalance(strategy, by))

    async def reweight(self, node_id: str, weight: float) -> ChangeView:
        """Give a node another weight and the share that goes with it; a drained one comes back by it."""
        return await self._ask(verbs.reweight(node_id, weight))

    async def drain(self, node_id: str) -> ChangeView:
        """Move all keys of a node away; it stays in the cluster and gets none until it is brought back."""
        return await self._ask(verbs.drain(node_id))

    async def undrain(self, node_id: str) -> ChangeView:
        """Give a drained node its share again."""
        return await self._ask(verbs.undrain(node_id))

    async def promote(self, shard: str, node_id: str, *, accept_loss: bool = False) -> ChangeView:
        """Let the shard's copy on that node lead; see AdminClient.promote."""
        return await self._ask(verbs.promote(shard, node_id, accept_loss))

    async def balance(self, *, strategy: str = "", by: str = "") -> BalanceView:
        """What every node carries, and what a rebalance would do about it."""
        return await self._ask(verbs.balance(strategy, by))

    async def history(self, count: int = 20) -> list[HistoryView]:
        """The last changes, the oldest first: what was done, when, by whom and why."""
        return await self._ask(verbs.history(count))

    async def preview_add_node(
        self, node_id: str, address: str, *, weight: float = 1.0, import_keys: bool = False, flush: bool = False
    ) -> list[PreviewView]:
        """What would move if the node were added and given its share; nothing is changed."""
        return await self._ask(verbs.preview_add_node(node_id, address, weight, import_keys, flush))

    async def preview_remove_node(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were removed; nothing is changed."""
        return await self._ask(verbs.preview_remove_node(node_id))

    async def preview_rebalance(self, *, strategy: str = "", by: str = "") -> list[PreviewView]:
        """What a rebalance would move; nothing is changed."""
        return await self._ask(verbs.preview_rebalance(strategy, by))

    async def preview_reweight(self, node_id: str, weight: float) -> list[PreviewView]:
        """What would move if the node had another weight; nothing is changed."""
        return await self._ask(verbs.preview_reweight(node_id, weight))

    async def preview_drain(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were drained; nothing is changed."""
        return await self._ask(verbs.preview_drain(node_id))

    async def preview_undrain(self, node_id: str) -> list[PreviewView]:
        """What would move if the drained node were brought back; nothing is changed."""
        return await self._ask(verbs.preview_undrain(node_id))

    async def node_for_key(self, key: str | bytes) -> KeyView:
        """Where a key lives now, and whether the ring or a rule decides that."""
        return await self._ask(verbs.node_for_key(key))

    async def rules(self) -> list[RuleView]:
        """The placement rules in the order in which they are tried."""
        return await self._ask(verbs.rules())

    async def placement(self) -> Placement:
        """Where keys live, as a value that computes their owners without asking anybody; see AdminClient.placement."""
        return await self._ask(verbs.placement())

    async def migrate(self, source: str, target: str, pattern: str = "*", *, verify: bool = False) -> MigrationView:
        """Move the keys of `source` that match `pattern` to `target`; see AdminClient.migrate."""
        return await self._ask(verbs.migrate(source, target, pattern, verify))

    async def preview_migrate(self, source: str, target: str, pattern: str = "*") -> list[PreviewView]:
        """What would move by this migration; nothing is changed."""
        return await self._ask(verbs.preview_migrate(source, target, pattern))

    # Migrations

    async def migration(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""
        return await self._ask(verbs.migration(migration_id))

    async def migrations(self) -> list[MigrationView]:
        """All migrations, the oldest first."""
        return await self._ask(verbs.migrations())

    async def active_migrations(self) -> list[MigrationView]:
        """Those that are pending or in progress."""
        return await self._ask(verbs.active_migrations())

    async def cancel_migration(self, migration_id: str) -> MigrationView:
        """Take back the change that the migration belongs to; raises NotFound, or Refused where it has ended."""
        return await self._ask(verbs.cancel_migration(migration_id))

    async def pause_migration(self, migration_id: str) -> MigrationView:
        """Let the copies of the migration's change wait; keys stay where they are, and clients notice nothing."""
        return await self._ask(verbs.pause_migration(migration_id))

    async def resume_migration(self, migration_id: str) -> MigrationView:
        """Let a paused migration go on."""
        return await self._ask(verbs.resume_migration(migration_id))

    async def cleanup_migrations(self) -> int:
        """Forget migrations that have ended; how many there were."""
        return await self._ask(verbs.cleanup_migrations())

    async def change(self, change_id: str, *, wait_s: float = 0.0) -> ChangeView:
        """What has become of a request; see AdminClient.change."""
        return await self._ask(verbs.change(change_id, wait_s))

    # The whole cluster

    async def stats(self) -> StatsView:
        """The cluster in numbers."""
        return await self._ask(verbs.stats())

    async def routers(self) -> list[RouterView]:
        """How every router process fares; takes a second where one does not answer."""
        return await self._ask(verbs.routers())

    async def slow_commands(self, count: int = 20) -> SlowCommandsView:
        """The last slow commands of all routers, the newest first, with their arguments if the user may read keys."""
        return await self._ask(verbs.slow_commands(count))

    async def check(self, *, repair: bool = False) -> CheckView:
        """Look at every server for what should not be there; see AdminClient.check."""
        return await self._ask(verbs.check(repair))

    async def settings(self) -> list[SettingView]:
        """The settings that all processes share."""
        return await self._ask(verbs.settings())

    async def setting(self, name: str) -> SettingView:
        """One of them; raises NotFound."""
        return await self._ask(verbs.setting(name))

    async def change_setting(self, name: str, value: str | float) -> SettingView:
        """Change a shared setting for all processes at once: a text as in a settings file, a number, True or False."""
        return await self._ask(verbs.change_setting(name, value))

    async def setting_history(self) -> list[SettingChangeView]:
        """What was changed of the shared settings, the oldest change first."""
        return await self._ask(verbs.setting_history())

    async def roll_back_settings(self, number: int | None = None) -> list[AlteredView]:
        """Bring back the values that held after the change `number`, or before the last one; what was altered by that.

        Raises NotFound where there is no such change.
        """
        return await self._ask(verbs.roll_back_settings(number))

    # Waiting

    async def follow(self, what: Followed, *, timeout_s: float | None = None) -> AsyncGenerator[Progress, None]:
        """How a change fares, whenever that is something new; see AdminClient.follow."""
        change = change_id(what)
        loop = asyncio.get_running_loop()
        waiting = RequestTimeout(change, loop.time(), timeout_s)
        last: Progress | None = None
        wait_s = 0.0
        while True:
            try:
                progress = seen(await self._changed(change, wait_s), await self.migrations())
            except (Unavailable, OutcomeUnknown) as error:
                waiting.unheard(error, loop.time())
                await asyncio.sleep(waiting.rest_s(loop.time()))
            else:
                if progress != last:
                    last = progress
                    yield progress
                if progress.ended:
                    return
                waiting.heard(loop.time())
                wait_s = waiting.rest_s(loop.time())

    async def wait(
        self,
        what: Followed,
        *,
        timeout_s: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> Progress:
        """Return when a change has been carried out, all its keys moved; see AdminClient.wait."""
        async with aclosing(self.follow(what, timeout_s=timeout_s)) as following:
            async for one in following:
                if progress is not None:
                    progress(one)
                if one.ended:
                    return outcome(one)
        raise AssertionError("what is followed ends with its end")

    async def _changed(self, change: str, wait_s: float) -> ChangeView:
        try:
            return await self.change(change, wait_s=wait_s)
        except CommandRefused as error:
            if not knows_no_wait(error):
                raise
        await asyncio.sleep(wait_s)
        return await self.change(change)

    # Asking

    async def _ask(self, request: Request[T]) -> T:
        self._enter_loop()
        async with self._lock:
            reply = await self._reply(request)
        return request.read(reply)

    def _enter_loop(self) -> None:
        """Leave what belongs to another event loop behind, which may be closed by now."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._lock = loop, asyncio.Lock()
            self._drop()

    async def _reply(self, request: Request[T]) -> object:
        tried: list[str] = []
        while True:
            connection = await self._open(tried)
            try:
                return await connection.call(*request.words, timeout_s=request.timeout_s or self._timeout_s)
            except CommandRefused as error:
                raise error_of(str(error)) from error
            except HeliosError:
                self._drop()
                tried.append(connection.address)
                if not request.repeatable or len(tried) > 1:
                    raise
            except BaseException:
                self._drop()  # a cancellation leaves a reply on its way, which the next call must not take for its own
                raise

    async def _open(self, tried: list[str]) -> AsyncRespClient:
        """The connection that there is, or one to the first address that answers, those not tried yet first."""
        if self._connection is not None and self._connection.idle:
            return self._connection
        self._drop()
        reasons = []
        for address in sorted(self._addresses, key=lambda one: str(one) in tried):
            try:
                self._connection = await AsyncRespClient.open(address.host, address.port, self._entry)
            except Unavailable as error:
                reasons.append(f"{address}: {error.__cause__ or error}")
            else:
                return self._connection
        raise Unavailable(f"no node answers ({'; '.join(reasons)})")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
