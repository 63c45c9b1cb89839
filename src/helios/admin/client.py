"""The use cases, performed through the store: requests are written there and the coordinator answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from helios.access.publishing import publish_users
from helios.access.request_context import demand, requester
from helios.access.rights import Need
from helios.admin import reports
from helios.admin.backup_views import BackupView, CopyPartView
from helios.admin.backups import Backups
from helios.admin.balance import policy_of
from helios.admin.check import findings
from helios.admin.inspection import Inspection
from helios.admin.joining import check_keys_wish, check_node, identify
from helios.admin.requests import Requests
from helios.admin.views import (
    AlteredView,
    ChangeView,
    CheckView,
    MigrationView,
    SettingView,
)
from helios.control.admission import check_migrate
from helios.errors import (
    InvalidInput,
    Refused,
)
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Node
from helios.model.users import parse_users
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.ids import new_id
from helios.ports.snapshots import Snapshots
from helios.ports.store import Store

_ANSWER_TIMEOUT_S = 8.0


class Admin(Inspection):
    """The verbs of `admin.service.AdminService`, over a store and the data servers."""

    def __init__(self, store: Store, connector: Connector, clock: Clock, snapshots: Snapshots | None = None) -> None:
        """Backups are taken where it is said how servers are copied."""
        super().__init__(store, connector, clock)
        self._requests = Requests(store, clock)
        self._backups = Backups(store, snapshots, clock, self._requests, self._shared)

    async def found(self, nodes: Sequence[Node]) -> ChangeView:
        """Make a new cluster of these nodes, each with its share at once. Refused where there is one."""
        return await self._submit(Change(self._id(), ChangeKind.FOUND, nodes=tuple(nodes)))

    async def adopt(self, node_id: str, address: Address, beside: Sequence[Node]) -> ChangeView:
        """Make a new cluster in which a running server owns every key that it has, and the nodes `beside` none yet."""
        node = await identify(self._store, self._connector, node_id, address)
        return await self._submit(Change(self._id(), ChangeKind.FOUND, nodes=(*beside, node), adopt=True))

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
        """Take a node in; with auto_rebalance its keys start to move at once."""
        check_node(node_id, weight)
        check_keys_wish(import_keys, flush, adopt)
        if import_keys or flush or adopt:
            wish = "adopt" if adopt else "import" if import_keys else "delete"
            demand(Need.ALL, f"{wish} the keys of {node_id}: ask an admin")
        node = await identify(self._store, self._connector, node_id, Address.of_server(address))
        node = replace(node, weight=weight, zone=zone)
        return await self._submit(
            Change(self._id(), ChangeKind.ADD_NODE, nodes=(node,), import_keys=import_keys, flush=flush, adopt=adopt)
        )

    async def remove_node(self, node_id: str) -> ChangeView:
        """Drain a node and let it go when it is empty; returns when draining has been accepted."""
        return await self._submit(Change(self._id(), ChangeKind.REMOVE_NODE, node=node_id))

    async def rebalance(self, *, strategy: str = "", by: str = "") -> ChangeView:
        """Even out what the nodes carry, by their weights; the settings decide how unless it is said."""
        policy = policy_of(strategy, by, await self._settings())
        return await self._submit(Change(self._id(), ChangeKind.REBALANCE, strategy=policy.strategy, by=policy.by))

    async def reweight(self, node_id: str, weight: float) -> ChangeView:
        """Give a node another weight and the share that goes with it; a drained one comes back by it."""
        check_node(node_id, weight)
        return await self._submit(Change(self._id(), ChangeKind.REWEIGHT, node=node_id, weight=weight))

    async def drain(self, node_id: str) -> ChangeView:
        """Move all keys of a node away; it stays in the cluster and gets none until it is brought back."""
        return await self._submit(Change(self._id(), ChangeKind.DRAIN, node=node_id))

    async def undrain(self, node_id: str) -> ChangeView:
        """Give a drained node its share again."""
        return await self._submit(Change(self._id(), ChangeKind.UNDRAIN, node=node_id))

    async def promote(self, shard: str, node_id: str, *, accept_loss: bool = False) -> ChangeView:
        """Let the shard's copy on that node lead; returns when it does, or as it stands after a few seconds."""
        if accept_loss:
            demand(Need.ALL, f"accept that keys of {shard} are lost: ask an admin")
        asked = Change(self._id(), ChangeKind.PROMOTE, shard=shard, node=node_id, accept_loss=accept_loss)
        view = await self._submit(asked)
        if not ChangeStatus(view.status).ended:
            view = await self.change(view.change, wait_s=_ANSWER_TIMEOUT_S)
        if view.status == ChangeStatus.FAILED:
            raise Refused(view.message)
        return view

    async def check(self, *, repair: bool = False) -> CheckView:
        """Look at every server for what should not be there; `repair` mends what is safe to mend, then looks again.

        A repair waits for the transitions before it. Raises Unavailable if it is not done in a few minutes.
        """
        repaired = ""
        if repair:
            submitted = await self._submit(Change(self._id(), ChangeKind.REPAIR))
            repaired = await self._requests.outcome(submitted.change)
        found = await findings(
            await self._topology(), self._store, self._connector, self._clock, await self._settings()
        )
        return CheckView(not found, tuple(found), repaired)

    async def migrate(self, source: str, target: str, pattern: str = "*", *, verify: bool = False) -> MigrationView:
        """Move the keys of `source` that match `pattern` to `target`; returns the accepted migration.

        A source `*` stands for every node, and keys that match live on `target` ever after; a target `*` brings keys
        back to where the ring has them. What is returned is the first of several migrations of one change then.

        With `verify` every copied key is compared with its source before the switch.
        """
        try:
            pattern.encode()
        except UnicodeEncodeError:
            raise InvalidInput("the pattern is not UTF-8: write other bytes as '?'") from None
        check_migrate(await self._topology(), source, target, pattern)
        change = Change(
            self._id(),
            ChangeKind.MIGRATE,
            source=source,
            target=target,
            pattern=pattern,
            migration=self._id(),
            verify=verify,
        )
        await self._submit(change)
        return await self._migrations.one(change.migration)

    async def change(self, change_id: str, *, wait_s: float = 0.0) -> ChangeView:
        """What has become of a request, as soon as it has ended or after `wait_s`; raises NotFound."""
        change = await self._requests.seen(change_id, wait_s)
        ids = [migration.id for migration in await self._migrations.records() if migration.change == change_id]
        return reports.change_view(change, ids)

    async def cancel_migration(self, migration_id: str) -> MigrationView:
        """Cancel the transition that the migration belongs to; raises NotFound, or Refused where it has ended.

        Returns when the migration has ended, or as it stands after a few seconds.
        """
        return await self._migrations.cancel(migration_id)

    async def pause_migration(self, migration_id: str) -> MigrationView:
        """Let the copies of the migration's transition wait; what has changed is still followed, nothing is fenced."""
        return await self._migrations.pause(migration_id)

    async def resume_migration(self, migration_id: str) -> MigrationView:
        """Let a paused migration go on."""
        return await self._migrations.resume(migration_id)

    async def cleanup_migrations(self) -> int:
        """Forget migrations that have ended; how many there were."""
        return await self._migrations.cleanup()

    async def backup(self) -> BackupView:
        """Begin a copy of all shards at one moment; it is read in parts. Raises Unavailable, Refused."""
        demand(Need.ALL, "copy every key: ask an admin")
        return await self._backups.take()

    async def read_backup(self, backup_id: str, shard: str, offset: int) -> CopyPartView:
        """What a copy has from `offset` on, as far as it has come. Raises NotFound where it is kept no longer."""
        demand(Need.ALL, "copy every key: ask an admin")
        return await self._backups.read(backup_id, shard, offset)

    async def end_backup(self, backup_id: str) -> bool:
        """Let go of the copies; whether there were any."""
        demand(Need.ALL, "end a backup: ask an admin")
        return await self._backups.end(backup_id)

    async def restore_users(self, users: str) -> int:
        """Let in these users and nobody else; how many they are. Raises InvalidInput, which repeats no password."""
        demand(Need.ALL, "replace the users: ask an admin")
        parsed = parse_users(users)
        await publish_users(self._store, parsed)
        return len(parsed)

    async def change_setting(self, name: str, value: str, *, by: str = "") -> SettingView:
        """Change a shared setting for all processes at once, also for moves that run. Raises InvalidInput."""
        await self._shared.change({name: value}, by=by)
        return await self._shared.view(name)

    async def roll_back_settings(self, number: int | None = None, *, by: str = "") -> list[AlteredView]:
        """Bring back the values that held after the change `number`, or before the last one. Raises NotFound."""
        altered = await self._shared.roll_back(number, by=by)
        return [AlteredView(item.name, item.old, item.new, item.origin) for item in altered]

    async def _submit(self, change: Change) -> ChangeView:
        """Hand a request to the coordinator; what has become of it when it has been admitted."""
        answered = await self._requests.submit(replace(change, id=change.id or self._id(), user=requester()))
        ids = [m.id for m in await self._migrations.records() if m.change == answered.id]
        return reports.change_view(answered, ids)

    def _id(self) -> str:
        return new_id(self._clock)
