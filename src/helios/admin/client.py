"""The use cases, performed through the store: requests are written there and the coordinator answers them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from helios.access.publishing import publish_users
from helios.access.request_context import demand, requester
from helios.access.rights import Need
from helios.admin import reports
from helios.admin.backups import Backups
from helios.admin.balance import balance_view, moves_of, policy_of, proposed, read_standing
from helios.admin.check import findings
from helios.admin.history import history
from helios.admin.joining import identify
from helios.admin.migrations import Migrations
from helios.admin.preview import own_keys, preview
from helios.admin.requests import Requests
from helios.admin.router_views import RouterView, SlowCommandsView
from helios.admin.routers import as_seen, router_views, slow_commands
from helios.admin.settings import SharedSettings
from helios.admin.shards import shard_views, under_replicated
from helios.admin.views import (
    AlteredView,
    BackupView,
    BalanceView,
    ChangeView,
    CheckView,
    CopyPartView,
    HistoryView,
    KeyView,
    MigrationView,
    NodeView,
    PlacementView,
    PointView,
    PreviewView,
    RuleView,
    SettingChangeView,
    SettingView,
    ShardView,
    StatsView,
    WeightView,
)
from helios.control.admission import Policy, admit, check_migrate
from helios.errors import (
    InvalidInput,
    Refused,
    StoreError,
    Unavailable,
)
from helios.model.ids import Address, check_id
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, Placement, Topology
from helios.model.users import parse_users
from helios.placement.routing import Routes
from helios.placement.table import table_of
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.ids import new_id
from helios.ports.records import (
    COORDINATOR,
    CoordinatorRecord,
    read_record,
)
from helios.ports.snapshots import Snapshots
from helios.ports.store import Store
from helios.ports.topologies import TopologyReader

_ANSWER_TIMEOUT_S = 8.0
_WEIGHT_MAX = 1000.0
SHOWN = 20  # of what only grows, unless more are asked for
_SLOW_COMMANDS_MAX = 1000


class Admin:
    """The verbs of `admin.service.AdminService`, over a store and the data servers."""

    def __init__(self, store: Store, connector: Connector, clock: Clock, snapshots: Snapshots | None = None) -> None:
        """Backups are taken where it is said how servers are copied."""
        self._store = store
        self._topologies = TopologyReader(store)
        self._connector = connector
        self._clock = clock
        self._shared = SharedSettings(store, clock)
        self._requests = Requests(store, clock)
        self._migrations = Migrations(store, clock)
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
        _check_node(node_id, weight)
        _check_keys_wish(import_keys, flush, adopt)
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
        _check_node(node_id, weight)
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

    async def balance(self, *, strategy: str = "", by: str = "") -> BalanceView:
        """What every node carries, how far it is from its share, and what a rebalance would do about it."""
        topology, settings = await self._topology(), await self._settings()
        return await balance_view(topology, self._store, self._connector, self._clock, settings, (strategy, by))

    async def history(self, count: int = SHOWN) -> list[HistoryView]:
        """The last changes, the oldest first: what was done, when, by whom, why, and what came of it."""
        if count < 1:
            raise InvalidInput(f"{count} entries of history: use a number above 0")
        return await history(self._store, count)

    async def preview_add_node(
        self, node_id: str, address: str, *, weight: float = 1.0, import_keys: bool = False, flush: bool = False
    ) -> list[PreviewView]:
        """What would move if the node were added and given its share; what would stand in the way is raised.

        With `import_keys` it is said, too, which keys of its own would go to which node.
        """
        _check_node(node_id, weight)
        _check_keys_wish(import_keys, flush, adopt=False)
        topology = await self._topology()
        if topology.node(node_id) is not None:
            raise Refused(f"{node_id} is a node already")
        node = Node(node_id, Address.of_server(address))
        # What is not started yet can be foreseen, too: it comes without keys.
        with suppress(Unavailable):
            node = await identify(self._store, self._connector, node_id, node.address)
        node = replace(node, weight=weight)
        brought = await own_keys(topology, node, self._connector, told=import_keys or flush)
        grown = replace(topology, nodes=(*topology.nodes, node))
        moves = await preview(grown, Change("", ChangeKind.ADD_NODE, nodes=(node,)), self._connector)
        return [*(brought if import_keys else []), *moves]

    async def preview_remove_node(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were removed."""
        topology = await self._topology()
        admit(topology, Change("", ChangeKind.REMOVE_NODE, node=node_id), {}, Policy())
        return await preview(topology, Change("", ChangeKind.REMOVE_NODE, node=node_id), self._connector)

    async def preview_migrate(self, source: str, target: str, pattern: str = "*") -> list[PreviewView]:
        """What would move by this migration."""
        change = Change("", ChangeKind.MIGRATE, source=source, target=target, pattern=pattern)
        return await preview(await self._topology(), change, self._connector)

    async def preview_rebalance(self, *, strategy: str = "", by: str = "") -> list[PreviewView]:
        """What a rebalance would move. Raises Unavailable while keys move, or where a server does not answer."""
        topology, settings = await self._topology(), await self._settings()
        if not topology.sharding_enabled:
            return await preview(topology, Change("", ChangeKind.REBALANCE), self._connector)
        standing = await read_standing(topology, self._store, self._clock, settings)
        policy = policy_of(strategy, by, settings)
        made, load = await proposed(topology, standing, self._connector, self._clock, policy)
        return [] if made is None else list(moves_of(topology, made, load))

    async def preview_reweight(self, node_id: str, weight: float) -> list[PreviewView]:
        """What would move if the node had another weight."""
        return await self._preview(Change("", ChangeKind.REWEIGHT, node=node_id, weight=weight))

    async def preview_drain(self, node_id: str) -> list[PreviewView]:
        """What would move if the node were drained."""
        return await self._preview(Change("", ChangeKind.DRAIN, node=node_id))

    async def preview_undrain(self, node_id: str) -> list[PreviewView]:
        """What would move if the drained node were brought back."""
        return await self._preview(Change("", ChangeKind.UNDRAIN, node=node_id))

    async def _preview(self, change: Change) -> list[PreviewView]:
        return await preview(await self._topology(), change, self._connector)

    async def rules(self) -> list[RuleView]:
        """The placement rules in the order in which they are tried."""
        return list(_rules((await self._topology()).placement))

    async def placement(self) -> PlacementView:
        """All that decides where keys live, for those who compute it themselves."""
        topology = await self._topology()
        placement = topology.placement
        return PlacementView(
            epoch=topology.epoch,
            points=placement.virtual_nodes,
            nodes=tuple(WeightView(shard, weight) for shard, weight in placement.weights),
            reassigned=tuple(PointView(str(position), shard) for position, shard in placement.reassigned),
            rules=_rules(placement),
            moving=topology.transition is not None,
        )

    async def routers(self) -> list[RouterView]:
        """How every router process fares; takes a second where one does not answer."""
        return [as_seen(view) for view in await router_views(self._store)]

    async def slow_commands(self, count: int = SHOWN) -> SlowCommandsView:
        """The last slow commands of all routers; takes a second where one does not answer. Raises InvalidInput."""
        if not 1 <= count <= _SLOW_COMMANDS_MAX:
            raise InvalidInput(f"{count} slow commands: use a number from 1 to {_SLOW_COMMANDS_MAX}")
        return await slow_commands(self._store, count)

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

    async def warnings(self) -> list[str]:
        """What does not work at the nodes as the coordinator has seen them, a sentence each. Asks no server."""
        try:
            topology, settings = await self._topology(), await self._settings()
            standing = await read_standing(topology, self._store, self._clock, settings)
        except (StoreError, Unavailable) as error:
            return [f"how the nodes are is not known: {error}"]
        unwell = [f"{one.node} is {one.status}: {one.reason}" for one in standing.health.values() if one.reason]
        return [*unwell, *under_replicated(topology, settings)]

    async def list_nodes(self) -> list[NodeView]:
        """All nodes, by id."""
        topology = await self._topology()
        return await reports.node_views(topology, self._store, self._connector, self._clock, await self._settings())

    async def list_shards(self) -> list[ShardView]:
        """All shards, by id, with their copies; asks the leaders that have any."""
        return await shard_views(await self._topology(), self._connector, await self._settings())

    async def node_for_key(self, key: bytes) -> KeyView:
        """Where a key lives now. Raises Unavailable in a cluster without nodes."""
        topology = await self._topology()
        routes = Routes(topology)
        if routes.empty:
            raise Unavailable("the cluster has no nodes yet: add one with addnode")
        owner = routes.owner(key)
        node = topology.node(owner)
        following = topology.transition.next if topology.transition is not None else topology.placement
        effective = topology.placement if owner == table_of(topology.placement).owner(key) else following
        rule = table_of(effective).rule(key)
        return KeyView(
            key=key.decode(errors="backslashreplace"),
            node_id=owner,
            address="" if node is None else str(node.address),
            decided_by="ring" if rule is None else "rule",
            rule=None if rule is None else " and ".join(rule.patterns),
            copies=reports.places(topology, owner),
        )

    async def change(self, change_id: str, *, wait_s: float = 0.0) -> ChangeView:
        """What has become of a request, as soon as it has ended or after `wait_s`; raises NotFound."""
        change = await self._requests.seen(change_id, wait_s)
        ids = [migration.id for migration in await self._migrations.records() if migration.change == change_id]
        return reports.change_view(change, ids)

    async def migration(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""
        return await self._migrations.one(migration_id)

    async def migrations(self) -> list[MigrationView]:
        """All migrations, the oldest first."""
        return await self._migrations.all()

    async def active_migrations(self) -> list[MigrationView]:
        """Those that are pending or in progress."""
        return await self._migrations.active()

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

    async def settings(self) -> list[SettingView]:
        """The settings that all processes share."""
        return await self._shared.views()

    async def setting(self, name: str) -> SettingView:
        """One of them; raises NotFound."""
        return await self._shared.view(name)

    async def change_setting(self, name: str, value: str, *, by: str = "") -> SettingView:
        """Change a shared setting for all processes at once, also for moves that run. Raises InvalidInput."""
        await self._shared.change({name: value}, by=by)
        return await self._shared.view(name)

    async def setting_history(self) -> list[SettingChangeView]:
        """What was changed of the shared settings, the oldest change first."""
        return await self._shared.history()

    async def roll_back_settings(self, number: int | None = None, *, by: str = "") -> list[AlteredView]:
        """Bring back the values that held after the change `number`, or before the last one. Raises NotFound."""
        altered = await self._shared.roll_back(number, by=by)
        return [AlteredView(item.name, item.old, item.new, item.origin) for item in altered]

    async def stats(self, *, exact: bool = True) -> StatsView:
        """The cluster in numbers; without `exact`, servers whose every key would have to be looked at count none."""
        return (await self.figures(exact=exact))[0]

    async def figures(self, *, exact: bool = True) -> tuple[StatsView, list[ShardView]]:
        """The same, and the shards that it was counted from."""
        topology = await self._topology()
        settings = await self._settings()
        coordinator = await read_record(self._store, CoordinatorRecord, COORDINATOR)
        nodes, shards = await asyncio.gather(
            reports.node_views(topology, self._store, self._connector, self._clock, settings, exact=exact),
            shard_views(topology, self._connector, settings),
        )
        running = None if coordinator is None else coordinator.value
        stats = reports.stats_view(topology, settings, nodes, shards, await self._migrations.records(), running)
        return stats, shards

    # Requests

    async def _submit(self, change: Change) -> ChangeView:
        """Hand a request to the coordinator; what has become of it when it has been admitted."""
        answered = await self._requests.submit(replace(change, id=change.id or self._id(), user=requester()))
        ids = [m.id for m in await self._migrations.records() if m.change == answered.id]
        return reports.change_view(answered, ids)

    # Reading

    async def _topology(self) -> Topology:
        record = await self._topologies.read()
        return Topology(epoch=0) if record is None else record.value

    async def _settings(self) -> ClusterSettings:
        return await self._shared.read()

    def _id(self) -> str:
        return new_id(self._clock)


def _rules(placement: Placement) -> tuple[RuleView, ...]:
    return tuple(RuleView(rule.source, rule.target, rule.patterns) for rule in placement.rules)


def _check_keys_wish(import_keys: bool, flush: bool, adopt: bool) -> None:
    if import_keys + flush + adopt > 1:
        raise InvalidInput(
            "import, flush and adopt exclude each other: keys move to their owners, are deleted, or stay where they are"
        )


def _check_node(node_id: str, weight: float) -> None:
    """Raise InvalidInput for an id or a weight that no node can have."""
    check_id("node", node_id)
    if not 0 < weight <= _WEIGHT_MAX:
        raise InvalidInput(f"weight {weight} of {node_id} is out of bounds: use a number above 0, up to 1000")
