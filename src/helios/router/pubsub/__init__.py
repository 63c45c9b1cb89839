"""Subscriptions: who hears what, over which connection, in which order."""
