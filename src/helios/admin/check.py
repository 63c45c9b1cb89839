"""Looking at every server for what should not be there."""

from __future__ import annotations

from collections.abc import Sequence

from helios.access.request_context import may
from helios.access.rights import HIDDEN, Need
from helios.admin.shards import copies_of, missing_copies, replaced_servers
from helios.admin.views import Finding
from helios.errors import EngineDenied, EngineError
from helios.model.migration import Change, Migration, MigrationStatus
from helios.model.settings import ClusterSettings
from helios.model.topology import NodeKind, Shard, Topology
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import MOVER_PREFIX, Connector, Engine, session_of
from helios.ports.records import (
    AGENTS,
    CHANGES,
    COORDINATOR,
    MIGRATIONS,
    REPLICAS,
    RUNNING,
    SESSIONS,
    STRAY_SCRIPTS,
    AgentRecord,
    CoordinatorRecord,
    ReplicasRecord,
    StrayScript,
    list_records,
    read_record,
)
from helios.ports.store import Store

_SCAN_COUNT = 1000
_NAMED = 5


async def findings(
    topology: Topology, store: Store, connector: Connector, clock: Clock, settings: ClusterSettings
) -> list[Finding]:
    """Everything that is not as it should be; an empty list says that all is well.

    Reads every key's name once. Keys that a running transition is copying are where they belong.
    """
    found: list[Finding] = []
    routes = Routes(topology)
    engines: dict[str, Engine] = {}
    try:
        for shard in topology.shards:
            try:
                engines[shard.id] = await connector.open(shard.leading)
            except EngineError as error:
                found.append(Finding("unreachable", shard.id, 1, str(error)))
        for shard_id, engine in engines.items():
            found += await _keys(shard_id, engine, engines, routes)
        wishes = await list_records(store, ReplicasRecord, REPLICAS)
        refused = {wish.value.shard: wish.value.refused for wish in wishes}
        for shard in topology.shards:
            found += _replicas(shard, settings, refused.get(shard.id, ""))
            if shard.id in engines:
                engine = engines[shard.id]
                found += await (
                    _users(shard.id, engine, store) if _supervised(topology, shard) else _direct(shard.id, engine)
                )
    finally:
        for engine in engines.values():
            await engine.close()
    found += [Finding("replaced_server", node, 1, what) for node, what in replaced_servers(topology).items()]
    found += await _stray_scripts(store)
    found += await _silent(topology, store, clock, settings)
    found += await _abandoned(store)
    return found


async def _keys(shard_id: str, engine: Engine, engines: dict[str, Engine], routes: Routes) -> list[Finding]:
    strays: list[bytes] = []
    doubles: list[bytes] = []
    cursor = 0
    while True:
        cursor, keys = await engine.scan(cursor, _SCAN_COUNT)
        by_owner: dict[str, list[bytes]] = {}
        for key in sorted(set(keys)):
            owner = routes.owner(key)
            if owner != shard_id and not _moving(routes, key, shard_id):
                by_owner.setdefault(owner, []).append(key)
        for owner, mine in by_owner.items():
            there = await engines[owner].exists(mine) if owner in engines else [False] * len(mine)
            for key, exists in zip(mine, there, strict=True):
                (doubles if exists else strays).append(key)
        if cursor == 0:
            break
    found = []
    if doubles:
        found.append(Finding("double", shard_id, len(doubles), f"keys that their owners have too: {_names(doubles)}"))
    if strays:
        found.append(Finding("stray", shard_id, len(strays), f"keys that other shards own: {_names(strays)}"))
    return found


def _moving(routes: Routes, key: bytes, shard_id: str) -> bool:
    """Whether the key is on this server because a transition is bringing it there or has just taken it away."""
    pair = routes.pair(key)
    return pair is not None and shard_id in pair


def _names(keys: Sequence[bytes]) -> str:
    if not may(Need.READ):
        return HIDDEN
    shown = ", ".join(repr(key.decode(errors="backslashreplace")) for key in keys[:_NAMED])
    return f"{shown}, …" if len(keys) > _NAMED else shown


