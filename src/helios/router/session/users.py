"""Who a session is at the members: ACL users of its own, that whoever forces the session off removes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable
from typing import Protocol

from helios.errors import EngineDenied, HeliosError
from helios.model.topology import Member, NodeKind, Topology
from helios.ports.engine import SESSION_PREFIXES, Connector, UserRole
from helios.router.upstream.connection import Credentials

logger = logging.getLogger(__name__)
_MADE_AT_ONCE = 8  # of a hundred at once none would be made in time by a busy machine


class UsersSession(Protocol):
    """The session whose users they are."""

    async def confirm(self) -> int:
        """Return if it has not ended, by the store's word. Raises HeliosError."""

    async def acts_as_default(self, members: Iterable[str]) -> None:
        """Say in the store of which members the router is the default user. Raises HeliosError."""


class MemberUsers:
    """The users of one session, made when they are first needed."""

    def __init__(self, session_id: str, connector: Connector, session: UsersSession) -> None:
        self._session_id = session_id
        self._connector = connector
        self._session = session
        self._topology = Topology(epoch=0)
        self._credentials: dict[tuple[str, UserRole], Credentials | None] = {}  # by member and role
        self._making: dict[tuple[str, UserRole], asyncio.Lock] = {}
        self._turns = asyncio.Semaphore(_MADE_AT_ONCE)
        self._as_default: set[str] = set()
        self._ahead: set[asyncio.Task[None]] = set()

    def apply(self, topology: Topology) -> None:
        """Use these members: one that has left may come back as another server, which knows no earlier user."""
        self._topology = topology
        members = {member.id for shard in topology.shards for member in shard.members}
        self._credentials = {of: made for of, made in self._credentials.items() if of[0] in members}
        for shard in topology.shards:
            if shard.id in topology.fenced_shards:
                self._make_ahead([member for member in shard.members if member.id != shard.leader])

    def _make_ahead(self, members: Iterable[Member]) -> None:
        """Have users at servers of which one is about to lead: clients wait for it."""
        for member in members:
            node, of = self._topology.node(member.node), (member.id, UserRole.ROUTER)
            if of not in self._credentials and node is not None and node.kind is NodeKind.SUPERVISED:
                task = asyncio.create_task(self._made_ahead(member))
                self._ahead.add(task)
                task.add_done_callback(self._ahead.discard)

    async def _made_ahead(self, member: Member) -> None:
        try:
            await self.credentials(member, UserRole.ROUTER)
        except HeliosError as error:
            logger.info("no user made at %s yet: %s", member.id, error)

    async def credentials(self, member: Member, role: UserRole) -> Credentials | None:
        """The session's user in that role at a member, made if need be; None where an external one allows none.

        A user is used only after the session was read again and found alive: whoever forces a session
        off deletes its record first, so either the user is found and removed, or it is never used.
        """
        of = member.id, role
        async with self._making.setdefault(of, asyncio.Lock()):
            if of not in self._credentials:
                async with self._turns:
                    self._credentials[of] = await self._made(member, role)
            return self._credentials[of]

    async def _made(self, member: Member, role: UserRole) -> Credentials | None:
        made = Credentials(SESSION_PREFIXES[role] + self._session_id, secrets.token_urlsafe(24))
        engine = await self._connector.open(member)
        try:
            await engine.allow(made.user, made.password, role)
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
        """The member has lost the users (it was restarted): each is made again before the next connection."""
        for role in SESSION_PREFIXES:
            self._credentials.pop((member.id, role), None)

    async def remove(self) -> None:
        """Remove the users, as far as the members answer."""
        for task in self._ahead:
            task.cancel()
        members = {member.id: member for shard in self._topology.shards for member in shard.members}
        users = [
            self._remove(members[name], made.user)
            for (name, _), made in self._credentials.items()
            if made and name in members
        ]
        await asyncio.gather(*users)

    async def _remove(self, member: Member, user: str) -> None:
        try:
            engine = await self._connector.open(member)
            try:
                await engine.force_off(user)
            finally:
                await engine.close()
        except HeliosError as error:
            logger.info("the session's user %s was left on %s: %s", user, member.id, error)
