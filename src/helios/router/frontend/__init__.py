"""Clients: their connections, their limits, and what they wait for."""
