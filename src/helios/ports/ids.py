"""Ids for what comes into being at run time."""

from __future__ import annotations

import uuid

from helios.ports.clock import Clock


def new_id(clock: Clock) -> str:
    """An id that sorts by the time of its making and that nobody else makes."""
    return f"{int(clock.wall() * 1000):011x}-{uuid.uuid4().hex[:8]}"
