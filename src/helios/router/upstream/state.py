"""The states of a connection to a server."""

from __future__ import annotations

from enum import Enum


class ConnectionState(Enum):
    """Whether commands can be sent, wait for the connection, or fail at once."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    DOWN = "down"
    CLOSED = "closed"
