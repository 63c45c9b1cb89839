"""The users in the store: written from the settings, followed by every process that lets people in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from helios.access.gate import Gate
from helios.errors import Conflict, StoreError, WatchLost
from helios.model.codec import decode
from helios.model.users import User
from helios.ports.store import Compare, Store
from helios.stores.records import USERS, UsersRecord, put_record, read_record

_log = logging.getLogger(__name__)
_RETRY_S = 0.2


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
        _log.info("users published: users=%d", len(wanted.users))
        return True


@asynccontextmanager
async def following_users(store: Store, gate: Gate) -> AsyncIterator[None]:
    """Keep the gate's users those of the store, from before the block begins. Raises StoreError at its begin.

    While the store is away, the last users that were known stay.
    """
    revision = await _read(store, gate)
    task = asyncio.create_task(_follow(store, gate, revision), name="users")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _read(store: Store, gate: Gate) -> int:
    snapshot = await store.list(USERS)
    value = next((entry.value for entry in snapshot.entries if entry.key == USERS), None)
    _apply(gate, value)
    return snapshot.revision


def _apply(gate: Gate, value: bytes | None) -> None:
    users = () if value is None else decode(UsersRecord, value).users
    if {user.name: user for user in users} != gate.users:
        gate.apply(users)


async def _follow(store: Store, gate: Gate, revision: int) -> None:
    gap = False  # whether changes were missed
    while True:
        try:
            if gap:
                revision, gap = await _read(store, gate), False
            async with aclosing(store.watch(USERS, revision)) as watch:
                async for events in watch:
                    mine = [event for event in events if event.key == USERS]
                    revision = events[-1].version
                    if mine:
                        _apply(gate, mine[-1].value)
        except WatchLost:
            gap = True
        except StoreError as fault:
            _log.warning("the users cannot be followed: %s", fault)
        await asyncio.sleep(_RETRY_S)
