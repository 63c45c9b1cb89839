"""The words of Helios as frozen, validated values: ids, nodes, shards, placement, topology, migrations, settings."""
