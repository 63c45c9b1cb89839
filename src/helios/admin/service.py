"""The interface of the use cases, as those who offer them to people see it."""

from __future__ import annotations

from typing import Protocol

from helios.admin.views import ChangeView, KeyView, MigrationView, NodeView, StatsView


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
    ) -> ChangeView:
        """Take a node in; with auto_rebalance its keys start to move at once."""

    async def remove_node(self, node_id: str) -> ChangeView:
        """Drain a node and let it go when it is empty; returns when draining has been accepted."""

    async def list_nodes(self) -> list[NodeView]:
        """All nodes, by id."""

    async def node_for_key(self, key: bytes) -> KeyView:
        """Where a key lives now. Raises Unavailable in a cluster without nodes."""

    async def migrate(self, source: str, target: str, pattern: str = "*") -> MigrationView:
        """Move the keys of `source` that match `pattern` to `target`; returns the accepted migration."""

    async def migration(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""

    async def migrations(self) -> list[MigrationView]:
        """All migrations, the oldest first."""

    async def active_migrations(self) -> list[MigrationView]:
        """Those that are pending or in progress."""

    async def cancel_migration(self, migration_id: str) -> MigrationView:
        """Cancel the transition that the migration belongs to; raises NotFound, or Refused where it has ended."""

    async def cleanup_migrations(self) -> int:
        """Forget migrations that have ended; how many there were."""

    async def rebalance(self) -> ChangeView:
        """Give every node its share of the ring by its weight."""

    async def stats(self) -> StatsView:
        """The cluster in numbers."""
