"""Which members are to lead, by anybody's wish: people's, nodes' that are about to stop, and the settings'."""

from __future__ import annotations

import time
from collections.abc import Collection

from helios.control.leaders import Steadiness, able_instead_of, away_from, home_of, staying_for
from helios.control.replicas import Look, is_caught_up
from helios.coordinator.term_context import TermContext
from helios.model.balancing import quiet_hours_of
from helios.model.topology import Shard

_BETWEEN_S = 5.0  # from one leader that goes home to the next
_ASKED_S = 60.0


class Leadership:
    """Says for each look at a shard who is to lead it. People come first, then nodes that stop."""

    def __init__(self, context: TermContext) -> None:
        self._context = context
        self._asked: dict[str, str] = {}  # by shard id: the member that a person wants to lead
        self._leaving: frozenset[str] = frozenset()
        self._steadiness: dict[str, Steadiness] = {}  # by member id
        self._next_home_s = 0.0
        self._home_until_s = 0.0  # until then somebody has asked for all leaders to go home

    def ask(self, shard_id: str, member_id: str) -> None:
        """Somebody wants this member to lead."""
        self._asked[shard_id] = member_id

    def asked_no_more(self, shard_id: str) -> None:
        """It leads, or that took too long."""
        self._asked.pop(shard_id, None)

    def leaving(self, nodes: Collection[str]) -> None:
        """These nodes are about to stop."""
        self._leaving = frozenset(nodes)

    def all_home(self) -> None:
        """Somebody wants what is uneven to be evened out: for a while nothing is waited for but members in sync."""
        self._home_until_s = self._now_s + _ASKED_S

    def seen(self, look: Look) -> None:
        """Remember how the members of a shard fare."""
        for member in look.shard.members:
            known = self._steadiness.get(member.id, Steadiness())
            self._steadiness[member.id] = known.seen(is_caught_up(look, member.id), self._now_s)

    def lost(self, member_id: str) -> None:
        """A failover takes the leadership from this member."""
        self._steadiness[member_id] = self._steadiness.get(member_id, Steadiness()).lost(self._now_s)

    def successors(self, shard: Shard) -> tuple[str, ...]:
        """Who is to lead the shard, the best first; none where whoever leads may."""
        if shard.id in self._asked:
            return (self._asked[shard.id],)
        if away := away_from(shard, self._leaving):
            return away
        refusing = self._context.refusing
        if able := able_instead_of(shard, refusing, self._leaving):
            return able
        home = home_of(shard, self._leaving)
        if home and home not in refusing and self._may_go_home(home):
            return (home,)
        return staying_for(self._context.publisher.topology.transition, shard)

    def going_home(self, shard: Shard, member_id: str) -> None:
        """A leader hands over; where that is its way home, the next one waits for a moment."""
        if member_id == home_of(shard, self._leaving):
            self._next_home_s = self._now_s + _BETWEEN_S

    def _may_go_home(self, member_id: str) -> bool:
        topology, now_s = self._context.publisher.topology, self._now_s
        if topology.transition is not None or topology.fenced_shards or now_s < self._next_home_s:
            return False
        if now_s < self._home_until_s:
            return True
        settings = self._context.settings
        if not settings.replication.rebalance_leaders or self._is_quiet(settings.sharding.quiet_hours):
            return False
        return self._steadiness.get(member_id, Steadiness()).is_steady(now_s)

    def _is_quiet(self, hours: str) -> bool:
        local = time.localtime(self._context.clock.wall())
        return any(quiet.covers(local.tm_hour * 60 + local.tm_min) for quiet in quiet_hours_of(hours))

    @property
    def _now_s(self) -> float:
        return self._context.clock.monotonic()
