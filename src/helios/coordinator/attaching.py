"""Attaching members to their leader: a supervised one as it comes, an external one with care."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from helios.control.replicas import Sight
from helios.control.rounds import Quorum
from helios.coordinator.access import FENCING_RIGHTS
from helios.coordinator.compatibility import unreadable
from helios.coordinator.following import Following
from helios.coordinator.term_context import TermContext
from helios.errors import EngineDenied
from helios.model.topology import Member, Shard

logger = logging.getLogger(__name__)

_TRY_AGAIN_S = 10.0
_LOGIN_S = 5.0  # more than a member waits between two attempts to reach its leader


@dataclass(frozen=True, slots=True)
class _Login:
    """A login of a member at its leader, which had this history ("": none yet) when it was given."""

    leader: str
    history: str
    given_s: float

    def lets_in(self, leader: str, history: str, now_s: float) -> bool:
        """Whether this leader, with this history now, knows it; for some time also where it had none at first."""
        if leader != self.leader:
            return False
        return history == self.history if self.history else now_s < self.given_s + _LOGIN_S


class Attaching:
    """Makes members follow, and remembers which of them could log in to their leader by themselves.

    What an external server has beside keys may be more than a member of ours can take: it is asked before the first
    copy is made. Who cannot be served is told why, by shard, in `refused`.
    """

    def __init__(self, context: TermContext, following: Following) -> None:
        self._context = context
        self._following = following
        self._again: dict[str, float] = {}  # by shard id: when it is tried again
        self.refused: dict[str, str] = {}  # by shard id: why no copy can follow its leader
        self.sealed: set[str] = set()  # by member id
        self._let_in: dict[str, _Login] = {}  # by member id

    def seen(self, sights: Mapping[str, Sight]) -> None:
        """Who follows nobody any more was restarted, or told so."""
        for member_id, sight in sights.items():
            if sight.leader is None:
                self.forget(member_id)

    def forget(self, member_id: str) -> None:
        """A member is listed anew: what was known of it was of a shard that may have left, and its users with it."""
        self.sealed.discard(member_id)
        self._let_in.pop(member_id, None)

    def let_in(self, shard: Shard, leader: Sight | None) -> set[str]:
        """The members whose login the shard's leader knows, as far as its history tells: with a restart both are gone.

        A leader that tells none, as nobody has followed it yet, may have been restarted since. But a login is given
        time to be used before the server is asked to make another.
        """
        if leader is None:
            return set()
        now_s = self._context.clock.monotonic()
        return {
            member.id
            for member in shard.servers
            if (login := self._let_in.get(member.id)) and login.lets_in(shard.leader, leader.history, now_s)
        }

    async def follow(self, shard: Shard, member: Member, leader: Sight, *, external: bool) -> None:
        """Make the member follow the shard's leader, if it can. Raises EngineError or Replaced."""
        if not external:
            await self._following.follow(member, shard.leading)
            self._let_in[member.id] = self._login(shard, leader)
            return
        if all(one.id != member.id for one in shard.members) and not await self._is_fit(shard, member):
            return
        term = "" if Quorum.of(shard).alone else shard.lineage[0].history
        self.sealed.discard(member.id)
        await self._following.follow_external(member, shard.leading, term)
        self._let_in[member.id] = self._login(shard, leader)

    def _login(self, shard: Shard, leader: Sight) -> _Login:
        return _Login(shard.leader, leader.history, self._context.clock.monotonic())

    async def seal(self, member: Member) -> None:
        """Have the member forget how it logs in. Raises EngineError or Replaced."""
        await self._following.seal(member)
        self._let_in.pop(member.id, None)
        self.sealed.add(member.id)

    async def _is_fit(self, shard: Shard, member: Member) -> bool:
        """Whether the member can follow its external leader, as far as was found out lately. Raises EngineError."""
        now_s = self._context.clock.monotonic()
        if now_s < self._again.get(shard.id, now_s):
            return False
        reason = await self._unfit(shard.leading, member)
        if not reason:
            self.refused.pop(shard.id, None)
            return True
        self._again[shard.id] = now_s + _TRY_AGAIN_S
        if self.refused.get(shard.id) != reason:
            logger.warning("no copies: shard=%s reason=%s", shard.id, reason)
        self.refused[shard.id] = reason
        return False

    async def _unfit(self, leader: Member, member: Member) -> str:
        """Why the member could not follow an external leader; empty where it can. Raises EngineError."""
        if leader.address.tls != member.address.tls:
            speaks, other = ("TLS", "does not") if leader.address.tls else ("no TLS", "does")
            return f"the server at {leader.address} speaks {speaks}, and that of {member.node} {other}"
        if await self._context.access.unfenceable(leader):
            return (
                f"{leader.node} at {leader.address} lets nobody make users, and a copy follows as one: allow it there "
                f"by: {FENCING_RIGHTS}"
            )
        found = await unreadable(self._context.access, [(leader, member)])
        if found:
            return found[leader, member]
        try:
            there, here = await self._databases(leader), await self._databases(member)
        except EngineDenied as error:
            return f"{leader.node} at {leader.address} does not say how many databases it has ({error})"
        if there > here:
            return (
                f"{leader.node} at {leader.address} has {there} databases, and a copy {here}: "
                f"set `databases {here}` in its configuration, and restart it"
            )
        return ""

    async def _databases(self, member: Member) -> int:
        engine = await self._context.access.administer(member)
        try:
            return await engine.databases()
        finally:
            await engine.close()
