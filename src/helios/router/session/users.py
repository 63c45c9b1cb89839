"""Who a session is at the members: an ACL user of its own, that whoever forces the session off removes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable
from typing import Protocol

from helios.errors import EngineDenied, HeliosError
from helios.model.topology import Member, NodeKind, Topology
from helios.ports.engine import SESSION_PREFIX, Connector, UserRole
from helios.router.upstream.connection import Credentials

logger = logging.getLogger(__name__)


class UsersSession(Protocol):
    """The session whose users they are."""

    async def confirm(self) -> int:
        """Return if it has not ended, by the store's word. Raises HeliosError."""

    async def acts_as_default(self, members: Iterable[str]) -> None:
        """Say in the store of which members the router is the default user. Raises HeliosError."""


class MemberUsers:
    """The users of one session, made when they are first needed."""

    def __init__(self, session_id: str, connector: Connector, session: UsersSession) -> None:
        self._name = SESSION_PREFIX + session_id
        self._connector = connector
        self._session = session
        self._topology = Topology(epoch=0)
        self._credentials: dict[str, Credentials | None] = {}
        self._making: dict[str, asyncio.Lock] = {}
        self._as_default: set[str] = set()

    def apply(self, topology: Topology) -> None:
        """Go by these members: one that has left may come back as another server, which knows no user of before."""
        self._topology = topology
        members = {member.id for shard in topology.shards for member in shard.members}
        self._credentials = {name: made for name, made in self._credentials.items() if name in members}

    async def credentials(self, member: Member) -> Credentials | None:
        """The session's user at a member, made if need be; None for an external one that lets nobody make users.

        A user is used only after the session was read again and found alive: whoever forces a session
        off deletes its record first, so either the user is found and removed, or it is never used.
        """
        async with self._making.setdefault(member.id, asyncio.Lock()):
            if member.id not in self._credentials:
                self._credentials[member.id] = await self._made(member)
            return self._credentials[member.id]

    async def _made(self, member: Member) -> Credentials | None:
        made = Credentials(self._name, secrets.token_urlsafe(24))
        engine = await self._connector.open(member)
        try:
            await engine.allow(made.user, made.password, UserRole.ROUTER)
        except EngineDenied:
            node = self._topology.node(member.node)
            if node is None or node.kind is not NodeKind.EXTERNAL:
                raise
            # Nobody can force the default user off, and whoever fences this member must know that before we are there.
            self._as_default.add(member.id)
            await self._session.acts_as_default(self._as_default)
            return None
        finally:
            await engine.close()
        await self._session.confirm()
        return made

    def forget(self, member: Member) -> None:
        """The member has lost the user (it was restarted): it is made anew before the next connection."""
        self._credentials.pop(member.id, None)

    async def remove(self) -> None:
        """Remove the users, as far as the members answer."""
        members = {member.id: member for shard in self._topology.shards for member in shard.members}
        users = [self._remove(members[name]) for name, made in self._credentials.items() if made and name in members]
        await asyncio.gather(*users)

    async def _remove(self, member: Member) -> None:
        try:
            engine = await self._connector.open(member)
            try:
                await engine.force_off(self._name)
            finally:
                await engine.close()
        except HeliosError as error:
            logger.info("the session's user was left on %s: %s", member.id, error)
