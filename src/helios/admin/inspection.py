"""The verbs that only look: nodes, shards, keys, moves, settings, and what a change would do."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from helios.admin import reports
from helios.admin.balance import balance_view, moves_of, policy_of, proposed, read_standing
from helios.admin.history import history
from helios.admin.joining import check_keys_wish, check_node, identify
from helios.admin.migrations import Migrations
from helios.admin.preview import own_keys, preview
from helios.admin.router_views import RouterView, SlowCommandsView
from helios.admin.routers import as_seen, router_views, slow_commands
from helios.admin.settings import SharedSettings
from helios.admin.shards import replaced_servers, shard_views, troubled, why_it_stays
from helios.admin.views import (
    BalanceView,
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
from helios.control.admission import Policy, admit
from helios.errors import InvalidInput, Refused, StoreError, Unavailable
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind
from helios.model.settings import ClusterSettings
from helios.model.topology import Node, Placement, Topology
from helios.placement.routing import Routes
from helios.placement.table import table_of
from helios.ports.clock import Clock
from helios.ports.engine import Connector
from helios.ports.records import COORDINATOR, CoordinatorRecord, read_record
from helios.ports.store import Store
from helios.ports.topologies import TopologyReader

SHOWN = 20  # of what only grows, unless more are asked for
_SLOW_COMMANDS_MAX = 1000


class Inspection:
    """The verbs of `admin.service.AdminService` that change nothing, over a store and the data servers."""

    def __init__(self, store: Store, connector: Connector, clock: Clock) -> None:
        self._store = store
        self._topologies = TopologyReader(store)
        self._connector = connector
        self._clock = clock
        self._shared = SharedSettings(store, clock)
        self._migrations = Migrations(store, clock)

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
        check_node(node_id, weight)
        check_keys_wish(import_keys, flush, adopt=False)
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

    async def warnings(self) -> list[str]:
        """What does not work at the nodes as the coordinator has seen them, a sentence each. Asks no server."""
        try:
            topology, settings = await self._topology(), await self._settings()
            standing = await read_standing(topology, self._store, self._clock, settings)
        except (StoreError, Unavailable) as error:
            return [f"how the nodes are is not known: {error}"]
        unwell = [f"{one.node} is {one.status}: {one.reason}" for one in standing.health.values() if one.reason]
        replaced = [f"{node} is replaced: {what}" for node, what in replaced_servers(topology).items()]
        staying = [
            f"{node.id} is being removed: {why}" for node in topology.nodes if (why := why_it_stays(topology, node))
        ]
        return [*unwell, *replaced, *staying, *troubled(topology, settings)]

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

    async def migration(self, migration_id: str) -> MigrationView:
        """One migration; raises NotFound."""
        return await self._migrations.one(migration_id)

    async def migrations(self) -> list[MigrationView]:
        """All migrations, the oldest first."""
        return await self._migrations.all()

    async def active_migrations(self) -> list[MigrationView]:
        """Those that are pending or in progress."""
        return await self._migrations.active()

    async def settings(self) -> list[SettingView]:
        """The settings that all processes share."""
        return await self._shared.views()

    async def setting(self, name: str) -> SettingView:
        """One of them; raises NotFound."""
        return await self._shared.view(name)

    async def setting_history(self) -> list[SettingChangeView]:
        """What was changed of the shared settings, the oldest change first."""
        return await self._shared.history()

    async def stats(self, *, exact: bool = True) -> StatsView:
        """The cluster in numbers; without `exact`, servers whose every key would have to be looked at count none."""
        (stats, _), routers = await asyncio.gather(self.figures(exact=exact), router_views(self._store))
        return replace(
            stats,
            replica_reads=sum(router.replica_reads for router in routers),
            replica_reads_by_leader=sum(router.replica_reads_by_leader for router in routers),
        )

    async def figures(self, *, exact: bool = True) -> tuple[StatsView, list[ShardView]]:
        """The same but for what routers count, and the shards that it was counted from."""
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

    async def _topology(self) -> Topology:
        record = await self._topologies.read()
        return Topology(epoch=0) if record is None else record.value

    async def _settings(self) -> ClusterSettings:
        return await self._shared.read()


def _rules(placement: Placement) -> tuple[RuleView, ...]:
    return tuple(RuleView(rule.source, rule.target, rule.patterns) for rule in placement.rules)
