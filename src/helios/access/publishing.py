"""The users in the store: written from the settings, followed by every process that lets people in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from helios.errors import Conflict
from helios.model.users import User
from helios.ports.following import followed
from helios.ports.records import USERS, UsersRecord, put_record, read_record
from helios.ports.store import Compare, Store

if TYPE_CHECKING:  # an agent writes users and lets nobody in: it need not know what they may do
    from helios.access.authenticator import Authenticator

logger = logging.getLogger(__name__)


async def stored_users(store: Store) -> tuple[User, ...] | None:
    """The users that the processes of a cluster go by; None where none have ever been published."""
    record = await read_record(store, UsersRecord, USERS)
    return None if record is None else record.value.users


async def publish_users(store: Store, users: Sequence[User]) -> bool:
    """Make these the users of all processes, at once; whether that changed anything. Raises StoreError."""
    wanted = UsersRecord(tuple(users))
    while True:
        record = await read_record(store, UsersRecord, USERS)
        if record is not None and record.value == wanted:
            return False
        try:
            await store.commit(
                [put_record(USERS, wanted)], compares=[Compare(USERS, 0 if record is None else record.version)]
            )
        except Conflict:
            continue
        logger.info("users published: users=%d", len(wanted.users))
        return True


@asynccontextmanager
async def following_users(store: Store, authenticator: Authenticator) -> AsyncIterator[None]:
    """Keep the authenticator's users those of the store, from before the block begins. Raises StoreError at its begin.

    While the store is away, the last users that were known stay.
    """
    authenticator.apply(await stored_users(store) or ())
    task = asyncio.create_task(_follow(store, authenticator), name="users")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _follow(store: Store, authenticator: Authenticator) -> None:
    async with aclosing(followed(store, UsersRecord, USERS)) as records:
        async for record in records:
            if {user.name: user for user in record.users} != authenticator.users:
                authenticator.apply(record.users)
