"""What routers hold commands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fence:
    """Routers hold commands for what is inside until a later epoch, and acknowledge when none is under way.

    Inside are the keys that a transition moves from `shard` to `target`; without a target, all that `shard` owns, as a
    change of its leader needs it. What runs late at a leader that was replaced is void, and so not waited for for
    ever; where a fence is `answered`, everything is.
    """

    shard: str
    target: str = ""
    answered: bool = False

    @property
    def whole(self) -> bool:
        """Whether everything of the shard is inside."""
        return not self.target
