"""What a backup has beside the keys: what a cluster agreed on at that moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from helios.model.topology import Topology
from helios.model.users import User


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The topology, the shared settings that do not stand at their defaults, and the users."""

    topology: Topology
    settings: dict[str, str] = field(default_factory=dict)
    users: tuple[User, ...] = ()
