"""Monitoring and statistics: nodes, balance, moves, figures for Prometheus, and whether all is as it should be.

python examples/sharding/monitoring.py
"""

from __future__ import annotations

import asyncio
from urllib.request import urlopen

import redis

import helios

KEYS = {f"user:{number:04}": "x" * (number % 50) for number in range(3000)}


async def run_async(cluster: helios.LocalCluster) -> None:
    """Look at a cluster from an event loop, as a dashboard or an exporter would."""
    admin = cluster.async_admin
    stats, check = await asyncio.gather(admin.stats(), admin.check())
    print(f"{stats.online_nodes} of {stats.total_nodes} nodes online, {stats.total_keys:,} keys")

    mean = stats.total_keys / stats.total_nodes
    for node in stats.nodes:
        keys = node.keys or 0
        print(f"{node.id}  {node.status:7} {node.state:7} {keys:>5,} keys  {keys / mean - 1:+6.1%} off the mean")

    # Whoever reacts to moves follows them; an alarm would look at `pause_ms` and `error`.
    migration = await admin.migrate("shard-1", "shard-2", "user:1*")
    async for progress in admin.follow(migration):
        print(f"  move {progress.change.status}, {progress.part:.0%}")
    for one in await admin.migrations():
        if one.id == migration.id and one.start_time and one.end_time:
            print(f"{one.source_node} → {one.target_node}: {one.status}, {one.keys_moved:,} keys")
    await admin.wait(await admin.migrate("shard-2", "shard-1", "user:1*"))

    # What nodes carry is collected every few seconds; what a rebalance would do about it is told beforehand.
    balance = await admin.balance()
    print(f"balance by {balance.by}, {balance.strategy} beyond {balance.threshold:.0%}: {balance.proposal}")
    for past in await admin.history(2):
        print(f"{past.kind} asked for by {past.origin}: {past.status}, {past.keys_moved:,} keys")
    print("every key is where it belongs, and nowhere else" if check.clean else f"found: {check.findings}")


def run(cluster: helios.LocalCluster) -> None:
    """Everything that can be seen."""
    with redis.Redis.from_url(cluster.url) as client:
        client.mset(KEYS)
    asyncio.run(run_async(cluster))
    with urlopen(f"{cluster.rest}/metrics") as response:  # what Prometheus reads
        lines = response.read().decode().splitlines()
    print("\n".join(sorted(line for line in lines if line.startswith("helios_node_keys{"))))


if __name__ == "__main__":
    with helios.LocalCluster(shards=3) as local:
        run(local)
