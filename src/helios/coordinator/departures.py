"""Servers outside of the cluster keep none of its users: external ones that have left, and those not taken in."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress

from helios.coordinator.access import OUR_PREFIXES, Access
from helios.coordinator.publisher import Publisher
from helios.errors import Conflict, EngineDenied, EngineError
from helios.model.topology import Member
from helios.ports.clock import Clock
from helios.ports.following import updates
from helios.ports.records import DEPARTED, SESSIONS, SessionRecord, list_records
from helios.ports.store import Compare, Delete

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_GIVE_UP_S = 600.0


class Departures:
    """Ends what is left of us on the servers that the store names for it.

    A router that has not heard of a departure yet might make itself a user once more. So it is looked again until every
    session has acknowledged an epoch without the server, and nothing of ours is found there any more.
    """

    def __init__(self, publisher: Publisher, access: Access, clock: Clock) -> None:
        self._publisher = publisher
        self._access = access
        self._clock = clock
        self._since: dict[str, tuple[int, float]] = {}  # by member: the epoch and the time of the first look

    async def run(self) -> None:
        """For ever. Raises StoreError."""
        async with aclosing(updates(self._publisher.store, DEPARTED)) as following:
            async for _ in following:
                left = await self.look()
                while left:
                    await asyncio.sleep(_LOOK_EVERY_S)
                    left = await self.look()

    async def look(self) -> bool:
        """See to each of the servers once; whether there were any. Raises StoreError."""
        records = await list_records(self._publisher.store, Member, DEPARTED)
        for record in records:
            if await self._is_over(record.value):
                self._since.pop(record.value.id, None)
                with suppress(Conflict):  # Work that has begun meanwhile makes itself a user there.
                    await self._publisher.write([Delete(record.key)], [Compare(record.key, record.version)])
        return bool(records)

    async def _is_over(self, member: Member) -> bool:
        topology, now_s = self._publisher.topology, self._clock.monotonic()
        if member.address in {other.address for shard in topology.shards for other in shard.members}:
            return True  # It has joined again, and is looked at as one of the cluster's servers.
        if self._access.live:
            self._since.pop(member.id, None)
            return False  # It may have users there, or be about to make some.
        epoch, since_s = self._since.setdefault(member.id, (topology.epoch, now_s))
        if now_s - since_s > _GIVE_UP_S:
            logger.warning(
                "users left on a server: node=%s address=%s remedy=ACL DELUSER those of ACL USERS with %s",
                member.node,
                member.address,
                " or ".join(OUR_PREFIXES),
            )
            return True
        return await self._is_clean(member) and await self._known_to_all(epoch)

    async def _is_clean(self, member: Member) -> bool:
        """Whether the server had no user of ours any more; those that it had, and that nobody uses, are ended."""
        try:
            engine = await self._access.administer(member)
            try:
                users = {user for user in await engine.users() if user.startswith(OUR_PREFIXES)}
                if users:
                    await self._publisher.confirm()
                for user in users - self._access.live:
                    await engine.force_off(user)
                return not users
            finally:
                await engine.close()
        except EngineDenied:
            return True  # So there never were any.
        except EngineError as error:
            logger.info("users not ended yet: node=%s error=%s", member.node, error)
            return False

    async def _known_to_all(self, epoch: int) -> bool:
        sessions = await list_records(self._publisher.store, SessionRecord, SESSIONS)
        return all(session.value.acked_epoch >= epoch for session in sessions)
