"""The points of a move at which tests stop a coordinator, all in one place; in normal runs nothing happens there."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Point(StrEnum):
    """Moments at which a crash must do no harm, in the order in which a move comes by them."""

    COPYING = "copying"  # a part of the first pass has been copied
    CATCHING_UP = "catching-up"  # a pair has caught up, and its fence is about to be asked for
    FENCED = "fenced"  # the fence is published; nobody has been waited for
    ACKNOWLEDGED = "acknowledged"  # every router has acknowledged the fence; the last changes are not copied
    BEFORE_SWITCH = "before-switch"  # everything is copied; the switch is about to be published
    AFTER_SWITCH = "after-switch"  # the switch is in the store; the coordinator has done nothing since
    SWEEPING = "sweeping"  # a part of what has moved is deleted from the source
    IMPORT_COPIED = "import-copied"  # a batch of a joining server is at its owners, where clients see it, and not noted
    IMPORTING = "importing"  # a batch of a joining server is at its owners, and not yet deleted from that server
    COMMITTING = "committing"  # any process is inside a commit to the store, and holds the lock for it


class Failpoints(Protocol):
    """What happens when a coordinator comes by a point."""

    async def reach(self, point: Point) -> None:
        """Return at once, or whenever the coordinator is to go on."""


class NoFailpoints:
    """Normal runs: nothing happens at any point."""

    async def reach(self, point: Point) -> None:
        """Return at once."""


OFF: Failpoints = NoFailpoints()
