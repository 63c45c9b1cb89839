"""How a coordinator gets at the data servers: as a user of its term, after ending its predecessors' users."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from helios.control.rounds import Quorum, Standing
from helios.coordinator.kept_engines import KeptEngines
from helios.coordinator.publisher import Publisher
from helios.errors import EngineDenied, EngineError, EngineUnreachable, NotFound
from helios.model.topology import Member, Shard
from helios.ports.engine import (
    FOLLOWER_PREFIX,
    MOVER_PREFIX,
    SESSION_PREFIXES,
    Connector,
    Engine,
    Replication,
    UserRole,
)
from helios.ports.records import DEPARTED, put_record

_MAJORITY_S = 3.0
_ROUND_S = 0.2
OUR_PREFIXES = (MOVER_PREFIX, FOLLOWER_PREFIX, *SESSION_PREFIXES.values())


@dataclass(frozen=True, slots=True)
class Identity:
    """An ACL user for one piece of work."""

    user: str
    password: str


# What whoever runs an external server without a password for its default user types there, to let Helios fence it.
FENCING_RIGHTS = "ACL SETUSER default +acl|users +acl|setuser +acl|deluser +client|kill"


class Access:
    """Opens engines for one term.

    A user is made first, then the term is confirmed, and only then is the user used: a coordinator
    that has been replaced in between finds out here or has its user ended by its successor. Each piece
    of work has a user of its own, and whoever opens a server ends the users of work that is over: what
    such work had sent and not seen answered can no longer run behind its successor's back.
    """

    def __init__(self, connector: Connector, publisher: Publisher) -> None:
        self._connector = connector
        self._publisher = publisher
        self._count = itertools.count(1)
        self.live: set[str] = set()  # users of work that is going on
        self.kept = KeptEngines(self.administer)  # for whoever looks every few seconds; the watch lets go of them

    @contextmanager
    def identity(self) -> Iterator[Identity]:
        """A user for the work in this context."""
        user = f"{MOVER_PREFIX}{self._publisher.term}-{next(self._count)}"
        self.live.add(user)
        try:
            yield Identity(user, secrets.token_hex(24))
        finally:
            self.live.discard(user)

    def leader(self, shard_id: str) -> Member:
        """The member that holds the shard's keys now; raises NotFound."""
        shard = self._publisher.topology.shard(shard_id)
        if shard is None:
            raise NotFound(f"shard {shard_id} is not in the topology")
        return shard.leading

    async def administer(self, member: Member) -> Engine:
        """An engine with the member's own administrator."""
        return await self._connector.open(member)

    async def open(self, member: Member, identity: Identity, role: UserRole = UserRole.MOVER) -> Engine:
        """An engine to move keys with, or for another role, whose rights end with this coordinator's term at most.

        Raises EngineUnreachable or Replaced; EngineDenied where a server lets nobody make users: what this coordinator
        had sent there could not be stopped by its successor, and would overwrite what clients have written since.
        """
        administrator = await self.administer(member)
        if self._publisher.topology.node(member.node) is None:
            # It may never be taken in, and is to be left without our users then, by whoever coordinates.
            await self._publisher.write([put_record(DEPARTED + member.id, member)])
        try:
            await self.end_users(administrator)
            await administrator.allow(identity.user, identity.password, role)
        except EngineDenied as error:
            raise EngineDenied(_advice(member, error)) from error
        finally:
            await administrator.close()
        await self._publisher.confirm()
        return await self._connector.open(member, user=identity.user, password=identity.password)

    async def open_source(self, shard_id: str, identity: Identity) -> Engine:
        """The same to read the keys of a shard at its leader, and to delete those that it does not own any more.

        Where nobody can make users it is the server's own user. Whatever that does late does no harm there: no key
        ever moves to such a server, so that what has left it stays away. An external leader that was restarted may have
        lost what copies have, and is refused: the engine is of one run, which has led in its term as long as it lasts.
        Raises EngineUnreachable, NotFound, Replaced.
        """
        member = self.leader(shard_id)
        try:
            engine = await self.open(member, identity)
        except EngineDenied:
            await self._publisher.confirm()
            engine = await self.administer(member)
        try:
            await self._check_term(shard_id, engine)
        except EngineError:
            await engine.close()
            raise
        return engine

    async def _check_term(self, shard_id: str, engine: Engine) -> None:
        """Raise EngineUnreachable where the server does not lead the shard in its term, if that has one."""
        shard = self._publisher.topology.shard(shard_id)
        if shard is not None and not Quorum.of(shard).alone and not _leads(await engine.replication(), shard):
            raise EngineUnreachable(f"{shard.leader} does not lead {shard_id} any more: it was restarted")

    async def on_majority(self, shard_id: str, engine: Engine) -> None:
        """Return when a majority of the shard's members has what its leader, `engine`, has executed.

        At once where it is its only one. Raises EngineError where the server does not lead the shard any more.
        """
        shard = self._publisher.topology.shard(shard_id)
        if shard is None or Quorum.of(shard).alone:
            return
        reached = (await engine.replication()).offset
        try:
            async with asyncio.timeout(_MAJORITY_S):
                while not await _has_majority(engine, shard, reached):
                    pass
        except TimeoutError:
            raise EngineUnreachable(
                f"no majority of the members of {shard_id} has followed its leader within {_MAJORITY_S:g} s"
            ) from None

    async def unfenceable(self, member: Member) -> str:
        """Why nobody could be forced off a member, and what would help; empty where that is possible.

        Finds out by making a user and ending it. Raises EngineUnreachable.
        """
        administrator = await self.administer(member)
        try:
            with self.identity() as identity:
                await administrator.users()
                await administrator.allow(identity.user, identity.password, UserRole.MOVER)
                await administrator.force_off(identity.user)
        except EngineDenied as error:
            return _advice(member, error)
        finally:
            await administrator.close()
        return ""

    async def end_users(self, administrator: Engine) -> int:
        """End the users of predecessors and of own work that is over; how many there were."""
        over = [user for user in await administrator.users() if user.startswith(MOVER_PREFIX) and user not in self.live]
        if over:
            await self._publisher.confirm()
        for user in over:
            await administrator.force_off(user)
        return len(over)


async def _has_majority(engine: Engine, shard: Shard, reached: int) -> bool:
    """Whether a majority of each membership has come so far; waits a moment for those that have not."""
    quorum = Quorum.of(shard)
    await engine.round(quorum.wait_for(frozenset()), _ROUND_S)
    said = await engine.replication()
    if not _leads(said, shard):
        raise EngineUnreachable(f"{shard.leader} does not lead {shard.id} any more")
    acknowledged = {follower.address: follower.offset for follower in said.followers if follower.online}
    return quorum.met_by(Standing(said.history, reached, acknowledged).followers)


def _leads(said: Replication, shard: Shard) -> bool:
    """Whether the shard's leader leads in its term still."""
    return said.leads and said.history == shard.lineage[0].history


def _advice(member: Member, error: EngineDenied) -> str:
    """What a server does not allow, and how its owner allows it."""
    return (
        f"no key can move to {member.node} at {member.address}, since nobody can be forced off there ({error}); "
        f"allow it on that server by: {FENCING_RIGHTS}"
    )
