"""Who is to lead a shard though its leader is well: away from a node that is about to stop, and home afterwards. Pure.

Each shard begins with its leader on the node that founded it, which spreads leaders as the ring spreads keys. What a
failover has taken elsewhere goes home when its founding member has been in sync for a while: longer each time that it
has lost the leadership lately, so that a node that comes and goes does not take its clients with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from helios.model.ids import founder_id
from helios.model.topology import Shard, Transition

STEADY_S = 30.0
STEADY_MAX_S = 1800.0
_FORGIVEN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Steadiness:
    """How a member has fared: since when it has been in sync, None if it is not, and how often it was lost lately."""

    since_s: float | None = None
    losses: int = 0
    lost_at_s: float = 0.0

    def seen(self, in_sync: bool, now_s: float) -> Steadiness:
        """After another look at it."""
        if not in_sync:
            return replace(self, since_s=None)
        return self if self.since_s is not None else replace(self, since_s=now_s)

    def lost(self, now_s: float) -> Steadiness:
        """After a failover has taken the leadership from it."""
        losses = 1 if now_s - self.lost_at_s > _FORGIVEN_S else self.losses + 1
        return Steadiness(None, losses, now_s)

    def is_steady(self, now_s: float) -> bool:
        """Whether it has been in sync for long enough to lead again."""
        rest_s = min(STEADY_MAX_S, STEADY_S * 2 ** max(0, self.losses - 1))
        return self.since_s is not None and now_s - self.since_s >= rest_s


def away_from(shard: Shard, leaving: Collection[str]) -> tuple[str, ...]:
    """The members that are to lead instead of a leader whose node is about to stop; none where it is not."""
    if shard.leading.node not in leaving:
        return ()
    staying = [member.id for member in shard.members if member.node not in leaving]
    return tuple(sorted(staying, key=lambda member_id: (member_id != founder_id(shard.id), member_id)))


def is_missed(member_id: str, membership: Collection[str], leaving: Collection[str]) -> bool:
    """Whether a member is about to stop that every write waits for, as one of two: first it is to count no more."""
    return len(membership) == 2 and member_id in membership and member_id in leaving


def able_instead_of(shard: Shard, refusing: Collection[str], leaving: Collection[str]) -> tuple[str, ...]:
    """The members that are to lead instead of one that refuses writes (its disk is full); none where it does not."""
    if shard.leader not in refusing:
        return ()
    return tuple(m.id for m in shard.members if m.id not in refusing and m.node not in leaving)


def staying_for(transition: Transition | None, shard: Shard) -> tuple[str, ...]:
    """The leader itself while keys move, unless its node is to leave by that: under another the move begins anew."""
    if transition is None or transition.leaving == shard.leading.node:
        return ()
    return (shard.leader,)


def home_of(shard: Shard, leaving: Collection[str]) -> str:
    """The founding member, where it does not lead and could; else empty."""
    founder = founder_id(shard.id)
    member = next((member for member in shard.members if member.id == founder), None)
    return "" if member is None or shard.leader == founder or member.node in leaving else founder
