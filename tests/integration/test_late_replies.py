"""Commands that reach a server after their router's lease has ended: nobody is told that they succeeded.

A server stands still, commands for it pile up in its router's buffers, the router is stopped, and the keys move away
meanwhile. Then the router goes on, and what it had buffered runs where the keys no longer live.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import hiredis
import pytest
from tests.cluster import Cluster, ask, running_cluster
from tests.crashes import process_stopped
from tests.reckoning import answer, at_rest, opened, verb
from tests.servers import Server, start_valkey
from tests.waiting import until

from helios.admin.routers import router_views
from helios.resp.wire import encode_command

pytestmark = pytest.mark.processes

SETTINGS = {
    "HELIOS_SHARDING__MIGRATION_RATE": "0",
    "HELIOS_SHARDING__AUTO_REBALANCE": "false",
    "HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT": "0.3",
    "HELIOS_ROUTER__SESSION_TTL": "4",
    "HELIOS_ATLAS__AOF_FSYNC": "every",
}
KEYS = [f"late:{number}" for number in range(900)]
VALUE = b"x" * 8192


@dataclass
class Stalled:
    """A cluster of which one router has many commands for an external server in its buffers."""

    cluster: Cluster
    external: Server
    router: int
    reader: asyncio.StreamReader

    async def replies(self) -> list[object]:
        """What the router answers, one for each command."""
        parser = hiredis.Reader()
        found: list[object] = []
        async with asyncio.timeout(30):
            while len(found) < len(KEYS):
                parser.feed(await self.reader.read(1 << 16))
                while (reply := parser.gets()) is not False:
                    found.append(reply)
        return found


async def moved(cluster: Cluster, source: str, target: str) -> None:
    """Move the test's keys, over the router that nobody stops."""
    said = await verb(cluster, "MIGRATE", source, target, "late:*", port=cluster.resp_ports[1])
    assert isinstance(said, list), said
    await at_rest(cluster)


@asynccontextmanager
async def stalled(folder: Path, command: bytes, *, acl: bool) -> AsyncIterator[Stalled]:
    """900 commands are on their way from the first node's router to an external server, and both are stopped.

    Without `acl`, the server lets nobody make users. What runs there late leaves keys behind that nobody can see.
    """
    cluster_folder = folder / "cluster"
    with (
        start_valkey(folder / "external") as external,
        running_cluster(cluster_folder, 2, SETTINGS, checked=acl) as cluster,
    ):
        await answer(cluster, "ADDNODE", "external", f"localhost:{external.port}")
        await at_rest(cluster)
        for shard in ("shard-1", "shard-2"):
            await moved(cluster, shard, "external")
        if not acl:
            assert await verb(cluster, "ACL", "SETUSER", "default", "-acl", port=external.port) == b"OK"
        assert await answer(cluster, "MSET", *(word for key in KEYS for word in (key, "before"))) == b"OK"
        (router,) = cluster.routers("shard-1")
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.resp_ports[0])
        external.stop()
        for key in KEYS:
            arguments = [VALUE] if command == b"SET" else []
            writer.write(encode_command([command, key.encode(), *arguments]))
        async with opened(cluster) as store:

            async def issued() -> bool:
                views = [view for view in await router_views(store) if view.node == "shard-1"]
                return any(view.unanswered >= len(KEYS) for view in views)

            await until(issued, "the router has taken all commands")
        router.send(signal.SIGSTOP)
        process_stopped(router.pid)
        try:
            external.cont()
            yield Stalled(cluster, external, router.pid, reader)
        finally:
            router.send(signal.SIGCONT)
            writer.close()


@pytest.mark.parametrize("acl", [True, False], ids=["users", "no users"])
async def test_a_write_that_runs_after_the_lease_is_no_success(tmp_path: Path, acl: bool) -> None:
    async with stalled(tmp_path, b"SET", acl=acl) as late:
        cluster = late.cluster
        await moved(cluster, "external", "shard-2")
        for router in cluster.routers("shard-1"):
            router.send(signal.SIGCONT)
        replies = await late.replies()
        # What the router had not begun to send when its lease ended is refused.
        assert {str(reply).split()[0] for reply in replies} <= {"b'OK'", "UNKNOWN", "CLUSTERDOWN"}, replies[:3]
        assert any(str(reply).startswith("UNKNOWN") for reply in replies), replies[:3]
        there = await verb(cluster, "MGET", *KEYS, port=cluster.resp_ports[1])
        assert isinstance(there, list)
        refused = [key for key, reply in zip(KEYS, replies, strict=True) if str(reply).startswith("CLUSTERDOWN")]
        assert {there[KEYS.index(key)] for key in refused} <= {b"before"}
        left = await asyncio.to_thread(ask, late.external.port, "MGET", *refused, "none")
        assert isinstance(left, list)
        assert VALUE not in left, "commands that were refused have been executed"
        lost = [
            key for key, reply, value in zip(KEYS, replies, there, strict=True) if reply == b"OK" and value != VALUE
        ]
        assert lost == [], f"{len(lost)} acknowledged writes are lost"
        if not acl:
            await assert_repaired(late, there)


async def assert_repaired(late: Stalled, there: list[object]) -> None:
    """What ran late, if anything did, is read by nobody and deleted by a repair, since its owner has the key."""
    cluster = late.cluster

    async def held() -> object:
        return await asyncio.to_thread(ask, late.external.port, "EXISTS", *KEYS)

    async def repaired() -> bool:
        await verb(cluster, "CHECK", "REPAIR", port=cluster.resp_ports[1])
        return await held() == 0

    await until(repaired, "nothing is left where the keys were", limit_s=20)
    assert await verb(cluster, "MGET", *KEYS, port=cluster.resp_ports[1]) == there
