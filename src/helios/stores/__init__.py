"""Homes of the store, and the catalog: what Helios keeps in it, by name."""
