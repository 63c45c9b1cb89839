"""Servers in memory that behave as the real ones do, for tests and for simulations on a virtual clock."""

from helios.engines.memory.engine import MemoryConnector, MemoryEngine
from helios.engines.memory.server import MemoryServer

__all__ = ["MemoryConnector", "MemoryEngine", "MemoryServer"]
