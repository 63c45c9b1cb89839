"""Whether a node is there, and takes writes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeStatus(StrEnum):
    """What users see: heard from just now, there but refusing writes, silent for a while, or silent for too long."""

    ONLINE = "online"
    READ_ONLY = "read-only"
    SUSPECT = "suspect"
    OFFLINE = "offline"

    @property
    def heard(self) -> bool:
        """Whether the node was heard from just now, whatever it can do."""
        return self in (NodeStatus.ONLINE, NodeStatus.READ_ONLY)


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """How a node is. Times are Unix seconds.

    `since` is when it became so: for a silent node that is when it was last heard from. `reason` says what is
    missing, and what to do; it is empty for a node that is online. `answered_at` is the last answer of its data server.
    """

    node: str
    status: NodeStatus
    since: float
    reason: str = ""
    last_seen: float | None = None
    answered_at: float | None = None
