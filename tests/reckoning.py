"""What must be true of a cluster of real processes at rest, whatever was done to it before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.cluster import Cluster
from tests.shards import rests, topology_in
from tests.waiting import until

from helios.model.sections import StoreSettings
from helios.model.settings import Settings
from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.engine import MOVER_PREFIX, session_of
from helios.ports.records import (
    COORDINATOR,
    SESSIONS,
    CoordinatorRecord,
    read_record,
)
from helios.ports.store import Store
from helios.runtime.backends import locate


async def verb(cluster: Cluster, *words: str, port: int | None = None) -> object:
    """A command at a node (the first unless a port is given), without holding up the writers."""
    return await asyncio.to_thread(cluster.command, *words, port=port, timeout_s=30.0)


async def answer(cluster: Cluster, *words: str) -> object:
    """What the first node answers, asked again as long as its router has executed nothing.

    A machine with too much to do makes routers lose leases that are short, and members acknowledge too late.
    """
    replies: list[object] = []

    async def answered() -> bool:
        replies.append(await verb(cluster, *words))
        return not str(replies[-1]).startswith(("CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"))

    await until(answered, f"{words[0]} is answered", limit_s=20)
    return replies[-1]


@asynccontextmanager
async def opened(cluster: Cluster) -> AsyncIterator[Store]:
    """The cluster's store, wherever that is."""
    settings = Settings(store=StoreSettings(url=cluster.store_url))
    store = await locate(settings, cluster.data).open()
    try:
        yield store
    finally:
        await store.close()


async def at_rest(cluster: Cluster, timeout_s: float = 60.0) -> None:
    """Wait until the cluster has done all that was asked for."""
    async with opened(cluster) as store:
        await until(lambda: rests(store), "all that was asked for has ended", limit_s=timeout_s)


async def topology_of(cluster: Cluster) -> Topology:
    """The topology as it stands in the cluster's store."""
    async with opened(cluster) as store:
        return await topology_in(store)


async def assert_each_key_once(cluster: Cluster) -> int:
    """Every server holds only what it owns, so no key is anywhere twice; how many keys there are."""
    topology = await topology_of(cluster)
    assert topology.transition is None
    assert not topology.unclean
    routes = Routes(topology)
    count = 0
    for shard in topology.shards:
        keys = await asyncio.to_thread(cluster.leader_command, shard, "KEYS", "*")
        assert isinstance(keys, list)
        count += len(keys)
        strays = [key for key in keys if routes.owner(key) != shard.id]
        assert strays == [], f"{len(strays)} keys lie on {shard.id} and are owned elsewhere"
    return count


async def assert_no_users_left(cluster: Cluster) -> None:
    """Soon, every server knows the users of living sessions and of the present coordinator alone."""
    orphans: set[str] = set()
    async with opened(cluster) as store:

        async def clean() -> bool:
            orphans.clear()
            for shard in (await topology_in(store)).shards:
                users = await asyncio.to_thread(cluster.leader_command, shard, "ACL", "USERS")
                assert isinstance(users, list)
                coordinator = await read_record(store, CoordinatorRecord, COORDINATOR)
                mine = f"{MOVER_PREFIX}{coordinator.value.term}-" if coordinator else MOVER_PREFIX
                sessions = await store.list(SESSIONS)
                living = {None, *(entry.key.removeprefix(SESSIONS) for entry in sessions.entries)}
                for user in map(bytes.decode, users):
                    orphan = session_of(user) not in living
                    if orphan or (user.startswith(MOVER_PREFIX) and not user.startswith(mine)):
                        orphans.add(f"{user} on {shard.id}")
            return not orphans

        try:
            await until(clean, "users of sessions and terms that are over go")
        except AssertionError:
            raise AssertionError(f"these users belong to nobody: {sorted(orphans)}") from None


async def assert_checked(cluster: Cluster) -> None:
    """Soon, the cluster's own check finds nothing."""
    await asyncio.to_thread(cluster.assert_checked)
