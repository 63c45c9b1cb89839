"""Moving keys of one's choice: by pattern, with progress, paused, undone, cancelled.

python examples/sharding/moving.py
"""

from __future__ import annotations

import redis

import helios

CARTS = {f"cart:{number:04}": "apples" for number in range(3000)}
USERS = {f"user:{number:04}": "somebody" for number in range(3000)}


def run(cluster: helios.LocalCluster) -> None:
    """Move the carts of shard-1 to shard-2 and back."""
    admin = cluster.admin
    with redis.Redis.from_url(cluster.url) as client:
        client.mset(CARTS | USERS)

    for move in admin.preview_migrate("shard-1", "shard-2", "cart:*"):
        print(f"would move {move.keys:,} keys from {move.source_node} to {move.target_node}")

    # Slow enough to watch. Settings that all processes share change for moves that run, too.
    usual = admin.setting("sharding.migration_rate").value
    admin.change_setting("sharding.migration_rate", "1500")

    migration = admin.migrate("shard-1", "shard-2", "cart:*", verify=True)
    for progress in admin.follow(migration):
        print(f"  {progress.change.status}: {progress.keys_moved:,} of {progress.total_keys:,} keys")
        if progress.keys_moved and not progress.ended:
            break
    if admin.change(migration.change).status != "done":
        print("paused:", admin.pause_migration(migration.id).paused)
        admin.resume_migration(migration.id)
    ended = admin.wait(migration)
    print(f"moved {ended.keys_moved:,} keys, {ended.migrations[0].verified:,} copies compared with their source")

    report(admin)

    # The same move backwards takes its rule away again.
    admin.wait(admin.migrate("shard-2", "shard-1", "cart:*"))
    report(admin)

    # What has not ended is cancelled instead: keys stay with, or go back to, their source.
    migration = admin.migrate("shard-1", "shard-2", "cart:*")
    print("cancelled:", admin.cancel_migration(migration.id).status)
    try:
        admin.wait(migration)
    except helios.ChangeFailed as error:
        print("waiting for it says:", error)
    report(admin)

    admin.change_setting("sharding.migration_rate", usual)


def report(admin: helios.AdminClient) -> None:
    """Which rules there are, and where a cart lives."""
    rules = [f"{rule.source} → {rule.target} {' '.join(rule.patterns)}" for rule in admin.rules()] or ["none"]
    where = admin.node_for_key("cart:0002")
    print(f"rules: {', '.join(rules)}; cart:0002 is on {where.node_id} by the {where.decided_by}")


if __name__ == "__main__":
    with helios.LocalCluster(shards=3) as local:
        run(local)