def _replicas(shard: Shard, settings: ClusterSettings, refused: str) -> list[Finding]:
    missing = missing_copies(shard, settings)
    if not missing:
        return []
    why = f", since {refused}" if refused else ""
    return [Finding("under_replicated", shard.id, missing, f"it has {copies_of(shard, settings)}{why}")]


def _supervised(topology: Topology, shard: Shard) -> bool:
    node = topology.node(shard.leading.node)
    return node is not None and node.kind is NodeKind.SUPERVISED


async def _users(shard_id: str, engine: Engine, store: Store) -> list[Finding]:
    """Users are read before sessions and the term: one that is made meanwhile is not taken for an orphan."""
    try:
        users = await engine.users()
    except EngineDenied:
        return []
    sessions = {entry.key.removeprefix(SESSIONS) for entry in (await store.list(SESSIONS)).entries}
    coordinator = await read_record(store, CoordinatorRecord, COORDINATOR)
    living = "" if coordinator is None else f"{MOVER_PREFIX}{coordinator.value.term}-"
    orphans = [
        user
        for user in users
        if ((session := session_of(user)) is not None and session not in sessions)
        or (user.startswith(MOVER_PREFIX) and not (living and user.startswith(living)))
    ]
    if not orphans:
        return []
    return [Finding("orphaned_user", shard_id, len(orphans), f"users that nobody uses: {', '.join(sorted(orphans))}")]


async def _direct(shard_id: str, engine: Engine) -> list[Finding]:
    """What a client changes at a server behind Helios' back is lost with the next move of its keys."""
    try:
        strangers = await engine.strangers()
    except EngineDenied:
        return []
    if not strangers:
        return []
    shown = ", ".join(sorted(strangers)[:_NAMED]) + (", …" if len(strangers) > _NAMED else "")
    return [Finding("direct_client", shard_id, len(strangers), f"clients that go past Helios: {shown}")]


async def _silent(topology: Topology, store: Store, clock: Clock, settings: ClusterSettings) -> list[Finding]:
    agents = {record.value.node: record.value for record in await list_records(store, AgentRecord, AGENTS)}
    running = {entry.key.removeprefix(RUNNING) for entry in (await store.list(RUNNING)).entries}
    found = []
    for node in topology.nodes:
        if node.kind is NodeKind.EXTERNAL:
            continue  # No agent speaks for it; that its server answers has just been seen.
        if node.id in running:
            continue
        agent = agents.get(node.id)
        # Its clock may be off: a heartbeat of the future says nothing.
        silent_s = None if agent is None else clock.wall() - agent.seen_at
        if silent_s is None or not 0 <= silent_s < settings.coordinator.health_timeout:
            since = "never" if silent_s is None else f"{max(silent_s, 0):.0f} s ago"
            found.append(Finding("silent_node", node.id, 1, f"last heard from: {since}"))
    return found


async def _stray_scripts(store: Store) -> list[Finding]:
    """Scripts that seem to write keys of other shards; forgotten by a repair, which moves these keys."""
    records = await list_records(store, StrayScript, STRAY_SCRIPTS)
    return [
        Finding(
            "stray_script",
            one.shard,
            1,
            f"{one.script if one.script.startswith('function ') else f'the script {one.script}'} ran as "
            f"{_names([one.key.encode()])} of {one.owner} was written there: "
            "declare such keys in KEYS, with one hash tag",
        )
        for one in (record.value for record in records)
    ]


async def _abandoned(store: Store) -> list[Finding]:
    """Migrations that say they are under way although the request behind them has ended."""
    records = await list_records(store, Migration, MIGRATIONS)
    changes = await list_records(store, Change, CHANGES)
    alive = {record.value.id for record in changes if not record.value.status.ended}
    left = [
        record.value.id
        for record in records
        if record.value.status is MigrationStatus.IN_PROGRESS and record.value.change not in alive
    ]
    return [Finding("abandoned_migration", "", len(left), ", ".join(left[:_NAMED]))] if left else []
