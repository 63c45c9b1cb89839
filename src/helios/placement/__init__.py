"""Which shard owns a key: ring, rules, plans. Pure."""
