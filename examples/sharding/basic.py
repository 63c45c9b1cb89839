"""Basic set-up: three nodes, one key space, any Redis client.

python examples/sharding/basic.py
"""

from __future__ import annotations

import redis

import helios

USERS = {f"user:{number:04}": f"name {number}" for number in range(3000)}


def run(cluster: helios.LocalCluster) -> None:
    """Write, read at every node, and see where the keys lie."""
    with redis.Redis.from_url(cluster.url, decode_responses=True) as client:
        client.mset(USERS)  # split over the nodes, and the replies put together
        print(f"{client.dbsize():,} keys in one key space")

    for name, address in cluster.addresses.items():
        host, port = address.split(":")
        with redis.Redis(host=host, port=int(port), decode_responses=True) as client:
            print(f"{name} answers for user:0042: {client.get('user:0042')}")

    where = cluster.admin.node_for_key("user:0042")
    ring = helios.Ring(list(cluster.addresses))
    print(f"it lives on {where.node_id} by the {where.decided_by}; a ring alone says {ring.owner('user:0042')}")

    # What stands in braces decides alone, so keys that share it share a node, and commands may take both.
    tagged = {cluster.admin.node_for_key(key).node_id for key in ("user:{42}:name", "user:{42}:cart")}
    print(f"user:{{42}}:name and user:{{42}}:cart share {len(tagged)} node")

    for node in cluster.admin.list_nodes():
        print(f"{node.id}  {node.keys:>5,} keys  {node.ring_share:6.1%} of the ring  {'#' * ((node.keys or 0) // 50)}")
    expected = ring.counts(USERS)
    print("as the ring foretells:", ", ".join(f"{name} {count:,}" for name, count in expected.items()))


if __name__ == "__main__":
    with helios.LocalCluster(shards=3) as local:
        run(local)
