"""Bugs to be planted in lives whose shards have several members."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch


def _one(members: frozenset[str]) -> int:
    return 1


REPLICATED: dict[str, Callable[[], AbstractContextManager[object]]] = {
    # The first member that answers is promoted, whether or not it meets every majority.
    "promote-the-first": lambda: patch("helios.control.failover._meeting", _one),
}
