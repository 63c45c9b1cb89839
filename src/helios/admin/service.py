"""The interface of the use cases, as those who offer them to people see it."""

from __future__ import annotations

from typing import Protocol

from helios.admin.backup_views import BackupView, CopyPartView
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
    PlacementView,
    PreviewView,
    RuleView,
    SettingChangeView,
    SettingView,
    ShardView,
    StatsView,
)


class AdminService(Protocol):
    """Every verb. Raises InvalidInput, NotFound, Refused or Unavailable (see helios.errors)."""

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
        """Take a node in; with auto_rebalance its keys start to move at once.

        For a server that holds keys it is to be said what becomes of them. With `adopt` it is the first node of a
        cluster, and has them all.
        """

    async def remove_node(self, node_id: str) -> ChangeView:
        """Drain a node and let it go when it is empty; returns when draining has been accepted."""

    async def list_nodes(self) -> list[NodeView]:
        """All nodes, by id."""

    async def list_shards(self) -> list[ShardView]:
        """All shards, by id, with their copies: who leads, and how closely the others follow."""

    async def node_for_key(self, key: bytes) -> KeyView:
        """Where a key lives now. Raises Unavailable in a cluster without nodes."""

    async def rules(self) -> list[RuleView]:
        """The placement rules in the order in which they are tried."""

    async def placement(self) -> PlacementView:
        """All that decides where keys live, for those who compute it themselves."""

    async def change(self, change_id: str, *, wait_s: float = 0.0) -> ChangeView:
        """What has become of a request, as soon as it has ended or after `wait_s`; raises NotFound."""

    async def preview_add_node(
        self, node_id: str, address: str, *, weight: float = 1.0, import_keys: bool = False, flush: bool = False
    ) -> list[PreviewView]:
        """What would move if the node were added and given its share, and what would be refused; nothing is changed."""

    async def preview_remove_node(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were removed; nothing is changed."""

    async def preview_migrate(self, source: str, target: str, pattern: str = "*") -> list[PreviewView]:
        """What would move by this migration; nothing is changed."""

    async def preview_rebalance(self, *, strategy: str = "", by: str = "") -> list[PreviewView]:
        """What a rebalance would move; nothing is changed."""

    async def preview_reweight(self, node_id: str, weight: float) -> list[PreviewView]:
        """What would move if the node had another weight; nothing is changed."""

    async def preview_drain(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were drained; nothing is changed."""

    async def preview_undrain(self, node_id: str) -> list[PreviewView]:
        """What would move if the drained node were brought back; nothing is changed."""

    async def migrate(self, source: str, target: str, pattern: str = "*", *, verify: bool = False) -> MigrationView:
        """Move the keys of `source` that match `pattern` to `target`; returns the accepted migration.

        With `verify` every copied key is compared with its source before the switch.
        """

    async def migration(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""

    async def migrations(self) -> list[MigrationView]:
        """All migrations, the oldest first."""

    async def active_migrations(self) -> list[MigrationView]:
        """Those that are pending or in progress."""

    async def cancel_migration(self, migration_id: str) -> MigrationView:
        """Cancel the transition that the migration belongs to; raises NotFound, or Refused where it has ended."""

    async def pause_migration(self, migration_id: str) -> MigrationView:
        """Let the copies of the migration's transition wait; raises NotFound, or Refused where it has ended."""

    async def resume_migration(self, migration_id: str) -> MigrationView:
        """Let a paused migration go on; raises NotFound, or Refused where it has ended."""

    async def cleanup_migrations(self) -> int:
        """Forget migrations that have ended; how many there were."""

    async def rebalance(self, *, strategy: str = "", by: str = "") -> ChangeView:
        """Even out what the nodes carry, by their weights; the settings decide how unless it is said.

        Strategies are minimize_movement and uniform; what is balanced by is keys, bytes or ops. Done at once, with
        a message that says so, where nothing is worth moving.
        """

    async def reweight(self, node_id: str, weight: float) -> ChangeView:
        """Give a node another weight and the share that goes with it; a drained one comes back by it."""

    async def drain(self, node_id: str) -> ChangeView:
        """Move all keys of a node away; it stays in the cluster and gets none until it is brought back."""

    async def undrain(self, node_id: str) -> ChangeView:
        """Give a drained node its share again."""

    async def promote(self, shard: str, node_id: str, *, accept_loss: bool = False) -> ChangeView:
        """Let the shard's copy on that node lead, without an error at any client; returns when it does.

        With `accept_loss` it leads although members are missing that may have more, and what it lacks is lost: for
        when these are gone for good. Raises NotFound or Refused.
        """

    async def balance(self, *, strategy: str = "", by: str = "") -> BalanceView:
        """What every node carries, how far it is from its share, and what a rebalance would do about it.

        Looks at some thousand keys of every node.
        """

    async def history(self, count: int = 20) -> list[HistoryView]:
        """The last changes, the oldest first: what was done, when, by whom, why, and what came of it."""

    async def stats(self, *, exact: bool = True) -> StatsView:
        """The cluster in numbers.

        During moves each key of the servers concerned has to be looked at to count those that are owned. Without
        `exact` that is left out, and such a node's `keys` is None.
        """

    async def figures(self, *, exact: bool = True) -> tuple[StatsView, list[ShardView]]:
        """What `stats` and `list_shards` say, by one look at the servers."""

    async def routers(self) -> list[RouterView]:
        """How every router process fares; takes a second where one does not answer."""

    async def slow_commands(self, count: int = 20) -> SlowCommandsView:
        """The last slow commands of all routers, at most 1,000; takes a second where one does not answer."""

    async def check(self, *, repair: bool = False) -> CheckView:
        """Look at every server for what should not be there; `repair` first mends what is safe to mend.

        Reads every key's name; takes a second for about a million keys, with a repair also as long as the
        transitions before it.
        """

    async def backup(self) -> BackupView:
        """Begin a copy of all shards at one moment, when the changes before it have ended; it is read in parts.

        It is let go when nobody has read for some minutes. Raises Unavailable where there was no such moment.
        """

    async def read_backup(self, backup_id: str, shard: str, offset: int) -> CopyPartView:
        """What a copy has from `offset` on, as far as it has come; what stands before is not needed any more.

        Waits a second at most. Raises NotFound where the copy is kept no longer.
        """

    async def end_backup(self, backup_id: str) -> bool:
        """Let go of the copies; whether there were any."""

    async def restore_users(self, users: str) -> int:
        """Let in these users and nobody else, written as security.users is, in JSON; how many they are."""

    async def settings(self) -> list[SettingView]:
        """The settings that all processes share."""

    async def setting(self, name: str) -> SettingView:
        """One of them; raises NotFound."""

    async def change_setting(self, name: str, value: str, *, by: str = "") -> SettingView:
        """Change a shared setting for all processes at once. Raises InvalidInput, or Refused for what is fixed.

        `by` is who wants it, for the history.
        """

    async def setting_history(self) -> list[SettingChangeView]:
        """What was changed of the shared settings, the oldest change first."""

    async def roll_back_settings(self, number: int | None = None, *, by: str = "") -> list[AlteredView]:
        """Bring back the values that held after the change `number`, or before the last one; raises NotFound.

        Returns what was altered by that.
        """
