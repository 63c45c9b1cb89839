"""Whether a node is there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeStatus(StrEnum):
    """What users see: heard of just now, silent for a while, or silent for too long."""

    ONLINE = "online"
    SUSPECT = "suspect"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """How a node is. Times are Unix seconds.

    `since` is when it became so: for a silent node that is when it was last heard of. `reason` says what is
    missing; it is empty for a node that is online. `answered_at` is the last answer of its data server.
    """

    node: str
    status: NodeStatus
    since: float
    reason: str = ""
    last_seen: float | None = None
    answered_at: float | None = None
