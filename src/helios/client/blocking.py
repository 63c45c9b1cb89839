"""The admin client for code without an event loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
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
from helios.client.connection import REPLY_TIMEOUT_S, CommandRefused, RespClient
from helios.client.entry import Entry
from helios.client.progress import Followed, Progress, RequestTimeout, change_id, outcome, seen
from helios.client.replies import error_of, knows_no_wait
from helios.client.verbs import Request
from helios.errors import HeliosError, InvalidInput, OutcomeUnknown, Unavailable
from helios.model.ids import Address
from helios.values import Placement

T = TypeVar("T")

DEFAULT_ADDRESS = "127.0.0.1:6379"
_AS_ANYBODY = Entry()


class AdminClient:
    """The verbs of helios-cli for a program, over a connection to any node.

    `addresses` are nodes of one cluster, as host:port; the first that answers is used, and another one when it is
    gone. `entry` says how to be let in if there are users or TLS. Every verb raises a HeliosError: InvalidInput,
    NotFound or Refused where nothing was changed, Unavailable where no node or no coordinator answers,
    NotAuthenticated, WrongPassword or NotPermitted where the cluster has users, OutcomeUnknown where the connection
    broke, or nothing came for `timeout_s`, after something had been sent.

    It connects when it is first used. Threads may share it: their calls go one after the other.
    """

    def __init__(self, *addresses: str, timeout_s: float = REPLY_TIMEOUT_S, entry: Entry = _AS_ANYBODY) -> None:
        self._addresses = addresses_of(addresses)
        if not timeout_s > 0:
            raise InvalidInput(f"timeout_s is {timeout_s} but must be above 0")
        self._timeout_s = timeout_s
        self._entry = entry
        self._lock = threading.Lock()
        self._connection: RespClient | None = None

    def close(self) -> None:
        """End the connection; the next call opens another one."""
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Nodes

    def list_nodes(self) -> list[NodeView]:
        """All nodes, by id, with their keys counted now."""
        return self._ask(verbs.list_nodes())

    def list_shards(self) -> list[ShardView]:
        """All shards, by id, with their copies: who leads, and how closely the others follow."""
        return self._ask(verbs.list_shards())

    def add_node(
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
        """Take a node in that runs at `address`; with auto_rebalance its keys start to move at once.

        A plain server that holds keys needs `import_keys` (each moves to its owner) or `flush` (they are deleted); as
        the first node of a cluster `adopt` (they stay where they are).
        """
        return self._ask(verbs.add_node(node_id, address, weight, zone, import_keys, flush, adopt))

    def remove_node(self, node_id: str) -> ChangeView:
        """Drain a node and let it go when it is empty; returns when draining has been accepted."""
        return self._ask(verbs.remove_node(node_id))

    def rebalance(self, *, strategy: str = "", by: str = "") -> ChangeView:
        """Even out what the nodes carry; the settings decide how unless it is said."""
        return self._ask(verbs.rebalance(strategy, by))

    def reweight(self, node_id: str, weight: float) -> ChangeView:
        """Give a node another weight and the share that goes with it; a drained one comes back by it."""
        return self._ask(verbs.reweight(node_id, weight))

    def drain(self, node_id: str) -> ChangeView:
        """Move all keys of a node away; it stays in the cluster and gets none until it is brought back."""
        return self._ask(verbs.drain(node_id))

    def undrain(self, node_id: str) -> ChangeView:
        """Give a drained node its share again."""
        return self._ask(verbs.undrain(node_id))

    def promote(self, shard: str, node_id: str, *, accept_loss: bool = False) -> ChangeView:
        """Let the shard's copy on that node lead, without an error at any client; returns when it does.

        With `accept_loss` it leads although members are missing that may have more, and what it lacks is lost: for
        when these are gone for good. Raises NotFound or Refused.
        """
        return self._ask(verbs.promote(shard, node_id, accept_loss))

    def balance(self, *, strategy: str = "", by: str = "") -> BalanceView:
        """What every node carries, and what a rebalance would do about it."""
        return self._ask(verbs.balance(strategy, by))

    def history(self, count: int = 20) -> list[HistoryView]:
        """The last changes, the oldest first: what was done, when, by whom and why."""
        return self._ask(verbs.history(count))

    def preview_add_node(
        self, node_id: str, address: str, *, weight: float = 1.0, import_keys: bool = False, flush: bool = False
    ) -> list[PreviewView]:
        """What would move if the node were added and given its share; nothing is changed."""
        return self._ask(verbs.preview_add_node(node_id, address, weight, import_keys, flush))

    def preview_remove_node(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were removed; nothing is changed."""
        return self._ask(verbs.preview_remove_node(node_id))

    def preview_rebalance(self, *, strategy: str = "", by: str = "") -> list[PreviewView]:
        """What a rebalance would move; nothing is changed."""
        return self._ask(verbs.preview_rebalance(strategy, by))

    def preview_reweight(self, node_id: str, weight: float) -> list[PreviewView]:
        """What would move if the node had another weight; nothing is changed."""
        return self._ask(verbs.preview_reweight(node_id, weight))

    def preview_drain(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were drained; nothing is changed."""
        return self._ask(verbs.preview_drain(node_id))

    def preview_undrain(self, node_id: str) -> list[PreviewView]:
        """What would move if the drained node were brought back; nothing is changed."""
        return self._ask(verbs.preview_undrain(node_id))

    def node_for_key(self, key: str | bytes) -> KeyView:
        """Where a key lives now, and whether the ring or a rule decides that."""
        return self._ask(verbs.node_for_key(key))

    def rules(self) -> list[RuleView]:
        """The placement rules in the order in which they are tried."""
        return self._ask(verbs.rules())

    def placement(self) -> Placement:
        """Where keys live, as a value that computes their owners without asking anybody.

        It is what holds at the moment, and does not change with the cluster: get another one when a look-up has
        to be up to date. While keys move it is the placement from before the move; `node_for_key` knows better then.
        """
        return self._ask(verbs.placement())

    def migrate(self, source: str, target: str, pattern: str = "*", *, verify: bool = False) -> MigrationView:
        """Move the keys of `source` that match `pattern` to `target`; returns the accepted migration.

        With `verify` every copy is compared with its source before the switch. The same move backwards undoes it.
        """
        return self._ask(verbs.migrate(source, target, pattern, verify))

    def preview_migrate(self, source: str, target: str, pattern: str = "*") -> list[PreviewView]:
        """What would move by this migration; nothing is changed."""
        return self._ask(verbs.preview_migrate(source, target, pattern))

    # Migrations

    def migration(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""
        return self._ask(verbs.migration(migration_id))

    def migrations(self) -> list[MigrationView]:
        """All migrations, the oldest first."""
        return self._ask(verbs.migrations())

    def active_migrations(self) -> list[MigrationView]:
        """Those that are pending or in progress."""
        return self._ask(verbs.active_migrations())

    def cancel_migration(self, migration_id: str) -> MigrationView:
        """Take back the change that the migration belongs to; raises NotFound, or Refused where it has ended."""
        return self._ask(verbs.cancel_migration(migration_id))

    def pause_migration(self, migration_id: str) -> MigrationView:
        """Let the copies of the migration's change wait; keys stay where they are, and clients notice nothing."""
        return self._ask(verbs.pause_migration(migration_id))

    def resume_migration(self, migration_id: str) -> MigrationView:
        """Let a paused migration go on."""
        return self._ask(verbs.resume_migration(migration_id))

    def cleanup_migrations(self) -> int:
        """Forget migrations that have ended; how many there were."""
        return self._ask(verbs.cleanup_migrations())

    def change(self, change_id: str, *, wait_s: float = 0.0) -> ChangeView:
        """What has become of a request, as soon as it has ended or after `wait_s` (at most 30); raises NotFound."""
        return self._ask(verbs.change(change_id, wait_s))

    # The whole cluster

    def stats(self) -> StatsView:
        """The cluster in numbers."""
        return self._ask(verbs.stats())

    def routers(self) -> list[RouterView]:
        """How every router process fares; takes a second where one does not answer."""
        return self._ask(verbs.routers())

    def slow_commands(self, count: int = 20) -> SlowCommandsView:
        """The last slow commands of all routers, the newest first, with their arguments if the user may read keys."""
        return self._ask(verbs.slow_commands(count))

    def check(self, *, repair: bool = False) -> CheckView:
        """Look at every server for what should not be there; `repair` first mends what is safe to mend.

        Reads every key's name, a second for about a million keys; a repair also waits for the moves before it.
        """
        return self._ask(verbs.check(repair))

    def settings(self) -> list[SettingView]:
        """The settings that all processes share."""
        return self._ask(verbs.settings())

    def setting(self, name: str) -> SettingView:
        """One of them; raises NotFound."""
        return self._ask(verbs.setting(name))

    def change_setting(self, name: str, value: str | float) -> SettingView:
        """Change a shared setting for all processes at once: a text as in a settings file, a number, True or False."""
        return self._ask(verbs.change_setting(name, value))

    def setting_history(self) -> list[SettingChangeView]:
        """What was changed of the shared settings, the oldest change first."""
        return self._ask(verbs.setting_history())

    def roll_back_settings(self, number: int | None = None) -> list[AlteredView]:
        """Bring back the values that held after the change `number`, or before the last one; what was altered by that.

        Raises NotFound where there is no such change.
        """
        return self._ask(verbs.roll_back_settings(number))

    # Waiting

    def follow(self, what: Followed, *, timeout_s: float | None = None) -> Iterator[Progress]:
        """How a change fares: as it stands, then whenever that is something new, and at last as it has ended.

        A node that goes away meanwhile is asked again for a minute. Raises WaitTimeout after `timeout_s`, Unavailable
        after a minute of silence, NotFound where the change has been cleaned up.
        """
        change = change_id(what)
        waiting = RequestTimeout(change, time.monotonic(), timeout_s)
        last: Progress | None = None
        wait_s = 0.0
        while True:
            try:
                progress = seen(self._changed(change, wait_s), self.migrations())
            except (Unavailable, OutcomeUnknown) as error:
                waiting.unheard(error, time.monotonic())
                time.sleep(waiting.rest_s(time.monotonic()))
            else:
                if progress != last:
                    last = progress
                    yield progress
                if progress.ended:
                    return
                waiting.heard(time.monotonic())
                wait_s = waiting.rest_s(time.monotonic())

    def wait(
        self,
        what: Followed,
        *,
        timeout_s: float | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> Progress:
        """Return when a change has been carried out, all its keys moved; `progress` is called as it goes.

        Raises ChangeFailed where it failed or was cancelled, and what `follow` raises.
        """
        for one in self.follow(what, timeout_s=timeout_s):
            if progress is not None:
                progress(one)
            if one.ended:
                return outcome(one)
        raise AssertionError("what is followed ends with its end")

    def _changed(self, change: str, wait_s: float) -> ChangeView:
        """The change as soon as it has ended or after that time, also where nodes do not wait themselves."""
        try:
            return self.change(change, wait_s=wait_s)
        except CommandRefused as error:
            if not knows_no_wait(error):
                raise
        time.sleep(wait_s)
        return self.change(change)

    # Asking

    def _ask(self, request: Request[T]) -> T:
        with self._lock:
            reply = self._reply(request)
        return request.read(reply)

    def _reply(self, request: Request[T]) -> object:
        tried: list[str] = []
        while True:
            connection = self._open(tried)
            try:
                return connection.call(*request.words, timeout_s=request.timeout_s)
            except CommandRefused as error:
                raise error_of(str(error)) from error
            except HeliosError:
                self._drop()
                tried.append(connection.address)
                if not request.repeatable or len(tried) > 1:
                    raise
            except BaseException:
                self._drop()  # an interrupt leaves a reply on its way, which the next call must not take for its own
                raise

    def _open(self, tried: list[str]) -> RespClient:
        """The connection that there is, or one to the first address that answers, those not tried yet first."""
        if self._connection is not None and self._connection.idle:
            return self._connection
        self._drop()
        reasons = []
        for address in sorted(self._addresses, key=lambda one: str(one) in tried):
            try:
                self._connection = RespClient(address.host, address.port, self._timeout_s, self._entry)
            except Unavailable as error:
                reasons.append(f"{address}: {error.__cause__ or error}")
            else:
                return self._connection
        raise Unavailable(f"no node answers ({'; '.join(reasons)})")

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def addresses_of(texts: tuple[str, ...]) -> list[Address]:
    """The addresses that are meant; the usual one of a cluster on this machine where none is named."""
    return [Address.parse(text) for text in texts or (DEFAULT_ADDRESS,)]
